//! The coordinator as a worker sees it: a trait with two implementations, the service itself (in one process) and the gRPC
//! client here.

use crate::v1;
use drover_model::{Error, Fault, Retry, error::codes};
use tonic::transport::{Channel, Endpoint};

/// What a worker asks of the coordinator.
#[tonic::async_trait]
pub trait Control: Send + Sync {
    /// See `Poll` in control.proto.
    async fn poll(&self, request: v1::PollRequest) -> Result<v1::PollReply, Error>;
    /// See `Report`.
    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply, Error>;
    /// JSON of [`crate::order::Description`].
    async fn describe(&self, migration: String) -> Result<Vec<u8>, Error>;
}

/// The coordinator over gRPC.
#[derive(Clone)]
pub struct Remote {
    client: v1::control_client::ControlClient<Channel>,
}

/// Catalogues of many thousand tables must pass.
pub const MAX_MESSAGE: usize = 256 << 20;

impl Remote {
    /// Connects lazily: the coordinator may come later, and may go and come back. `url` is `http://HOST:PORT` or `unix://PATH`.
    pub fn lazy(url: &str) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| {
            Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, format!("{url} is no coordinator's address"))
                .cause(e)
                .remedy("give it as http://HOST:PORT")
        })?;
        let endpoint = endpoint.connect_timeout(std::time::Duration::from_secs(5)).tcp_nodelay(true);
        let client = v1::control_client::ControlClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Remote { client })
    }

    /// The generated client, for the operator's calls.
    pub fn client(&self) -> v1::control_client::ControlClient<Channel> {
        self.client.clone()
    }
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
    let retry = match status.code() {
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::DeadlineExceeded | tonic::Code::Unknown => {
            Retry::Connection
        }
        _ => Retry::Never,
    };
    Error::new(codes::CONNECTION, Fault::Drover, retry, "the coordinator does not answer").cause(status)
}

#[tonic::async_trait]
impl Control for Remote {
    async fn poll(&self, request: v1::PollRequest) -> Result<v1::PollReply, Error> {
        self.client.clone().poll(request).await.map(|r| r.into_inner()).map_err(|s| from_status(&s))
    }
    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply, Error> {
        self.client.clone().report(request).await.map(|r| r.into_inner()).map_err(|s| from_status(&s))
    }
    async fn describe(&self, migration: String) -> Result<Vec<u8>, Error> {
        let reply = self.client.clone().describe(v1::DescribeRequest { migration }).await;
        reply.map(|r| r.into_inner().json.to_vec()).map_err(|s| from_status(&s))
    }
}
