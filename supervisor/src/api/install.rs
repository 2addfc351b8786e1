//! `supervisor.install.v1.Install`: ours alone, not containerd's.

use installer::Options;
use installer::budget::Budget;
use prost_types::Timestamp;
use protos::grpc::supervisor::install::v1 as wire;
use tonic::{Request, Response, Status};

use super::namespace;
use super::status::refuse;
use super::translate::Unfinished;
use crate::install::Installer;

/// The service.
pub(crate) struct Install {
    installer: Installer,
}

impl Install {
    pub(crate) fn new(installer: Installer) -> Self {
        Self { installer }
    }
}

#[tonic::async_trait]
impl wire::install_server::Install for Install {
    async fn install(
        &self,
        request: Request<wire::InstallRequest>,
    ) -> Result<Response<wire::InstallResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        if request.image.is_empty() {
            return Err(Status::invalid_argument("image is required"));
        }
        let options = Options { replace: request.replace, libs: request.libs };
        let budget = Budget::default();
        let unfinished = Unfinished::new(&budget);
        let installed = self.installer.install(&namespace, &request.image, options, &budget).await;
        drop(unfinished);
        let receipt = installed.map_err(refuse)?;
        Ok(Response::new(wire::InstallResponse { receipt: Some(to_wire(receipt)) }))
    }

    async fn list(
        &self,
        _: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let receipts = self.installer.receipts().await.map_err(refuse)?;
        Ok(Response::new(wire::ListResponse {
            receipts: receipts.into_iter().map(to_wire).collect(),
            path: self.installer.managed().path().to_string_lossy().into_owned(),
        }))
    }

    async fn uninstall(
        &self,
        request: Request<wire::UninstallRequest>,
    ) -> Result<Response<wire::UninstallResponse>, Status> {
        let receipt = self.installer.uninstall(request.into_inner().image).await.map_err(refuse)?;
        Ok(Response::new(wire::UninstallResponse { receipt: Some(to_wire(receipt)) }))
    }

    async fn rollback(
        &self,
        _: Request<wire::RollbackRequest>,
    ) -> Result<Response<wire::RollbackResponse>, Status> {
        let receipts = self.installer.rollback().await.map_err(refuse)?;
        Ok(Response::new(wire::RollbackResponse {
            receipts: receipts.into_iter().map(to_wire).collect(),
        }))
    }
}

fn to_wire(receipt: installer::Receipt) -> wire::Receipt {
    wire::Receipt {
        image: receipt.image,
        digest: receipt.digest,
        installed_at: Some(Timestamp {
            seconds: i64::try_from(receipt.installed_at).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        files: receipt
            .files
            .into_iter()
            .map(|file| wire::File {
                path: file.path,
                digest: file.digest,
                size_bytes: file.size_bytes,
            })
            .collect(),
    }
}
