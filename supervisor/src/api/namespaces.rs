//! containerd.services.namespaces.v1.Namespaces.

use prost_types::Any;
use protos::grpc::containerd::events as event;
use protos::grpc::containerd::services::namespaces::v1 as wire;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{labels, paths, wire_labels};
use crate::events::Bus;
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

    fn tell(&self, namespace: &Namespace, topic: &str, event: &impl prost::Name) {
        let event: Any = protos::any::pack(event);
        self.events.publish(namespace, topic, event);
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
        let event = event::NamespaceCreate {
            name: record.name.to_string(),
            labels: wire_labels(record.labels.clone()),
        };
        self.tell(&record.name, "/namespaces/create", &event);
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
        let event = event::NamespaceUpdate {
            name: record.name.to_string(),
            labels: wire_labels(record.labels.clone()),
        };
        self.tell(&record.name, "/namespaces/update", &event);
        Ok(Response::new(wire::UpdateNamespaceResponse { namespace: Some(to_wire(record)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = Namespace::new(request.into_inner().name).map_err(refuse)?;
        self.records.delete(&name).await.map_err(refuse)?;
        let event = event::NamespaceDelete { name: name.to_string() };
        self.tell(&name, "/namespaces/delete", &event);
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
