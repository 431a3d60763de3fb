//! Who may reach the coordinator. Off the loopback interface it listens only encrypted, and only to those who know its token: whoever reaches it
//! rules every migration. On the loopback interface both are a choice.

use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Shorter ones could be guessed.
const LEAST: usize = 16;

/// A certificate with its key, as PEM.
#[derive(Clone)]
struct Identity {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What a caller must bring, and how the line is protected.
#[derive(Clone, Default)]
pub struct Access {
    identity: Option<Arc<Identity>>,
    token: Option<Arc<str>>,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
}

impl Access {
    /// No encryption, no token: for the loopback interface.
    pub fn open() -> Access {
        Access::default()
    }

    /// With this certificate (its chain behind it) and key, PEM files.
    ///
    /// # Errors
    /// They cannot be read, or do not fit each other.
    pub fn with_tls(self, cert: &Path, key: &Path) -> Result<Access> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|e| wrong(format!("cannot read the TLS material in {}", path.display())).cause(e))
        };
        let identity = Identity { cert: read(cert)?, key: read(key)? };
        identity.config()?;
        Ok(Access { identity: Some(Arc::new(identity)), ..self })
    }

    /// With a token that every caller has to bring.
    ///
    /// # Errors
    /// It is too short, or cannot stand in a header.
    pub fn with_token(self, token: &str) -> Result<Access> {
        if token.len() < LEAST || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong(format!(
                "the token must have {LEAST} or more printable ASCII characters, without spaces"
            ))
            .remedy("make one, for example by `openssl rand -hex 32`"));
        }
        Ok(Access { token: Some(token.into()), ..self })
    }

    /// Whether it may listen on this address.
    ///
    /// # Errors
    /// CONFIGURATION (exit status 2): off the loopback interface without TLS or without a token.
    pub fn permit(&self, address: SocketAddr) -> Result<()> {
        let missing = match (&self.identity, &self.token) {
            _ if address.ip().is_loopback() => return Ok(()),
            (Some(_), Some(_)) => return Ok(()),
            (None, None) => "TLS and a token",
            (None, Some(_)) => "TLS",
            (Some(_), None) => "a token",
        };
        Err(wrong(format!(
            "the coordinator does not listen on {address} without {missing}: whoever reaches it rules every migration"
        ))
        .remedy("give --tls-cert, --tls-key and DROVER_TOKEN (or --token-file); or listen on 127.0.0.1 or ::1"))
    }

    /// Whether a caller's `authorization` header is right. Takes as long whatever the header is.
    pub(crate) fn admits(&self, header: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else { return true };
        let given = header.and_then(|h| h.strip_prefix(b"Bearer ")).unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(given, token.as_bytes()).is_ok()
    }

    pub(crate) fn grpc(&self) -> Option<tonic::transport::ServerTlsConfig> {
        let identity = self.identity.as_ref()?;
        let pem = tonic::transport::Identity::from_pem(&identity.cert, &identity.key);
        Some(tonic::transport::ServerTlsConfig::new().identity(pem))
    }

    pub(crate) fn http(&self) -> Result<Option<tokio_rustls::TlsAcceptor>> {
        let config = self.identity.as_ref().map(|i| i.config()).transpose()?;
        Ok(config.map(|c| tokio_rustls::TlsAcceptor::from(Arc::new(c))))
    }
}

impl Identity {
    fn config(&self) -> Result<rustls::ServerConfig> {
        let unusable = |e: &dyn std::fmt::Display| wrong(format!("--tls-cert and --tls-key cannot be used: {e}"));
        let chain: Vec<_> =
            rustls_pemfile::certs(&mut &self.cert[..]).collect::<Result<_, _>>().map_err(|e| unusable(&e))?;
        let key = rustls_pemfile::private_key(&mut &self.key[..]).map_err(|e| unusable(&e))?;
        let key = key.ok_or_else(|| unusable(&"there is no private key in --tls-key"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(&e))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| unusable(&e))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_both_are_needed_and_the_token_must_be_the_whole_of_it() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = || Access::open().with_tls(&cert, &key).unwrap();
        let token = "0123456789abcdef";
        let (anywhere, here) = ("192.0.2.1:7440".parse().unwrap(), "[::1]:7440".parse().unwrap());
        let only_token = Access::open().with_token(token).unwrap();
        let both = tls().with_token(token).unwrap();
        for (access, said) in
            [(Access::open(), "TLS and a token"), (only_token, "without TLS"), (tls(), "without a token")]
        {
            let refused = access.permit(anywhere).unwrap_err();
            assert!(refused.message.contains(said) && refused.fault == Fault::User, "{refused}");
            access.permit(here).unwrap();
        }
        both.permit(anywhere).unwrap();
        assert!(both.permit("0.0.0.0:7440".parse().unwrap()).is_ok());
        let bearer = |t: &str| both.admits(Some(format!("Bearer {t}").as_bytes()));
        assert!(bearer(token) && !bearer("0123456789abcdeF") && !bearer("0123456789abcde") && !bearer(""));
        assert!(!both.admits(None) && !both.admits(Some(token.as_bytes())) && Access::open().admits(None));
        for bad in ["short", "with a space in it", "täglich-neu-gewürfelt"] {
            assert!(Access::open().with_token(bad).is_err(), "{bad}");
        }
        assert!(Access::open().with_tls(&key, &cert).is_err(), "the one in place of the other");
        assert!(Access::open().with_tls(&cert, &folder.path().join("none")).is_err());
    }
}
