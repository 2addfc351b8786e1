//! A ttrpc client and its frames, written for looking at servers: blocking, one thread a
//! connection, many calls in flight, and able to send what no honest client would.
//!
//! A frame is a big-endian length and stream id, a type, flags, and a protobuf message. See the
//! protocol's own description in containerd's ttrpc repository.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protos::ttrpc::protobuf::{EnumOrUnknown, Message, MessageField};
pub use protos::ttrpc::ttrpc::Code;
use protos::ttrpc::ttrpc::{Request, Response, Status};

/// The type of a frame with a request.
pub const REQUEST: u8 = 1;
/// The type of a frame with a response.
pub const RESPONSE: u8 = 2;

/// The largest frame either side may send.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// How long a caller waits that named no limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server answered with an error.
    Refused {
        /// Its code.
        code: Code,
        /// Its text.
        message: String,
    },
    /// The connection ended first.
    Closed,
    /// No answer within the caller's own limit.
    Silent(Duration),
    /// The answer cannot be understood.
    Garbled(String),
}

impl CallError {
    /// The code, when the server answered at all.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "{code:?}: {message}"),
            Self::Closed => write!(f, "the connection was closed"),
            Self::Silent(limit) => write!(f, "no answer within {:.1} s", limit.as_secs_f32()),
            Self::Garbled(why) => write!(f, "an answer that cannot be understood: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// A connection; clones share it, and it ends with the last of them.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

struct Connection {
    stream: UnixStream,
    next: AtomicU32,
    waiting: Arc<Mutex<Waiting>>,
    writing: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    closed: bool,
    streams: HashMap<u32, mpsc::Sender<(Instant, Response)>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The reader thread sees the end and leaves.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A call that is not answered yet.
pub struct Pending {
    sent: Instant,
    answer: mpsc::Receiver<(Instant, Response)>,
    // Keeps the connection for as long as a call waits on it.
    _connection: Arc<Connection>,
}

impl Client {
    /// Connects to `unix:///path`, a bare path, or an abstract name.
    ///
    /// # Errors
    ///
    /// As connect(2).
    pub fn connect(address: &str) -> io::Result<Self> {
        Self::over(open(address)?)
    }

    /// Speaks over a socket that is connected already.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be duplicated.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (reader, shared) = (stream.try_clone()?, waiting.clone());
        std::thread::spawn(move || read_answers(reader, &shared));
        Ok(Self {
            connection: Arc::new(Connection {
                stream,
                next: AtomicU32::new(1),
                waiting,
                writing: Mutex::new(()),
            }),
        })
    }

    /// Sends a request. `deadline` goes to the server with it; zero is none.
    ///
    /// # Errors
    ///
    /// When the connection is closed.
    pub fn send(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Pending, CallError> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX),
            ..Request::default()
        };
        let stream = self.connection.next.fetch_add(2, Ordering::Relaxed);
        let (sender, answer) = mpsc::channel();
        {
            let mut waiting = hold(&self.connection.waiting);
            if waiting.closed {
                return Err(CallError::Closed);
            }
            waiting.streams.insert(stream, sender);
        }
        let bytes = request
            .write_to_bytes()
            .map_err(|why| CallError::Garbled(format!("request: {why}")))?;
        let sent = Instant::now();
        self.send_raw(&frame(stream, REQUEST, &bytes)).map_err(|_| CallError::Closed)?;
        Ok(Pending { sent, answer, _connection: self.connection.clone() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// As write(2).
    pub fn send_raw(&self, bytes: &[u8]) -> io::Result<()> {
        let _alone = hold(&self.connection.writing);
        (&self.connection.stream).write_all(bytes)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call<Q: Message, R: Message>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        deadline: Duration,
        limit: Duration,
    ) -> Result<R, CallError> {
        let bytes = request
            .write_to_bytes()
            .map_err(|why| CallError::Garbled(format!("request: {why}")))?;
        self.send(service, method, bytes, deadline)?.wait(limit)
    }

    /// Ends the connection, also for its other holders.
    pub fn close(&self) {
        // It may have ended; that is the same result.
        let _ = self.connection.stream.shutdown(Shutdown::Both);
    }

    /// Whether the server has ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        hold(&self.connection.waiting).closed
    }
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn wait<R: Message>(&self, limit: Duration) -> Result<R, CallError> {
        self.wait_timed(limit).map(|(answer, _)| answer)
    }

    /// Waits for the answer; how long it took to arrive, whenever this was called.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn wait_timed<R: Message>(&self, limit: Duration) -> Result<(R, Duration), CallError> {
        let (arrived, response) = self.answer.recv_timeout(limit).map_err(|why| match why {
            RecvTimeoutError::Timeout => CallError::Silent(limit),
            RecvTimeoutError::Disconnected => CallError::Closed,
        })?;
        let code = response.status.code.enum_value_or(Code::UNKNOWN);
        if code != Code::OK {
            return Err(CallError::Refused { code, message: response.status.message.clone() });
        }
        let answer = R::parse_from_bytes(&response.payload)
            .map_err(|why| CallError::Garbled(why.to_string()))?;
        Ok((answer, arrived.saturating_duration_since(self.sent)))
    }

    /// Whether the answer has not come yet.
    #[must_use]
    pub fn is_silent_for(&self, limit: Duration) -> bool {
        matches!(self.answer.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}

/// Connects a socket to a shim's address.
///
/// # Errors
///
/// As connect(2).
pub fn open(address: &str) -> io::Result<UnixStream> {
    if let Some(path) = address.strip_prefix("unix://") {
        return UnixStream::connect(path);
    }
    if address.starts_with('/') {
        return UnixStream::connect(address);
    }
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(address)?)
}

/// One frame.
#[must_use]
pub fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10 + payload.len());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.push(kind);
    bytes.push(0);
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads one frame: its stream id, type and payload.
///
/// # Errors
///
/// As read(2), and `InvalidData` for a frame over the limit.
pub fn read_frame(from: &mut impl Read) -> io::Result<(u32, u8, Vec<u8>)> {
    let mut header = [0; 10];
    from.read_exact(&mut header)?;
    let [a, b, c, d, e, f, g, h, kind, _] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} byte frame")));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok((u32::from_be_bytes([e, f, g, h]), kind, payload))
}

/// The frame that answers `stream` with success.
#[must_use]
pub fn success(stream: u32, payload: Vec<u8>) -> Vec<u8> {
    let response = Response {
        status: MessageField::some(Status {
            code: EnumOrUnknown::new(Code::OK),
            ..Status::default()
        }),
        payload,
        ..Response::default()
    };
    frame(stream, RESPONSE, &response.write_to_bytes().unwrap_or_default())
}

fn read_answers(mut from: UnixStream, waiting: &Mutex<Waiting>) {
    while let Ok((stream, kind, payload)) = read_frame(&mut from) {
        if kind != RESPONSE {
            continue;
        }
        let arrived = Instant::now();
        let Some(sender) = hold(waiting).streams.remove(&stream) else { continue };
        if let Ok(response) = Response::parse_from_bytes(&payload) {
            // The caller may have given up.
            let _ = sender.send((arrived, response));
        }
    }
    let mut waiting = hold(waiting);
    waiting.closed = true;
    waiting.streams.clear();
}

/// A lock whose holders cannot leave it in a bad state.
pub(crate) fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
