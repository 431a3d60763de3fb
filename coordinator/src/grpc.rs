//! The coordinator over gRPC: a thin layer over [`Coordinator`]. Typed errors ride along with the status.

use crate::access::Access;
use crate::service::Coordinator;
use drover_model::error::codes;
use drover_model::{Error, Fault, Retry};
use drover_proto::control::{Control, MAX_MESSAGE, to_status};
use drover_proto::v1;
use drover_proto::v1::control_server::{Control as Service, ControlServer};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

struct Grpc(Coordinator);

fn service(coordinator: Coordinator) -> ControlServer<Grpc> {
    ControlServer::new(Grpc(coordinator)).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn failed(e: tonic::transport::Error) -> Error {
    Error::internal("the coordinator's gRPC server failed").cause(e)
}

pub(crate) async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    access: Access,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = access.grpc() {
        server = server.tls_config(tls).map_err(failed)?;
    }
    let admit = move |request: Request<()>| {
        let header = request.metadata().get("authorization").map(|v| v.as_bytes());
        if access.admits(header) { Ok(request) } else { Err(Status::unauthenticated("the token is missing or wrong")) }
    };
    server
        .add_service(InterceptedService::new(service(coordinator), admit))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
        .map_err(failed)
}

pub(crate) async fn serve_unix(
    coordinator: Coordinator,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    tonic::transport::Server::builder()
        .add_service(service(coordinator))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
        .map_err(failed)
}

fn reply(value: &Value) -> Response<v1::JsonReply> {
    Response::new(v1::JsonReply { json: value.to_string().into_bytes().into() })
}

fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|e| {
        let text = format!("{what} cannot be understood");
        to_status(
            &Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .cause(e)
                .remedy("use the same version of drover on both sides"),
        )
    })
}

#[tonic::async_trait]
impl Service for Grpc {
    async fn poll(&self, request: Request<v1::PollRequest>) -> Result<Response<v1::PollReply>, Status> {
        self.0.poll(request.into_inner()).await.map(Response::new).map_err(|e| to_status(&e))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, Status> {
        self.0.report(request.into_inner()).await.map(Response::new).map_err(|e| to_status(&e))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::JsonReply>, Status> {
        let description = self.0.describe(request.into_inner().migration).await.map_err(|e| to_status(&e))?;
        let json = serde_json::to_vec(&*description)
            .map_err(|e| to_status(&Error::internal("a description has no JSON form").cause(e)))?;
        Ok(Response::new(v1::JsonReply { json: json.into() }))
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Result<Response<v1::JsonReply>, Status> {
        let request = request.into_inner();
        let migration = read("the migration", &request.migration)?;
        let adopt = match request.adopt.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|e| to_status(&Error::internal("no id of a migration").cause(e)))?),
        };
        self.0.create_with(adopt, migration, request.draft).await.map(|v| reply(&v)).map_err(|e| to_status(&e))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::JsonReply>, Status> {
        Ok(reply(&self.0.list()))
    }

    async fn show(&self, request: Request<v1::NameRequest>) -> Result<Response<v1::JsonReply>, Status> {
        self.0.show(&request.into_inner().name).map(|v| reply(&v)).map_err(|e| to_status(&e))
    }

    async fn act(&self, request: Request<v1::ActRequest>) -> Result<Response<v1::JsonReply>, Status> {
        let request = request.into_inner();
        let argument = match request.argument.is_empty() {
            true => None,
            false => Some(read("the argument", &request.argument)?),
        };
        self.0.act(&request.name, &request.action, argument).await.map(|v| reply(&v)).map_err(|e| to_status(&e))
    }

    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::JsonReply>, Status> {
        let request = request.into_inner();
        self.0.log(&request.name, request.after).await.map(|v| reply(&v)).map_err(|e| to_status(&e))
    }
}
