//! One ttrpc connection, with limits for requests and answers.
//!
//! ttrpc's own server reads as fast as its client writes, and keeps every request and every answer
//! in memory: a client that sent and did not read used 1.2 GB in 8 seconds. So the library is used
//! for frames and messages, and the loop is here.
//! Promise: reading stops while a client does not read its answers. Requests beyond [`REQUESTS`] or
//! [`PAYLOAD_BYTES`] at a time are refused with RESOURCE_EXHAUSTED. They are not left unread: the
//! requests in progress may all be Waits, and a Kill behind them must arrive.
//! See ttrpc's PROTOCOL.md.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use protos::ttrpc::protobuf::Message;
use protos::ttrpc::ttrpc::asynchronous::transport::Socket;
use protos::ttrpc::ttrpc::proto::{
    GenMessage, GenMessageError, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST,
};
use protos::ttrpc::ttrpc::{Code, MessageHeader, Request, Response, get_status};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// The most requests of one connection in progress at a time. A daemon has one Wait for each
/// process of a shim, and a pod may have hundreds.
const REQUESTS: usize = 4096;
/// The most bytes of the requests of one connection in progress.
const PAYLOAD_BYTES: usize = 32 << 20;
/// The most answers of one connection in the queue. The requests of further answers still count for
/// [`REQUESTS`].
const ANSWERS: usize = 16;

/// A future for the answer to one call.
pub(crate) type Responding = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A method. It begins at once, in the order of the requests, and returns a future for the answer.
pub(crate) type Handler = Box<dyn Fn(&[u8]) -> Responding + Send + Sync>;

/// Handlers by the name of the service and of the method.
pub(crate) type Services = HashMap<&'static str, HashMap<String, Handler>>;

/// An answer, for the request with this stream id.
type Answer = (u32, Response);

/// Serves a connection until its client closes it.
///
/// # Cancel safety
///
/// Dropping it closes the connection. Calls that have begun continue without a client.
pub(crate) async fn serve(socket: Socket, services: Arc<Services>) {
    let (reader, writer) = tokio::io::split(socket);
    let (answers, unwritten) = mpsc::channel(ANSWERS);
    tokio::select! {
        () = read(reader, &services, answers) => {}
        () = write(writer, unwritten) => {}
    }
}

/// Reads requests and begins to answer them, until the client closes its half of the connection.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    services: &Services,
    answers: mpsc::Sender<Answer>,
) {
    let requests = Arc::new(Semaphore::new(REQUESTS));
    let payloads = Arc::new(Semaphore::new(PAYLOAD_BYTES));
    loop {
        // While a client does not read its answers, its requests are not read.
        let Ok(room) = answers.reserve().await else { return };
        let (header, request) = match next(&mut reader).await {
            Ok(request) => request,
            Err(Unread::Refused(stream_id, answer)) => {
                room.send((stream_id, answer));
                continue;
            }
            Err(Unread::Ignored) => continue,
            Err(Unread::Ended) => return,
        };
        // The place in the queue is given back: the answer to an earlier request may need it.
        drop(room);
        let taken = Arc::clone(&requests).try_acquire_owned();
        let bytes = Arc::clone(&payloads).try_acquire_many_owned(header.length);
        let (Ok(taken), Ok(bytes)) = (taken, bytes) else {
            let refused = refusal(Code::RESOURCE_EXHAUSTED, "too many requests at a time");
            if answers.send((header.stream_id, refused)).await.is_err() {
                return;
            }
            continue;
        };
        let responding = begin(services, &request);
        let limit = Duration::from_nanos(request.timeout_nano.try_into().unwrap_or(0));
        let answers = answers.clone();
        tokio::spawn(async move {
            let responding = async {
                match limit {
                    Duration::ZERO => responding.await,
                    limit => timeout(limit, responding)
                        .await
                        .unwrap_or_else(|_| refusal(Code::DEADLINE_EXCEEDED, "timeout")),
                }
            };
            tokio::select! {
                response = responding => {
                    // It fails if the client has closed the connection.
                    let _ = answers.send((header.stream_id, response)).await;
                }
                () = answers.closed() => {}
            }
            // The request counts until here, also while its answer waits for a place in the queue.
            drop((taken, bytes));
        });
    }
}

/// Why a message begins no request.
enum Unread {
    /// It is refused with this answer.
    Refused(u32, Response),
    Ignored,
    Ended,
}

/// Reads the next request.
async fn next(reader: &mut (impl AsyncRead + Unpin)) -> Result<(MessageHeader, Request), Unread> {
    let refused = |header: MessageHeader, why: &str| {
        Unread::Refused(header.stream_id, refusal(Code::INVALID_ARGUMENT, why))
    };
    let message = match GenMessage::read_from(reader).await {
        Ok(message) => message,
        Err(GenMessageError::ReturnError(header, error)) => {
            return Err(Unread::Refused(header.stream_id, error.into()));
        }
        Err(GenMessageError::InternalError(_)) => return Err(Unread::Ended),
    };
    let header = message.header;
    if header.stream_id % 2 != 1 {
        return Err(refused(header, "stream id must be odd"));
    }
    match header.type_ {
        MESSAGE_TYPE_REQUEST => {}
        // No method of these services has a stream.
        MESSAGE_TYPE_DATA => return Err(refused(header, "Stream is no longer active")),
        other => {
            log::warn!("ignored a ttrpc message of unknown type {other}");
            return Err(Unread::Ignored);
        }
    }
    match Request::parse_from_bytes(&message.payload) {
        Ok(request) => Ok((header, request)),
        Err(error) => Err(refused(header, &format!("decode the request: {error}"))),
    }
}

/// Finds the method of a request and begins to answer.
fn begin(services: &Services, request: &Request) -> Responding {
    let Some(methods) = services.get(request.service.as_str()) else {
        let what = format!("{} service does not exist", request.service);
        return Box::pin(std::future::ready(refusal(Code::INVALID_ARGUMENT, &what)));
    };
    let Some(method) = methods.get(&request.method) else {
        let what = format!("{} method", request.method);
        return Box::pin(std::future::ready(refusal(Code::UNIMPLEMENTED, &what)));
    };
    method(&request.payload)
}

fn refusal(code: Code, why: &str) -> Response {
    let mut response = Response::new();
    response.set_status(get_status(code, why));
    response
}

/// Writes answers, each as one message, until the client has closed the connection.
async fn write(mut writer: impl AsyncWrite + Unpin, mut answers: mpsc::Receiver<Answer>) {
    while let Some((stream_id, response)) = answers.recv().await {
        let bytes = match encode(stream_id, &response) {
            Ok(bytes) => bytes,
            Err(why) => {
                log::warn!("answer a request: {why}");
                let refused = refusal(Code::INTERNAL, &why);
                let Ok(bytes) = encode(stream_id, &refused) else { return };
                bytes
            }
        };
        if let Err(cause) = writer.write_all(&bytes).await {
            log::debug!("write an answer: {cause}");
            return;
        }
    }
}

/// A response with its header.
fn encode(stream_id: u32, response: &Response) -> Result<Vec<u8>, String> {
    let payload = response.write_to_bytes().map_err(|error| format!("encode: {error}"))?;
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MESSAGE_LENGTH_MAX);
    let length = length.ok_or_else(|| format!("{} bytes are too many", payload.len()))?;
    let mut bytes: Vec<u8> = MessageHeader::new_response(stream_id, length).into();
    bytes.extend(payload);
    Ok(bytes)
}
