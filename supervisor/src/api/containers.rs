//! containerd.services.containers.v1.Containers.

use std::time::SystemTime;

use protos::grpc::containerd::services::containers::v1 as wire;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{labels, paths, wire_labels, wire_time};
use crate::container::{self, Container};
use crate::gc::Collector;

/// The service.
pub(crate) struct Containers {
    records: container::Containers,
    collector: Collector,
}

impl Containers {
    pub(crate) fn new(records: container::Containers, collector: Collector) -> Self {
        Self { records, collector }
    }
}

#[tonic::async_trait]
impl wire::containers_server::Containers for Containers {
    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let container =
            self.records.get(&namespace, &request.get_ref().id).await.map_err(refuse)?;
        Ok(Response::new(wire::GetContainerResponse { container: Some(to_wire(container)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let containers =
            self.records.list(&namespace, &request.get_ref().filters).await.map_err(refuse)?;
        let containers = containers.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<BoxStream<wire::ListContainerMessage>>, Status> {
        let namespace = super::namespace(&request)?;
        let containers =
            self.records.list(&namespace, &request.get_ref().filters).await.map_err(refuse)?;
        let messages = containers.into_iter().map(|container| {
            Ok(wire::ListContainerMessage { container: Some(to_wire(container)) })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let container = from_wire(request.into_inner().container)?;
        let container = self.records.create(&namespace, container).await.map_err(refuse)?;
        Ok(Response::new(wire::CreateContainerResponse { container: Some(to_wire(container)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let change = from_wire(request.container)?;
        let paths = paths(request.update_mask);
        let container = self.records.update(&namespace, change, paths).await.map_err(refuse)?;
        Ok(Response::new(wire::UpdateContainerResponse { container: Some(to_wire(container)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        self.records.delete(&namespace, &request.get_ref().id).await.map_err(refuse)?;
        self.collector.schedule();
        Ok(Response::new(()))
    }
}

fn from_wire(container: Option<wire::Container>) -> Result<Container, Status> {
    let wire = container.ok_or_else(|| Status::invalid_argument("container must be set"))?;
    let runtime = wire.runtime.unwrap_or_default();
    // The record store sets the times.
    let never = SystemTime::UNIX_EPOCH;
    Ok(Container {
        id: wire.id,
        labels: labels(wire.labels),
        image: wire.image,
        runtime: runtime.name,
        options: runtime.options.map(Into::into),
        spec: wire.spec.map(Into::into),
        snapshotter: wire.snapshotter,
        snapshot_key: wire.snapshot_key,
        sandbox: wire.sandbox,
        extensions: wire.extensions.into_iter().map(|(name, any)| (name, any.into())).collect(),
        created: never,
        updated: never,
    })
}

fn to_wire(container: Container) -> wire::Container {
    let options = container.options.map(Into::into);
    let runtime = wire::container::Runtime { name: container.runtime, options };
    wire::Container {
        id: container.id,
        labels: wire_labels(container.labels),
        image: container.image,
        runtime: Some(runtime),
        spec: container.spec.map(Into::into),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: wire_time(container.created),
        updated_at: wire_time(container.updated),
        extensions: container
            .extensions
            .into_iter()
            .map(|(name, any)| (name, any.into()))
            .collect(),
        sandbox: container.sandbox,
    }
}
