//! gRPC's health checking protocol: a daemon that answers is well.

use protos::grpc::grpc::health::v1 as wire;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use wire::health_check_response::ServingStatus;

/// grpc.health.v1.Health, of the daemon as a whole.
pub(crate) struct Health;

fn check(request: &wire::HealthCheckRequest) -> Option<wire::HealthCheckResponse> {
    let status = ServingStatus::Serving.into();
    request.service.is_empty().then_some(wire::HealthCheckResponse { status })
}

#[tonic::async_trait]
impl wire::health_server::Health for Health {
    async fn check(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckResponse>, Status> {
        let answer =
            check(request.get_ref()).ok_or_else(|| Status::not_found("unknown service"))?;
        Ok(Response::new(answer))
    }

    async fn watch(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<BoxStream<wire::HealthCheckResponse>>, Status> {
        let unknown = || wire::HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let now = check(request.get_ref()).unwrap_or_else(unknown);
        // The status does not change while the daemon runs, so the stream stays
        // open behind its first message, as the protocol has it.
        let stream = tokio_stream::StreamExt::chain(
            tokio_stream::once(Ok(now)),
            tokio_stream::pending::<Result<_, Status>>(),
        );
        Ok(Response::new(Box::pin(stream)))
    }
}
