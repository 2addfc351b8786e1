//! containerd.services.images.v1.Images.

use std::time::SystemTime;

use protos::grpc::containerd::services::images::v1 as wire;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::translate::{
    descriptor, digest, labels, paths, time, wire_descriptor, wire_labels, wire_time,
};
use crate::gc::Collector;
use crate::image::{self, Image};

/// The service.
pub(crate) struct Images {
    records: image::Images,
    collector: Collector,
}

impl Images {
    pub(crate) fn new(records: image::Images, collector: Collector) -> Self {
        Self { records, collector }
    }
}

#[tonic::async_trait]
impl wire::images_server::Images for Images {
    async fn get(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Result<Response<wire::GetImageResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let image = self.records.get(&namespace, &request.get_ref().name).await.map_err(refuse)?;
        Ok(Response::new(wire::GetImageResponse { image: Some(to_wire(image)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let images =
            self.records.list(&namespace, &request.get_ref().filters).await.map_err(refuse)?;
        let images = images.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateImageRequest>,
    ) -> Result<Response<wire::CreateImageResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let image = from_wire(request.image, time(request.source_date_epoch)?)?;
        let image = self.records.create(&namespace, image).await.map_err(refuse)?;
        Ok(Response::new(wire::CreateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateImageRequest>,
    ) -> Result<Response<wire::UpdateImageResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let paths = paths(request.update_mask);
        let target = paths.is_empty() || paths.iter().any(|path| path == "target");
        let change = if target {
            from_wire(request.image, time(request.source_date_epoch)?)?
        } else {
            partial(request.image, time(request.source_date_epoch)?)?
        };
        let image = self.records.update(&namespace, change, paths).await.map_err(refuse)?;
        Ok(Response::new(wire::UpdateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let target = request.target.map(|target| digest(&target.digest)).transpose()?;
        self.records.delete(&namespace, &request.name, target).await.map_err(refuse)?;
        self.collector.after_delete(request.sync).await.map_err(refuse)?;
        Ok(Response::new(()))
    }
}

fn from_wire(image: Option<wire::Image>, at: Option<SystemTime>) -> Result<Image, Status> {
    let wire = image.ok_or_else(|| Status::invalid_argument("image must be set"))?;
    let mut image = Image::new(wire.name, labels(wire.labels), descriptor(wire.target)?);
    if let Some(at) = at {
        (image.created, image.updated) = (at, at);
    }
    Ok(image)
}

/// A change that leaves the target alone need not bring a valid one.
fn partial(image: Option<wire::Image>, at: Option<SystemTime>) -> Result<Image, Status> {
    let mut wire = image.ok_or_else(|| Status::invalid_argument("image must be set"))?;
    let target = wire.target.get_or_insert_default();
    if target.digest.is_empty() {
        target.digest = crate::content::Digest::of(b"").to_string();
    }
    from_wire(Some(wire), at)
}

fn to_wire(image: Image) -> wire::Image {
    wire::Image {
        name: image.name,
        labels: wire_labels(image.labels),
        target: Some(wire_descriptor(image.target)),
        created_at: wire_time(image.created),
        updated_at: wire_time(image.updated),
    }
}
