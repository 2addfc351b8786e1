//! containerd.services.namespaces.v1.Namespaces.

use protos::grpc::containerd::services::namespaces::v1 as wire;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{labels, paths, wire_labels};
use crate::events::{Bus, Event};
use crate::metadata::Namespace;
use crate::namespace;

/// The service.
pub(crate) struct Namespaces {
    records: namespace::Namespaces,
    events: Bus,
}

impl Namespaces {
    pub(crate) fn new(records: namespace::Namespaces, events: Bus) -> Self {
        Self { records, events }
    }
}

#[tonic::async_trait]
impl wire::namespaces_server::Namespaces for Namespaces {
    async fn get(
        &self,
        request: Request<wire::GetNamespaceRequest>,
    ) -> Result<Response<wire::GetNamespaceResponse>, Status> {
        let name = Namespace::new(request.into_inner().name).map_err(refuse)?;
        let record = self.records.get(&name).await.map_err(refuse)?;
        Ok(Response::new(wire::GetNamespaceResponse { namespace: Some(to_wire(record)) }))
    }

    async fn list(
        &self,
        _request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        // containerd ignores this request's filter.
        let records = self.records.list().await.map_err(refuse)?;
        let namespaces = records.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Result<Response<wire::CreateNamespaceResponse>, Status> {
        let record = from_wire(request.into_inner().namespace)?;
        let record = self.records.create(record).await.map_err(refuse)?;
        let (name, labels) = (record.name.to_string(), record.labels.clone());
        self.events.publish(&record.name, Event::NamespaceCreated { name, labels });
        Ok(Response::new(wire::CreateNamespaceResponse { namespace: Some(to_wire(record)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Result<Response<wire::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let change = from_wire(request.namespace)?;
        let record =
            self.records.update(change, paths(request.update_mask)).await.map_err(refuse)?;
        let (name, labels) = (record.name.to_string(), record.labels.clone());
        self.events.publish(&record.name, Event::NamespaceUpdated { name, labels });
        Ok(Response::new(wire::UpdateNamespaceResponse { namespace: Some(to_wire(record)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = Namespace::new(request.into_inner().name).map_err(refuse)?;
        self.records.delete(&name).await.map_err(refuse)?;
        let event = Event::NamespaceDeleted { name: name.to_string() };
        self.events.publish(&name, event);
        Ok(Response::new(()))
    }
}

fn from_wire(namespace: Option<wire::Namespace>) -> Result<namespace::Record, Status> {
    let wire = namespace.ok_or_else(|| Status::invalid_argument("namespace must be set"))?;
    let name = Namespace::new(wire.name).map_err(refuse)?;
    Ok(namespace::Record { name, labels: labels(wire.labels) })
}

fn to_wire(record: namespace::Record) -> wire::Namespace {
    wire::Namespace { name: record.name.to_string(), labels: wire_labels(record.labels) }
}
