//! The socket on which shims deliver their events.
//!
//! Its path is the same as long as the state directory is: shims that outlive this daemon find the
//! next one there. Connections to it do not count as clients.
//!
//! ttrpc's own server keeps every request that comes and every answer that is not read in memory. So
//! framing and messages are the library's, and the loop between them is here.
//! Promise: one request of a connection is in memory at a time. The next is read when its answer is
//! written.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use protos::ttrpc::api::ForwardRequest;
use protos::ttrpc::protobuf::Message as _;
use protos::ttrpc::protobuf::well_known_types::empty::Empty;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use ttrpc::proto::{GenMessage, GenMessageError, MESSAGE_TYPE_REQUEST};
use ttrpc::{Code, MessageHeader, Request, Response, get_status};

use super::table::Tasks;
use crate::any::Any;
use crate::error::DaemonError;
use crate::events::{Envelope, Event};

/// The service and its only method.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";
/// How long after an accept that failed, for want of descriptors most likely, comes the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes events until it is dropped, as do its connections.
pub(crate) struct EventServer(JoinHandle<()>);

impl Drop for EventServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to take events. Must be called within the runtime.
pub(crate) fn listen(
    listener: StdListener,
    address: &Path,
    tasks: Tasks,
) -> Result<EventServer, DaemonError> {
    let listener = UnixListener::from_std(listener).map_err(|cause| DaemonError::File {
        what: "listen for events on",
        path: address.to_owned(),
        cause,
    })?;
    Ok(EventServer(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (reader, writer) = stream.into_split();
                        connections.spawn(serve(reader, writer, tasks.clone()));
                    }
                    Err(error) => {
                        log::warn!("accept a shim's connection: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    })))
}

/// Takes the events of one connection until it ends.
async fn serve(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    tasks: Tasks,
) {
    loop {
        let (stream_id, response) = match GenMessage::read_from(&mut reader).await {
            Ok(message) if message.header.type_ != MESSAGE_TYPE_REQUEST => continue,
            Ok(message) => (message.header.stream_id, answer(&message.payload, &tasks)),
            Err(GenMessageError::ReturnError(header, error)) => (header.stream_id, error.into()),
            Err(GenMessageError::InternalError(_)) => return,
        };
        let Ok(payload) = response.write_to_bytes() else { return };
        let Ok(length) = payload.len().try_into() else { return };
        let mut bytes: Vec<u8> = MessageHeader::new_response(stream_id, length).into();
        bytes.extend(payload);
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Delivers the event of a request.
fn answer(payload: &[u8], tasks: &Tasks) -> Response {
    let mut response = Response::new();
    let outcome = deliver(payload, tasks).and_then(|()| {
        Empty::new().write_to_bytes().map_err(|error| (Code::INTERNAL, error.to_string()))
    });
    match outcome {
        Ok(payload) => {
            response.set_status(get_status(Code::OK, ""));
            response.payload = payload;
        }
        Err((code, message)) => response.set_status(get_status(code, message)),
    }
    response
}

fn deliver(payload: &[u8], tasks: &Tasks) -> Result<(), (Code, String)> {
    let refused = |message: String| (Code::INVALID_ARGUMENT, message);
    let undecoded = |error| refused(format!("decode the request: {error}"));
    let request = Request::parse_from_bytes(payload).map_err(undecoded)?;
    if (request.service.as_str(), request.method.as_str()) != (SERVICE, METHOD) {
        return Err((Code::UNIMPLEMENTED, format!("only {SERVICE}/{METHOD} is served here")));
    }
    let request = ForwardRequest::parse_from_bytes(&request.payload).map_err(undecoded)?;
    let Some(envelope) = request.envelope.into_option() else {
        return Err(refused("no envelope".to_owned()));
    };
    let event = envelope.event.into_option().unwrap_or_default();
    let message = Any { type_url: event.type_url, value: event.value };
    let event = Envelope {
        timestamp: super::shim_client::time(envelope.timestamp.as_ref())
            .unwrap_or_else(SystemTime::now),
        namespace: envelope.namespace,
        event: Event::Forwarded { topic: envelope.topic, message },
    };
    tasks.deliver(event).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::{DaemonConfig, Flags};
    use crate::events::Bus;

    fn request(stream_id: u32, method: &str, padding: usize) -> Vec<u8> {
        let request = Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload: vec![0xff; padding],
            ..Request::default()
        };
        let payload = request.write_to_bytes().unwrap();
        let length = payload.len().try_into().unwrap();
        let bytes: Vec<u8> = MessageHeader::new_request(stream_id, length).into();
        [bytes, payload].concat()
    }

    /// A server that takes events.
    fn event_server() -> (tempfile::TempDir, EventServer, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let flags = Flags {
            root: Some(directory.path().join("root")),
            state: Some(directory.path().join("state")),
            config: Some("/dev/null".into()),
            ..Flags::default()
        };
        let config = DaemonConfig::resolve(&flags).unwrap();
        let tasks = Tasks::new(super::super::ShimEnvironment::new(&config), Bus::new());
        let address = directory.path().join("events");
        let listener = StdListener::bind(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = listen(listener, &address, tasks).unwrap();
        (directory, server, address)
    }

    /// 256 MiB of requests whose answers were not read were all in memory.
    #[tokio::test]
    async fn what_does_not_read_its_answers_is_not_read_for_ever() {
        let (_place, _server, address) = event_server();
        let sent = tokio::task::spawn_blocking(move || {
            let mut shim = UnixStream::connect(address).unwrap();
            shim.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let one = request(1, "Forward", 256);
            for number in 0..1_000_000_usize {
                if let Err(error) = shim.write_all(&one) {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return number * one.len();
                }
            }
            usize::MAX
        });
        let sent = sent.await.unwrap();
        assert!(sent < 16 << 20, "{sent} bytes were read");
    }

    #[tokio::test]
    async fn what_is_refused_is_answered_and_the_next_request_is_read() {
        use tokio::io::AsyncReadExt as _;
        let (_place, server, address) = event_server();
        let mut shim = tokio::net::UnixStream::connect(&address).await.unwrap();
        let too_large = MessageHeader::new_request(3, (4 << 20) + 1);
        let too_large = [Vec::from(too_large), vec![0; (4 << 20) + 1]].concat();
        for (sent, code) in [
            (request(1, "Forward", 0), Code::INVALID_ARGUMENT),
            (too_large, Code::INVALID_ARGUMENT),
            (request(5, "Forward", 9), Code::INVALID_ARGUMENT),
            (request(7, "Other", 0), Code::UNIMPLEMENTED),
        ] {
            shim.write_all(&sent).await.unwrap();
            let answer = GenMessage::read_from(&mut shim).await.unwrap();
            let response = Response::parse_from_bytes(&answer.payload).unwrap();
            assert_eq!(response.status().code(), code);
        }
        drop(server);
        assert_eq!(shim.read(&mut [0; 1]).await.unwrap(), 0, "its connections end with it");
    }
}
