//! containerd.services.content.v1.Content.

use std::io::{Read, Seek, SeekFrom};

use protos::grpc::containerd::services::content::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::translate::{
    blocking, digest, labels, lease, paths, signed, some_digest, unsigned, wire_labels, wire_time,
};
use crate::content::{ContentError, Digest, Info, Ingest, Request as IngestRequest, Store};
use crate::gc::Collector;
use crate::lease::LeaseId;
use crate::metadata::Namespace;

/// Bytes in one message of a read: within what every client accepts.
const CHUNK_BYTES: usize = 1 << 20;
/// Messages of a read that may wait for a slow client.
const AHEAD: usize = 2;
/// Blobs in one message of a list.
const BATCH: usize = 100;

/// The service.
pub(crate) struct Content {
    store: Store,
    collector: Collector,
}

impl Content {
    pub(crate) fn new(store: Store, collector: Collector) -> Self {
        Self { store, collector }
    }
}

#[tonic::async_trait]
impl wire::content_server::Content for Content {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let digest = digest(&request.get_ref().digest)?;
        let store = self.store.clone();
        let info = blocking(move || store.info(&namespace, &digest)).await?;
        Ok(Response::new(wire::InfoResponse { info: Some(to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let change = request.info.ok_or_else(|| Status::invalid_argument("info must be set"))?;
        let (digest, change) = (digest(&change.digest)?, labels(change.labels));
        let (store, paths) = (self.store.clone(), paths(request.update_mask));
        let info = blocking(move || store.update(&namespace, &digest, change, paths)).await?;
        Ok(Response::new(wire::UpdateResponse { info: Some(to_wire(info)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<BoxStream<wire::ListContentResponse>>, Status> {
        let namespace = super::namespace(&request)?;
        let (store, filters) = (self.store.clone(), request.into_inner().filters);
        let infos = blocking(move || store.list(&namespace, &filters)).await?;
        let infos: Vec<wire::Info> = infos.into_iter().map(to_wire).collect();
        let messages: Vec<_> = infos
            .chunks(BATCH)
            .map(|chunk| Ok(wire::ListContentResponse { info: chunk.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let digest = digest(&request.get_ref().digest)?;
        let store = self.store.clone();
        blocking(move || store.delete(&namespace, &digest)).await?;
        self.collector.schedule();
        Ok(Response::new(()))
    }

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<BoxStream<wire::ReadContentResponse>>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let offset = unsigned("offset", request.offset)?;
        // A negative size means "to the end" to containerd, as 0 does.
        let size = u64::try_from(request.size).unwrap_or(0);
        let store = self.store.clone();
        let (mut blob, left) =
            blocking(move || store.open_range(&namespace, &digest, offset, size)).await?;
        let (sender, messages) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send(&mut blob, offset, left, &sender) {
                // The client may have gone, which ends the reading too.
                let _ = sender.blocking_send(Err(Status::internal(format!("read blob: {error}"))));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let (store, reference) = (self.store.clone(), request.into_inner().r#ref);
        let status = blocking(move || store.status(&namespace, &reference)).await?;
        Ok(Response::new(wire::StatusResponse { status: Some(status_to_wire(status)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let (store, filters) = (self.store.clone(), request.into_inner().filters);
        let statuses = blocking(move || store.statuses(&namespace, &filters)).await?;
        let statuses = statuses.into_iter().map(status_to_wire).collect();
        Ok(Response::new(wire::ListStatusesResponse { statuses }))
    }

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<BoxStream<wire::WriteContentResponse>>, Status> {
        let (namespace, lease) = (super::namespace(&request)?, lease(&request)?);
        let (sender, answers) = mpsc::channel(AHEAD);
        let (store, messages) = (self.store.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = converse(store, namespace, lease, messages, &sender).await {
                // The client may have gone, and its ingest stays for when it returns.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let (store, reference) = (self.store.clone(), request.into_inner().r#ref);
        blocking(move || store.abort(&namespace, &reference)).await?;
        Ok(Response::new(()))
    }
}

type Answers = mpsc::Sender<Result<wire::WriteContentResponse, Status>>;

/// One writer's conversation: each message is answered once it has been done.
async fn converse(
    store: Store,
    namespace: Namespace,
    lease: Option<LeaseId>,
    mut messages: Streaming<wire::WriteContentRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let Some(first) = messages.message().await? else { return Ok(()) };
    let request = IngestRequest {
        reference: first.r#ref.clone(),
        total_bytes: unsigned("total", first.total)?,
        expected: some_digest(&first.expected)?,
        lease,
        replace: false,
    };
    let mut terms = Terms { total: request.total_bytes, expected: request.expected.clone() };
    let (opener, scope) = (store.clone(), namespace.clone());
    let mut ingest = blocking(move || opener.ingest(&scope, request)).await?;
    let mut message = first;
    loop {
        let commits = message.action == i32::from(wire::WriteAction::Commit);
        if let Some(expected) = some_digest(&message.expected)? {
            // Another writer may have been faster.
            refuse_if_present(&store, &namespace, &ingest, expected.clone()).await?;
            terms.expected = Some(expected);
        }
        if message.total > 0 {
            terms.total = message.total.unsigned_abs();
        }
        let given = terms.clone();
        let (answer, left) = blocking(move || step(ingest, message, &given)).await??;
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
        match left {
            Some(left) if !commits => ingest = left,
            _ => return Ok(()),
        }
        match messages.message().await? {
            Some(next) => message = next,
            None => return Ok(()),
        }
    }
}

/// What the writer has said so far of what it writes.
#[derive(Clone)]
struct Terms {
    total: u64,
    expected: Option<Digest>,
}

async fn refuse_if_present(
    store: &Store,
    namespace: &Namespace,
    ingest: &Ingest,
    expected: Digest,
) -> Result<(), Status> {
    let (store, namespace) = (store.clone(), namespace.clone());
    let reference = ingest.status().reference.clone();
    blocking(move || {
        if !store.has_whole(&namespace, &expected)? {
            return Ok(());
        }
        store.abort(&namespace, &reference)?;
        Err(ContentError::AlreadyExists(expected))
    })
    .await
}

type Step = Result<(wire::WriteContentResponse, Option<Ingest>), Status>;

/// Does what one message asks. The outer result is for errors of the store, the inner one for
/// refusals of the conversation itself.
fn step(
    mut ingest: Ingest,
    message: wire::WriteContentRequest,
    terms: &Terms,
) -> Result<Step, ContentError> {
    let Ok(action) = wire::WriteAction::try_from(message.action) else {
        let text = format!("unknown write action {}", message.action);
        return Ok(Err(Status::invalid_argument(text)));
    };
    let mut answer = wire::WriteContentResponse { action: message.action, ..Default::default() };
    if action == wire::WriteAction::Stat {
        let status = ingest.status();
        answer.offset = signed(status.offset);
        answer.total = signed(status.total_bytes);
        answer.started_at = wire_time(status.started);
        answer.updated_at = wire_time(status.updated);
        answer.digest = ingest.digest().to_string();
        return Ok(Ok((answer, Some(ingest))));
    }
    let at = signed(ingest.status().offset);
    if message.offset != 0 && message.offset != at {
        let text = format!("write @{} must occur at current offset {at}", message.offset);
        return Ok(Err(Status::out_of_range(text)));
    }
    if message.offset == 0 && at > 0 {
        ingest.reset()?;
    }
    if !message.data.is_empty() {
        ingest.write(&message.data)?;
    }
    answer.offset = signed(ingest.status().offset);
    if action == wire::WriteAction::Commit {
        let labels = labels(message.labels);
        let info = ingest.commit(terms.total, terms.expected.as_ref(), labels)?;
        answer.digest = info.digest.to_string();
        return Ok(Ok((answer, None)));
    }
    answer.digest = ingest.digest().to_string();
    Ok(Ok((answer, Some(ingest))))
}

type Pieces = mpsc::Sender<Result<wire::ReadContentResponse, Status>>;

/// Sends `left` bytes of `blob` from `offset` on, until the client goes.
fn send(
    blob: &mut std::fs::File,
    offset: u64,
    mut left: u64,
    pieces: &Pieces,
) -> std::io::Result<()> {
    let mut at = blob.seek(SeekFrom::Start(offset))?;
    while left > 0 {
        let want = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut data = vec![0; want];
        blob.read_exact(&mut data)?;
        if pieces.blocking_send(Ok(wire::ReadContentResponse { offset: signed(at), data })).is_err()
        {
            return Ok(());
        }
        at += want as u64;
        left -= want as u64;
    }
    Ok(())
}

fn to_wire(info: Info) -> wire::Info {
    wire::Info {
        digest: info.digest.to_string(),
        size: signed(info.size_bytes),
        created_at: wire_time(info.created),
        updated_at: wire_time(info.updated),
        labels: wire_labels(info.labels),
    }
}

fn status_to_wire(status: crate::content::Status) -> wire::Status {
    wire::Status {
        started_at: wire_time(status.started),
        updated_at: wire_time(status.updated),
        r#ref: status.reference,
        offset: signed(status.offset),
        total: signed(status.total_bytes),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}
