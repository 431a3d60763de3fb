//! The client side of TLS, as the `tls` of an endpoint asks for it. One provider (aws-lc-rs) for every connection.

use drover_model::error::codes;
use drover_model::migration::{Tls, TlsMode};
use drover_model::{Error, Fault, Result, Retry};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;

fn unreadable(path: &std::path::Path, error: impl std::error::Error) -> Error {
    let what = format!("cannot read the TLS material in {}", path.display());
    Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, what).cause(error)
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(path).map_err(|e| unreadable(path, e))?;
    rustls_pemfile::certs(&mut &bytes[..]).collect::<std::io::Result<_>>().map_err(|e| unreadable(path, e))
}

fn private_key(path: &std::path::Path) -> Result<PrivateKeyDer<'static>> {
    let bytes = std::fs::read(path).map_err(|e| unreadable(path, e))?;
    let key = rustls_pemfile::private_key(&mut &bytes[..]).map_err(|e| unreadable(path, e))?;
    key.ok_or_else(|| unreadable(path, std::io::Error::other("there is no private key in it")))
}

/// The client side of TLS for these settings.
pub fn client_config(tls: &Tls) -> Result<rustls::ClientConfig> {
    let wrong = |e: rustls::Error| {
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, "the TLS material cannot be used").cause(e)
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca {
        Some(ca) => {
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(wrong)?;
            }
        }
        // Some of the system's certificates may be odd; the others serve.
        None if tls.mode != TlsMode::Require => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        None => {}
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = match tls.mode {
        TlsMode::VerifyFull => builder.with_root_certificates(roots),
        mode => {
            let inner = (mode == TlsMode::VerifyCa)
                .then(|| {
                    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                        .build()
                        .map_err(|e| {
                            Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, "verify-ca needs a usable ca")
                                .cause(e)
                        })
                })
                .transpose()?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NoName { inner, provider }))
        }
    };
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(wrong),
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Verifies the chain but not the name (`verify-ca`), or, where the operator said `unverified = true`, nothing.
#[derive(Debug)]
struct NoName {
    inner: Option<Arc<rustls::client::WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for NoName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
