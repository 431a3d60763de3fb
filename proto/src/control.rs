//! The coordinator as a worker sees it: a trait with two implementations, the service itself (in one process) and the gRPC
//! client here.

use crate::order::{Description, Outcome};
use crate::v1;
use drover_model::{Error, Fault, Retry, error::codes};
use std::sync::Arc;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// What a worker asks of the coordinator.
#[tonic::async_trait]
pub trait Control: Send + Sync {
    /// See `Poll` in control.proto.
    async fn poll(&self, request: v1::PollRequest) -> Result<v1::PollReply, Error>;
    /// See `Report`.
    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply, Error>;
    /// What a worker needs to know of a migration. In one process it is shared with the coordinator.
    async fn describe(&self, migration: String) -> Result<Arc<Description>, Error>;
    /// Reports an outcome as [`Control::report`] does; says whether it was accepted. In one process without writing it down on the way.
    async fn outcome(&self, worker: &str, lease: &v1::Lease, outcome: &Outcome) -> Result<bool, Error> {
        let body = serde_json::to_vec(outcome).map_err(|e| Error::internal("an outcome cannot be written").cause(e))?;
        let request = v1::ReportRequest { worker: worker.into(), lease: Some(lease.clone()), outcome: body.into() };
        Ok(self.report(request).await?.accepted)
    }
}

/// The coordinator over gRPC.
#[derive(Clone)]
pub struct Remote {
    client: Client,
}

/// The generated client.
pub type Client = v1::control_client::ControlClient<InterceptedService<Channel, Bearer>>;

/// Brings the token along, if there is one.
#[derive(Clone)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Catalogues of many thousand tables must pass.
pub const MAX_MESSAGE: usize = 256 << 20;

impl Remote {
    /// Connects lazily: the coordinator may come later, and may go and come back. `url` is `http://HOST:PORT` or `unix://PATH`.
    pub fn lazy(url: &str) -> Result<Self, Error> {
        Self::protected(url, None, None)
    }

    /// The same, `https://HOST:PORT` as well: `ca` are the PEM certificates that sign the coordinator's (else the system's decide), `token` is what
    /// it asks for.
    ///
    /// # Errors
    /// CONFIGURATION: the address is none, certificates or token cannot be used, or the token would travel unencrypted over a network.
    pub fn protected(url: &str, ca: Option<Vec<u8>>, token: Option<String>) -> Result<Self, Error> {
        let wrong = |text: String| Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text);
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| {
            Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, format!("{url} is no coordinator's address"))
                .cause(e)
                .remedy("give it as http://HOST:PORT or https://HOST:PORT")
        })?;
        let mut endpoint = endpoint.connect_timeout(std::time::Duration::from_secs(5)).tcp_nodelay(true);
        if url.starts_with("https:") {
            let tls = match ca {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|e| wrong("the certificates for the coordinator cannot be used".into()).cause(e))?;
        } else if token.is_some() && !is_near(url) {
            return Err(wrong(format!("the token would travel readable for others to {url}"))
                .remedy("use https://, and start the coordinator with --tls-cert and --tls-key"));
        }
        let token = token.map(|token| format!("Bearer {token}").parse()).transpose();
        let token: Option<AsciiMetadataValue> =
            token.map_err(|_| wrong("the token has characters that cannot stand in a header".into()))?;
        let service = InterceptedService::new(endpoint.connect_lazy(), Bearer(token));
        let client = v1::control_client::ControlClient::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Remote { client })
    }

    /// The generated client, for the operator's calls.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Whether what is sent there does not leave this machine.
fn is_near(url: &str) -> bool {
    if url.starts_with("unix:") {
        return true;
    }
    let host = url.parse::<tonic::transport::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// Header under which a typed error rides along as JSON.
const ERROR_HEADER: &str = "drover-error-bin";

/// A typed error as a gRPC status: few codes for machines and proxies, the error itself beside it.
pub fn to_status(error: &Error) -> tonic::Status {
    let code = match (error.fault, error.retry) {
        (Fault::User, _) => tonic::Code::InvalidArgument,
        (_, Retry::Connection) => tonic::Code::Unavailable,
        (_, Retry::Other) => tonic::Code::Aborted,
        _ => tonic::Code::Internal,
    };
    let mut status = tonic::Status::new(code, error.message.clone());
    if let Ok(json) = serde_json::to_vec(error) {
        let value = tonic::metadata::BinaryMetadataValue::from_bytes(&json);
        status.metadata_mut().insert_bin(ERROR_HEADER, value);
    }
    status
}

/// The reverse; an unknown error becomes a connection error when the transport says so, else an internal one.
pub fn from_status(status: &tonic::Status) -> Error {
    if let Some(value) = status.metadata().get_bin(ERROR_HEADER)
        && let Ok(json) = value.to_bytes()
        && let Ok(error) = serde_json::from_slice::<Error>(&json)
    {
        return error;
    }
    if status.code() == tonic::Code::Unauthenticated {
        return Error::new(codes::PERMISSION, Fault::User, Retry::Never, "the coordinator refuses us")
            .cause(status)
            .remedy("set DROVER_TOKEN, or give --token-file, to the token that the coordinator was started with");
    }
    let retry = match status.code() {
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::DeadlineExceeded | tonic::Code::Unknown => {
            Retry::Connection
        }
        // Not an answer, but what the line made of one: not a coordinator there, or one that is (or is not) encrypted.
        _ if std::error::Error::source(status).is_some() => Retry::Connection,
        _ => Retry::Never,
    };
    Error::new(codes::CONNECTION, Fault::Drover, retry, "the coordinator does not answer")
        .cause(status)
        .remedy("see that it runs, and that --coordinator names it as it listens: http:// or https://, host and port")
}

/// The error of what came from the coordinator in a form that this version does not know.
pub fn unreadable(what: &str, cause: serde_json::Error) -> Error {
    Error::new(codes::INTERNAL, Fault::Drover, Retry::Other, format!("{what} from the coordinator cannot be read"))
        .cause(cause)
        .remedy("run the same version of drover everywhere")
}

#[tonic::async_trait]
impl Control for Remote {
    async fn poll(&self, request: v1::PollRequest) -> Result<v1::PollReply, Error> {
        self.client.clone().poll(request).await.map(|r| r.into_inner()).map_err(|s| from_status(&s))
    }
    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply, Error> {
        self.client.clone().report(request).await.map(|r| r.into_inner()).map_err(|s| from_status(&s))
    }
    async fn describe(&self, migration: String) -> Result<Arc<Description>, Error> {
        let reply = self.client.clone().describe(v1::DescribeRequest { migration }).await;
        let json = reply.map(|r| r.into_inner().json).map_err(|s| from_status(&s))?;
        let description = serde_json::from_slice(&json).map_err(|e| unreadable("a description", e))?;
        Ok(Arc::new(description))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_goes_over_no_network_unencrypted() {
        for (url, token, fits) in [
            ("http://127.0.0.1:7440", true, true),
            ("http://[::1]:7440", true, true),
            ("http://localhost:7440", true, true),
            ("unix:///run/x", true, true),
            ("http://192.0.2.1:7440", true, false),
            ("http://coordinator:7440", true, false),
            ("http://coordinator:7440", false, true),
            ("https://coordinator:7440", true, true),
            ("coordinator", true, false),
        ] {
            let made = Remote::protected(url, None, token.then(|| "secret-secret".to_owned()));
            assert_eq!(made.is_ok(), fits, "{url} {token}");
        }
        assert!(Remote::protected("http://127.0.0.1:1", None, Some("a\nb".into())).is_err());
    }
}
