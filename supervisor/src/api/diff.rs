//! containerd.services.diff.v1.Diff: layers applied to mounts. Making layers is not offered yet.

use installer::budget::Budget;
use protos::grpc::containerd::services::diff::v1 as wire;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{Unfinished, blocking, descriptor, mounts, wire_descriptor};
use crate::content::{Descriptor, Store};
use crate::metadata::Labels;
use crate::transfer;

/// What a layer is once applied, uncompressed.
const UNCOMPRESSED: &str = "application/vnd.oci.image.layer.v1.tar";

/// The service.
pub(crate) struct Diff {
    store: Store,
}

impl Diff {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

#[tonic::async_trait]
impl wire::diff_server::Diff for Diff {
    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let layer = descriptor(request.diff)?;
        let (mounts, sync) = (mounts(request.mounts), request.sync_fs);
        let store = self.store.clone();
        let digest = layer.digest;
        let (_, blob) = blocking(move || store.open_blob(&namespace, &digest)).await?;
        let budget = Budget::default();
        let unfinished = Unfinished::new(&budget);
        let apply = move || transfer::apply(blob, &mounts, sync, &budget);
        let applied = tokio::task::spawn_blocking(apply)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(refuse)?;
        drop(unfinished);
        let applied = Descriptor {
            media_type: UNCOMPRESSED.to_owned(),
            digest: applied.diff_id,
            size_bytes: applied.size_bytes,
            annotations: Labels::new(),
        };
        Ok(Response::new(wire::ApplyResponse { applied: Some(wire_descriptor(applied)) }))
    }
}
