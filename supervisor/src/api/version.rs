//! The Version service.

use protos::grpc::containerd::services::version::v1 as wire;
use tonic::{Request, Response, Status};

/// containerd.services.version.v1.Version.
pub(crate) struct Version;

#[tonic::async_trait]
impl wire::version_server::Version for Version {
    async fn version(&self, _: Request<()>) -> Result<Response<wire::VersionResponse>, Status> {
        Ok(Response::new(wire::VersionResponse {
            version: format!("v{}", env!("CARGO_PKG_VERSION")),
            revision: option_env!("SUPERVISOR_REVISION").unwrap_or_default().to_owned(),
        }))
    }
}
