//! containerd.services.leases.v1.Leases.

use protos::grpc::containerd::services::leases::v1 as wire;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{labels, wire_labels, wire_time};
use crate::gc::Collector;
use crate::lease::{self, Lease, LeaseId, Resource};

/// The service.
pub(crate) struct Leases {
    records: lease::Leases,
    collector: Collector,
}

impl Leases {
    pub(crate) fn new(records: lease::Leases, collector: Collector) -> Self {
        Self { records, collector }
    }
}

#[tonic::async_trait]
impl wire::leases_server::Leases for Leases {
    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let id = LeaseId::new(request.id);
        let lease =
            self.records.create(&namespace, id, labels(request.labels)).await.map_err(refuse)?;
        Ok(Response::new(wire::CreateResponse { lease: Some(to_wire(lease)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        self.records.delete(&namespace, &LeaseId::new(request.id)).await.map_err(refuse)?;
        self.collector.after_delete(request.sync).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let leases =
            self.records.list(&namespace, &request.get_ref().filters).await.map_err(refuse)?;
        let leases = leases.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListResponse { leases }))
    }

    async fn add_resource(
        &self,
        request: Request<wire::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let resource = from_wire(request.resource)?;
        let id = LeaseId::new(request.id);
        self.records.add(&namespace, &id, resource).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<wire::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let resource = from_wire(request.resource)?;
        let id = LeaseId::new(request.id);
        self.records.remove(&namespace, &id, resource).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Result<Response<wire::ListResourcesResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let id = LeaseId::new(request.into_inner().id);
        let resources = self.records.resources(&namespace, &id).await.map_err(refuse)?;
        let resources = resources
            .into_iter()
            .map(|resource| wire::Resource { id: resource.id, r#type: resource.kind })
            .collect();
        Ok(Response::new(wire::ListResourcesResponse { resources }))
    }
}

fn from_wire(resource: Option<wire::Resource>) -> Result<Resource, Status> {
    let wire = resource.ok_or_else(|| Status::invalid_argument("resource must be set"))?;
    Ok(Resource { kind: wire.r#type, id: wire.id })
}

fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease {
        id: lease.id.to_string(),
        created_at: wire_time(lease.created),
        labels: wire_labels(lease.labels),
    }
}
