//! One ttrpc connection: requests come in, answers go out, and both are bounded.
//!
//! ttrpc's own server reads as fast as its client writes, and keeps every request and every answer
//! in memory: a client that sends and does not read made 1.2 GB in 8 seconds. Framing and messages
//! are the library's; the loop between them is here.
//! Promise: reading stops while a client leaves its answers unread. More than [`REQUESTS`] requests
//! or [`PAYLOAD_BYTES`] of them at a time are refused with RESOURCE_EXHAUSTED. They are not left
//! unread, since what is at work may be Waits alone, and a Kill behind them must arrive.
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

/// Requests of one connection at work at a time. A daemon has one Wait for each process of a shim,
/// and a pod may have hundreds.
const REQUESTS: usize = 4096;
/// Bytes of the requests of one connection that are at work.
const PAYLOAD_BYTES: usize = 32 << 20;
/// Answers of one connection that wait to be written, beside those whose requests still count
/// towards [`REQUESTS`].
const ANSWERS: usize = 16;

/// The answer to one call, on its way.
pub(crate) type Responding = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A method: begins to answer a request's payload at once, in the order in which requests came.
pub(crate) type Handler = Box<dyn Fn(&[u8]) -> Responding + Send + Sync>;

/// Handlers by the names of their service and method.
pub(crate) type Services = HashMap<&'static str, HashMap<String, Handler>>;

/// An answer, for the request with this stream id.
type Answer = (u32, Response);

/// Serves a connection until its client goes.
///
/// # Cancel safety
///
/// Dropping it ends the connection. What has been begun goes on without its client.
pub(crate) async fn serve(socket: Socket, services: Arc<Services>) {
    let (reader, writer) = tokio::io::split(socket);
    let (answers, unwritten) = mpsc::channel(ANSWERS);
    tokio::select! {
        () = read(reader, &services, answers) => {}
        () = write(writer, unwritten) => {}
    }
}

/// Reads requests and begins to answer them. Ends with the client's half of the connection.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    services: &Services,
    answers: mpsc::Sender<Answer>,
) {
    let requests = Arc::new(Semaphore::new(REQUESTS));
    let payloads = Arc::new(Semaphore::new(PAYLOAD_BYTES));
    loop {
        // A client that does not read its answers is not read either.
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
        // The room is given back: an answer of an earlier request may need it.
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
                    // A client that is gone needs no answer.
                    let _ = answers.send((header.stream_id, response)).await;
                }
                () = answers.closed() => {}
            }
            // Until here it was at work: also while its answer had no room.
            drop((taken, bytes));
        });
    }
}

/// Why there is no request to begin.
enum Unread {
    /// It is answered with this.
    Refused(u32, Response),
    Ignored,
    Ended,
}

/// The next request.
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
        // No method here has a stream.
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

/// Writes answers, each as one message. Ends when the client does not take them.
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
