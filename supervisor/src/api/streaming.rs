//! containerd.services.streaming.v1.Streaming: streams by id, over which transfers carry bytes and
//! progress.
//!
//! A client opens a stream and names it in its first message; once that is acknowledged, a
//! transfer can take it, once. Bytes flow as far as their receiver has widened the window.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use prost_types::Any;
use protos::grpc::containerd::services::streaming::v1 as wire;
use protos::grpc::containerd::types::transfer::{Data, WindowUpdate};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming as Messages};

use crate::metadata::Namespace;

/// How far a sender may be ahead of us, in bytes.
const WINDOW_BYTES: i32 = 4 << 20;
/// Pieces that wait to be read: the window bounds their bytes, this bounds how many there are.
const PIECES: usize = 64;
/// Streams of one namespace that wait to be taken.
const WAITING: usize = 256;
/// As long as the name of a stream may be.
const ID_BYTES: usize = 256;
/// Messages on their way to a client.
const QUEUE: usize = 16;
/// The acknowledgement, `google.protobuf.Empty`.
const EMPTY: &str = "google.protobuf.Empty";

type Key = (Namespace, String);

/// The streams that wait for a transfer to take them.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    waiting: Arc<Mutex<HashMap<Key, Waiting>>>,
}

/// A stream that no transfer has taken yet. Dropping `_untaken` ends the watch over its client.
struct Waiting {
    stream: Stream,
    _untaken: oneshot::Sender<()>,
}

/// One client's stream.
pub(crate) struct Stream {
    incoming: Messages<Any>,
    outgoing: mpsc::Sender<Result<Any, Status>>,
}

impl Streams {
    /// Takes the stream of that id.
    pub(crate) fn take(&self, namespace: &Namespace, id: &str) -> Result<Stream, Status> {
        self.lock()
            .remove(&(namespace.clone(), id.to_owned()))
            .map(|waiting| waiting.stream)
            .ok_or_else(|| Status::not_found(format!("stream {id:?}: not found")))
    }

    /// Registers a stream and acknowledges it, in this order as seen by others.
    fn add(&self, key: Key, stream: Stream) -> Result<(), Status> {
        let outgoing = stream.outgoing.clone();
        let (untaken, taken) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.contains_key(&key) {
                return Err(Status::already_exists(format!("stream {:?}: already exists", key.1)));
            }
            if waiting.keys().filter(|(namespace, _)| *namespace == key.0).count() >= WAITING {
                let text = format!("{WAITING} streams wait to be used already");
                return Err(Status::resource_exhausted(text));
            }
            let acknowledgement = Any { type_url: EMPTY.to_owned(), value: Vec::new() };
            // Before anybody can take it, so that nothing overtakes the acknowledgement.
            if outgoing.try_send(Ok(acknowledgement)).is_err() {
                return Ok(()); // the client has gone
            }
            waiting.insert(key.clone(), Waiting { stream, _untaken: untaken });
        }
        let streams = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // The transfer that took it decides when it ends: our sender must not keep it open.
                _ = taken => {}
                // The client has gone before its stream was taken.
                () = outgoing.closed() => {
                    streams.lock().remove(&key);
                }
            }
        });
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// The bytes that the client sends, for a blocking thread to read. They end when the other end
    /// of `wanted` is dropped: a client may have left its call and not its stream.
    pub(crate) fn into_reader(self, wanted: oneshot::Receiver<()>) -> impl Read + Send + 'static {
        let (pieces, received) = mpsc::channel(PIECES);
        let (consumed, progress) = mpsc::unbounded_channel();
        // Unbounded, but there is one number for each piece that was read.
        tokio::spawn(async move {
            tokio::select! {
                () = receive(self, pieces, progress) => {}
                _ = wanted => {}
            }
        });
        Bytes { received, consumed, current: Vec::new(), position: 0 }
    }

    /// Sends messages to the client until the other end of `messages` is dropped.
    pub(crate) async fn forward(self, mut messages: mpsc::Receiver<Any>) {
        while let Some(message) = messages.recv().await {
            if self.outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

/// Receives data and widens the window as it is consumed, until either side ends.
async fn receive(
    mut stream: Stream,
    pieces: mpsc::Sender<io::Result<Vec<u8>>>,
    mut consumed: mpsc::UnboundedReceiver<usize>,
) {
    let mut window = i64::from(WINDOW_BYTES);
    let mut grant = WINDOW_BYTES;
    loop {
        if grant > 0 {
            let update = protos::any::pack(&WindowUpdate { update: grant });
            if stream.outgoing.send(Ok(update)).await.is_err() {
                break;
            }
            grant = 0;
        }
        tokio::select! {
            used = consumed.recv() => match used {
                // The reader is done with the archive, or with us.
                None => return,
                Some(used) => {
                    let mut freed = used;
                    while let Ok(more) = consumed.try_recv() {
                        freed += more;
                    }
                    grant = i32::try_from(freed).unwrap_or(WINDOW_BYTES);
                    window += i64::from(grant);
                }
            },
            message = stream.incoming.message() => match message {
                Ok(Some(message)) => match unpack(&message) {
                    Ok(data) => {
                        window -= i64::try_from(data.len()).unwrap_or(i64::MAX);
                        if window < 0 {
                            let error = io::Error::other("sender ignores the window");
                            let _ = pieces.send(Err(error)).await;
                            return;
                        }
                        // An empty one says nothing, and no window bounds how many there are.
                        if !data.is_empty() && pieces.send(Ok(data)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        let _ = pieces.send(Err(error)).await;
                        return;
                    }
                },
                Ok(None) => return,
                Err(status) => {
                    let error = io::Error::new(io::ErrorKind::ConnectionAborted, status.message());
                    let _ = pieces.send(Err(error)).await;
                    return;
                }
            },
        }
    }
}

fn unpack(message: &Any) -> io::Result<Vec<u8>> {
    match protos::any::unpack::<Data>(message) {
        Some(Ok(data)) => Ok(data.data),
        Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        None => {
            let text = format!("unexpected message {} on a stream of data", message.type_url);
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// Reads what [`receive`] passes on. Dropping it ends the stream.
struct Bytes {
    received: mpsc::Receiver<io::Result<Vec<u8>>>,
    consumed: mpsc::UnboundedSender<usize>,
    current: Vec<u8>,
    position: usize,
}

impl Read for Bytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            match self.received.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(error),
                Some(Ok(piece)) => {
                    // The receiving task may have seen the stream's end already.
                    let _ = self.consumed.send(piece.len());
                    self.current = piece;
                    self.position = 0;
                }
            }
        }
        let count = into.len().min(self.current.len() - self.position);
        into[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

/// The service.
pub(crate) struct Streaming {
    streams: Streams,
}

impl Streaming {
    pub(crate) fn new(streams: Streams) -> Self {
        Self { streams }
    }
}

#[tonic::async_trait]
impl wire::streaming_server::Streaming for Streaming {
    async fn stream(
        &self,
        request: Request<Messages<Any>>,
    ) -> Result<Response<BoxStream<Any>>, Status> {
        let namespace = super::namespace(&request)?;
        let mut incoming = request.into_inner();
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let streams = self.streams.clone();
        // Answered at once: a client may wait for the headers before it sends its first message.
        tokio::spawn(async move {
            let registered = match id(&mut incoming).await {
                Ok(id) => {
                    let stream = Stream { incoming, outgoing: outgoing.clone() };
                    streams.add((namespace, id), stream)
                }
                Err(status) => Err(status),
            };
            if let Err(status) = registered {
                // The client may have gone.
                let _ = outgoing.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// The id in a stream's first message.
async fn id(incoming: &mut Messages<Any>) -> Result<String, Status> {
    let first = incoming
        .message()
        .await?
        .ok_or_else(|| Status::invalid_argument("stream ended before it was named"))?;
    match protos::any::unpack::<wire::StreamInit>(&first) {
        Some(Ok(init)) if init.id.len() > ID_BYTES => {
            Err(Status::invalid_argument(format!("stream id is longer than {ID_BYTES} bytes")))
        }
        Some(Ok(init)) if !init.id.is_empty() => Ok(init.id),
        Some(Ok(_)) => Err(Status::invalid_argument("stream id must not be empty")),
        Some(Err(error)) => Err(Status::invalid_argument(format!("stream init: {error}"))),
        None => Err(Status::invalid_argument("the first message must be a StreamInit")),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use http_body::Frame;
    use prost::Message as _;
    use tonic::codec::Codec as _;
    use tonic::codegen::Bytes as Buffer;

    use super::*;

    /// A client that sends this many messages of so many bytes, one in each frame.
    struct Client {
        left: usize,
        bytes: usize,
        sent: Arc<AtomicUsize>,
    }

    impl http_body::Body for Client {
        type Data = Buffer;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Buffer>, Infallible>>> {
            if self.left == 0 {
                return Poll::Pending;
            }
            self.left -= 1;
            self.sent.fetch_add(1, Ordering::Relaxed);
            let message = protos::any::pack(&Data { data: vec![7; self.bytes] }).encode_to_vec();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let frame = [&[0][..], &length, &message].concat();
            Poll::Ready(Some(Ok(Frame::data(frame.into()))))
        }
    }

    /// How many pieces wait for a reader that does not read, and how many messages were taken.
    async fn queued(bytes: usize) -> (usize, usize) {
        let sent = Arc::new(AtomicUsize::new(0));
        let client = Client { left: 10_000, bytes, sent: sent.clone() };
        let decoder = tonic_prost::ProstCodec::<Any, Any>::default().decoder();
        let incoming = Messages::new_request(decoder, client, None, None);
        let (outgoing, _answers) = mpsc::channel(QUEUE);
        let (pieces, received) = mpsc::channel(PIECES);
        let (_consumed, progress) = mpsc::unbounded_channel();
        let receiving = tokio::spawn(receive(Stream { incoming, outgoing }, pieces, progress));
        while tokio::time::timeout(std::time::Duration::from_millis(200), async {
            let before = sent.load(Ordering::Relaxed);
            while sent.load(Ordering::Relaxed) == before {
                tokio::task::yield_now().await;
            }
        })
        .await
        .is_ok()
        {}
        receiving.abort();
        (received.len(), sent.load(Ordering::Relaxed))
    }

    /// The window bounds bytes: of small messages, and of empty ones, any number was queued.
    #[tokio::test]
    async fn a_client_is_no_further_ahead_than_a_few_messages_however_small_they_are() {
        let (waiting, taken) = queued(1).await;
        assert!(waiting <= PIECES && taken <= 2 * PIECES, "{waiting} of {taken}");
        assert_eq!(queued(0).await, (0, 10_000), "empty ones are passed over");
    }
}
