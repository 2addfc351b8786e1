//! containerd.services.snapshots.v1.Snapshots.

use protos::grpc::containerd::services::snapshots::v1 as wire;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{labels, lease, paths, signed, wire_labels, wire_mounts, wire_time};
use crate::gc::Collector;
use crate::snapshot::{Commit, Info, New, SnapshotError, Snapshotter};

/// Snapshots in one message of a list.
const BATCH: usize = 100;

/// The service.
pub(crate) struct Snapshots {
    snapshotter: Snapshotter,
    collector: Collector,
}

impl Snapshots {
    pub(crate) fn new(snapshotter: Snapshotter, collector: Collector) -> Self {
        Self { snapshotter, collector }
    }

    fn named(&self, name: &str) -> Result<&Snapshotter, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("snapshotter argument missing"));
        }
        if name != self.snapshotter.name() {
            return Err(refuse(SnapshotError::Snapshotter(name.to_owned())));
        }
        Ok(&self.snapshotter)
    }
}

#[tonic::async_trait]
impl wire::snapshots_server::Snapshots for Snapshots {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let (namespace, lease) = (super::namespace(&request)?, lease(&request)?);
        let wire::PrepareSnapshotRequest { snapshotter, key, parent, labels: given } =
            request.into_inner();
        let new = New { key, parent, labels: labels(given), lease };
        let snapshotter = self.named(&snapshotter)?;
        let mounts = snapshotter.prepare(&namespace, new).await.map_err(refuse)?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let (namespace, lease) = (super::namespace(&request)?, lease(&request)?);
        let wire::ViewSnapshotRequest { snapshotter, key, parent, labels: given } =
            request.into_inner();
        let new = New { key, parent, labels: labels(given), lease };
        let snapshotter = self.named(&snapshotter)?;
        let mounts = snapshotter.view(&namespace, new).await.map_err(refuse)?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        let mounts = snapshotter.mounts(&namespace, &request.key).await.map_err(refuse)?;
        Ok(Response::new(wire::MountsResponse { mounts: wire_mounts(mounts) }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespace, lease) = (super::namespace(&request)?, lease(&request)?);
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        let labels = labels(request.labels);
        let commit = Commit { key: request.key, name: request.name, labels, lease };
        snapshotter.commit(&namespace, commit).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespace, lease) = (super::namespace(&request)?, lease(&request)?);
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        snapshotter.remove(&namespace, &request.key, lease).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        let info = snapshotter.stat(&namespace, &request.key).await.map_err(refuse)?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let change = request.info.ok_or_else(|| Status::invalid_argument("info must be set"))?;
        let info = self
            .named(&request.snapshotter)?
            .update(&namespace, &change.name, labels(change.labels), paths(request.update_mask))
            .await
            .map_err(refuse)?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(to_wire(info)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<BoxStream<wire::ListSnapshotsResponse>>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        let infos = snapshotter.list(&namespace, &request.filters).await.map_err(refuse)?;
        let infos: Vec<wire::Info> = infos.into_iter().map(to_wire).collect();
        let messages: Vec<_> = infos
            .chunks(BATCH)
            .map(|chunk| Ok(wire::ListSnapshotsResponse { info: chunk.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let snapshotter = self.named(&request.snapshotter)?;
        let usage = snapshotter.usage(&namespace, &request.key).await.map_err(refuse)?;
        Ok(Response::new(wire::UsageResponse {
            size: signed(usage.size_bytes),
            inodes: signed(usage.inodes),
        }))
    }

    async fn cleanup(
        &self,
        request: Request<wire::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        super::namespace(&request)?;
        self.named(&request.get_ref().snapshotter)?;
        self.collector.collect().await.map_err(refuse)?;
        Ok(Response::new(()))
    }
}

fn to_wire(info: Info) -> wire::Info {
    wire::Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: info.kind.number(),
        created_at: wire_time(info.created),
        updated_at: wire_time(info.updated),
        labels: wire_labels(info.labels),
    }
}
