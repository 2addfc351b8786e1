//! containerd.services.transfer.v1.Transfer: archives into the image store. Other pairs of source
//! and destination are not offered yet.

use installer::budget::Budget;
use prost_types::Any;
use protos::any;
use protos::grpc::containerd::services::transfer::v1 as wire;
use protos::grpc::containerd::types;
use protos::grpc::containerd::types::transfer::{self as kinds, ImageImportStream, ImageStore};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::streaming::Streams;
use super::translate::{Unfinished, labels, signed, wire_descriptor};
use crate::image::Platform;
use crate::metadata::Namespace;
use crate::transfer::{Destination, Event, Importer, Prefix, Progress, TransferError};

/// News on its way to a client. An archive names fewer images than this.
const NEWS: usize = 4096;

/// The service.
pub(crate) struct Transfer {
    importer: Importer,
    streams: Streams,
}

impl Transfer {
    pub(crate) fn new(importer: Importer, streams: Streams) -> Self {
        Self { importer, streams }
    }

    /// Where news goes: the client's progress stream, if it has one.
    fn progress(&self, namespace: &Namespace, id: &str) -> Result<Told, Status> {
        if id.is_empty() {
            return Ok(Told { progress: Progress::ignored(), forwarding: None });
        }
        let stream = self.streams.take(namespace, id)?;
        let (sender, messages) = mpsc::channel(NEWS);
        let forwarding = tokio::spawn(stream.forward(messages));
        let progress = Progress::to(move |event| {
            // A client that stopped listening still gets its transfer; one that is slow, or does
            // not read at all, loses news.
            let _ = sender.try_send(any::pack(&to_wire(event)));
        });
        Ok(Told { progress, forwarding: Some(forwarding) })
    }

    async fn import(
        &self,
        namespace: Namespace,
        source: ImageImportStream,
        destination: ImageStore,
        progress: &str,
    ) -> Result<(), Status> {
        let destination = from_wire(destination, self.importer.snapshots.name())?;
        let (_wanting, wanted) = oneshot::channel();
        let archive = self.streams.take(&namespace, &source.stream)?.into_reader(wanted);
        let Told { progress, forwarding } = self.progress(&namespace, progress)?;
        let importer = self.importer.clone();
        let budget = Budget::default();
        let unfinished = Unfinished::new(&budget);
        // A task of its own: a client that gives up midway stops the import, which cleans up then.
        let outcome = tokio::spawn(async move {
            importer.import(&namespace, archive, destination, progress, &budget).await
        })
        .await
        .map_err(|_| refuse(TransferError::Lost))?;
        drop(unfinished);
        if let Some(forwarding) = forwarding {
            // All news is out, and the stream has ended, before the transfer is answered.
            let _ = forwarding.await;
        }
        outcome.map(drop).map_err(refuse)
    }
}

struct Told {
    progress: Progress,
    forwarding: Option<tokio::task::JoinHandle<()>>,
}

#[tonic::async_trait]
impl wire::transfer_server::Transfer for Transfer {
    async fn transfer(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let source = request.source.unwrap_or_default();
        let destination = request.destination.unwrap_or_default();
        let options = request.options.unwrap_or_default();
        if any::is::<ImageImportStream>(&source) && any::is::<ImageStore>(&destination) {
            let (from, to) = (decode(&source)?, decode(&destination)?);
            self.import(namespace, from, to, &options.progress_stream).await?;
            return Ok(Response::new(()));
        }
        Err(Status::unimplemented(format!(
            "transfer from {:?} to {:?} is not offered",
            source.type_url, destination.type_url
        )))
    }
}

fn decode<M: prost::Name + Default>(any: &Any) -> Result<M, Status> {
    match any::unpack(any) {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(Status::invalid_argument(format!("{}: {error}", any.type_url))),
        None => Err(Status::invalid_argument(format!("unexpected {}", any.type_url))),
    }
}

fn from_wire(store: ImageStore, snapshotter: &str) -> Result<Destination, Status> {
    let mut unpacks = Vec::new();
    for unpack in store.unpacks {
        if !unpack.snapshotter.is_empty() && unpack.snapshotter != snapshotter {
            return Err(refuse(TransferError::Snapshotter(unpack.snapshotter)));
        }
        unpacks.push(unpack.platform.map_or_else(Platform::host, platform));
    }
    let prefix = |reference: kinds::ImageReference| Prefix {
        name: reference.name,
        is_prefix: reference.is_prefix,
    };
    Ok(Destination {
        name: store.name,
        labels: labels(store.labels),
        prefixes: store.extra_references.into_iter().map(prefix).collect(),
        unpacks,
    })
}

fn platform(wire: types::Platform) -> Platform {
    let types::Platform { os, architecture, variant, .. } = wire;
    Platform { os, architecture, variant }.normalized()
}

fn to_wire(event: Event) -> kinds::Progress {
    kinds::Progress {
        event: event.event.to_owned(),
        name: event.name,
        parents: Vec::new(),
        progress: signed(event.progress),
        total: signed(event.total),
        desc: event.target.map(wire_descriptor),
    }
}
