//! The client's side: reaches the daemon of a root, and starts one where nothing listens.
//!
//! Promise: however many clients do this at once, one daemon is started, and each of them is
//! connected to it or told why it did not come up. The daemon that was reached serves this root, and
//! answers: a socket that accepts and says nothing is an error after [`ANSWER`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protos::grpc::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use shim_sdk::error::report;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::lock::{self, Attempt};
use super::retry::RetryingChannel;
use super::{root, sys};
use crate::api::introspection::SERVED_ROOT;
use crate::config::DaemonConfig;
use crate::error::DaemonError;

/// Where a daemon that was started on demand looks for shims and their runtimes.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// As much of a log's new part is looked at.
const REASON_BYTES: u64 = 4 << 20;

/// What a daemon writes to its standard output once its socket answers.
pub(super) const READY: &[u8] = b"ready\n";

/// How long a daemon may take to accept a connection, and to answer the first question.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a daemon may take to come up. It may have hundreds of shims to find again.
const START: Duration = Duration::from_secs(120);
/// How often a daemon that goes away before its first answer is looked for again.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Connects to the daemon, after starting it if need be.
pub(crate) async fn connect(config: &DaemonConfig) -> Result<RetryingChannel, DaemonError> {
    let mut attempt = 1;
    loop {
        let stream = ensure_running_beside(config).await?;
        let answered = tokio::time::timeout(ANSWER, first_answer(stream, config)).await;
        let error = match answered.unwrap_or(Err(First::Failed(silent(config)))) {
            Ok(channel) => return Ok(RetryingChannel(channel)),
            Err(First::Failed(error)) => return Err(error),
            Err(First::Gone(error)) => error,
        };
        if attempt == ATTEMPTS {
            return Err(error);
        }
        // It was leaving, or being killed, when it was reached.
        log::debug!("{}; trying again", report(&error));
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a process listens at all.
pub(crate) fn is_listening(config: &DaemonConfig) -> Result<bool, DaemonError> {
    reach(config).map(|stream| stream.is_some())
}

/// Why the first question to a daemon got no answer that can be used.
enum First {
    /// It went away before it answered, which another one may do.
    Gone(DaemonError),
    Failed(DaemonError),
}

/// Asks a daemon which root it serves.
async fn first_answer(stream: UnixStream, config: &DaemonConfig) -> Result<Channel, First> {
    let channel = channel(stream, config).await.map_err(First::Gone)?;
    let answer = IntrospectionClient::new(channel.clone()).server(()).await;
    let served = match answer {
        Ok(answer) => answer.metadata().get_bin(SERVED_ROOT).and_then(|root| {
            let root = root.to_bytes().ok()?;
            Some(PathBuf::from(OsString::from_vec(root.to_vec())))
        }),
        Err(status) if went_away(&status) => {
            let cause = io::Error::other(status.to_string());
            let path = config.address.clone();
            return Err(First::Gone(DaemonError::File {
                what: "ask the supervisor on",
                path,
                cause,
            }));
        }
        // Any other error: the socket is not a supervisor's.
        Err(_) => None,
    };
    if served.as_ref() != Some(&config.root) {
        let (address, root) = (config.address.clone(), config.root.clone());
        return Err(First::Failed(DaemonError::OtherRoot { address, root, served }));
    }
    Ok(channel)
}

/// Whether a call failed because the connection did, rather than by the daemon's answer.
pub(crate) fn went_away(status: &Status) -> bool {
    // A connection that broke in the middle of a call reads as UNKNOWN or CANCELLED, with the
    // transport's error as its source.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

fn silent(config: &DaemonConfig) -> DaemonError {
    let (address, lock) = (config.address.clone(), config.root.join("lock"));
    DaemonError::Silent { address, lock, seconds: ANSWER.as_secs() }
}

/// [`ensure_running`] on a blocking thread. It has limits of its own.
async fn ensure_running_beside(config: &DaemonConfig) -> Result<UnixStream, DaemonError> {
    let config = config.clone();
    let running = tokio::task::spawn_blocking(move || ensure_running(&config)).await;
    running.unwrap_or_else(|error| {
        let cause = io::Error::other(error);
        Err(DaemonError::System { what: "start the supervisor", cause })
    })
}

/// A connection to the daemon, after starting it if need be. Blocks.
fn ensure_running(config: &DaemonConfig) -> Result<UnixStream, DaemonError> {
    if let Some(stream) = reach(config)? {
        return Ok(stream);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(DaemonError::NotRoot { what: "supervisor" });
    }
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| DaemonError::File { what, path, cause }
    };
    root::prepare_state(config)?;
    let path = config.state.join("start.lock");
    let deadline = Instant::now() + START;
    loop {
        let attempt = lock::attempt(&path).map_err(failed("lock", &path))?;
        // The holder of the lock may have started a daemon since the last look.
        if let Some(stream) = reach(config)? {
            return Ok(stream);
        }
        match attempt {
            Attempt::Locked(_held) => {
                start(config)?;
                return reach(config)?.ok_or_else(|| DaemonError::DidNotStart {
                    reason: "it left at once".to_owned(),
                    log: log_path(config),
                });
            }
            Attempt::Held(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Attempt::Held(pid) => {
                let holder = pid.map_or("a process".to_owned(), |pid| format!("process {pid}"));
                let seconds = START.as_secs();
                let reason =
                    format!("{holder} has been starting or stopping it for {seconds} s ({path:?})");
                return Err(DaemonError::DidNotStart { reason, log: log_path(config) });
            }
        }
    }
}

/// Connects if a process listens.
fn reach(config: &DaemonConfig) -> Result<Option<UnixStream>, DaemonError> {
    let failed = |cause: io::Error| DaemonError::File {
        what: "connect to",
        path: config.address.clone(),
        cause,
    };
    let address = SocketAddrUnix::new(&config.address).map_err(|errno| failed(errno.into()))?;
    let deadline = Instant::now() + ANSWER;
    loop {
        // Not blocking: with a full backlog, connect(2) would wait for a daemon that may hang.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| failed(errno.into()))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(Some(socket.into())),
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(Errno::ACCESS) => return Err(DaemonError::NotRoot { what: "supervisor" }),
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::AGAIN) => return Err(silent(config)),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Starts a daemon and waits until it answers or dies.
fn start(config: &DaemonConfig) -> Result<(), DaemonError> {
    let path = log_path(config);
    let failed = |cause| DaemonError::File { what: "open log", path: path.clone(), cause };
    let (log, begin) = open_log(&path).map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("supervisor").args(config.arguments()).args(["serve", "--on-demand"]);
    // Nothing of this client's: what a daemon needs to know is in its configuration, the same
    // the process that comes first.
    command.current_dir("/").env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    sys::keep_descriptors_from_children();
    let mut child = command
        .spawn()
        .map_err(|cause| DaemonError::System { what: "start the supervisor", cause })?;
    let answer = match child.stdout.take() {
        // Ends when the daemon is ready (it lets go of the pipe) or dead.
        Some(pipe) => read_until(pipe, Instant::now() + START)
            .map_err(|cause| DaemonError::System { what: "wait for the supervisor", cause })?,
        None => Vec::new(),
    };
    if answer == READY {
        return Ok(());
    }
    let status = child.wait();
    let reason = last_line(&path, begin).unwrap_or_else(|| match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    });
    Err(DaemonError::DidNotStart { reason, log: path })
}

/// Everything that comes out of a pipe, if its end does in time.
fn read_until(mut pipe: impl io::Read + AsFd, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => {
                let text = format!("not ready after {} s; it goes on starting", START.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Ok(_) => {
                let mut piece = [0; 64];
                match pipe.read(&mut piece)? {
                    0 => return Ok(answer),
                    n => answer.extend_from_slice(&piece[..n]),
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(super) fn log_path(config: &DaemonConfig) -> PathBuf {
    config.state.join("supervisor.log")
}

/// The log for appending, and where its new part begins.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let file = super::log::open(path)?;
    let begin = file.metadata()?.len();
    Ok((file, begin))
}

/// What a daemon that died said last.
fn last_line(path: &Path, begin: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(begin)).ok()?;
    let mut text = String::new();
    file.take(REASON_BYTES).read_to_string(&mut text).ok()?;
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // A panic is followed by a backtrace, or by a note on how to get one.
    let panic = lines.iter().rposition(|line| line.contains(" panicked at "));
    let line = match panic {
        Some(at) => lines.get(at + 1).or(lines.get(at)),
        None => lines.last(),
    };
    Some(line?.trim_start_matches("supervisor: ").to_owned())
}

/// A gRPC channel whose first connection is `stream`; later ones start a daemon if need be.
async fn channel(stream: UnixStream, config: &DaemonConfig) -> Result<Channel, DaemonError> {
    let first = Arc::new(Mutex::new(Some(stream)));
    let failed = |cause| DaemonError::Serve { address: config.address.clone(), cause };
    let known = config.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let config = known.clone();
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => ensure_running_beside(&config).await.map_err(io::Error::other)?,
            };
            Ok::<_, io::Error>(TokioIo::new(tokio::net::UnixStream::from_std(stream)?))
        }
    });
    // The authority is not used to connect, but HTTP wants one.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_line_of_the_new_part_of_the_log_is_the_reason() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("supervisor.log");
        fs::write(&path, "supervisor: an old failure\n").unwrap();
        let (mut log, begin) = open_log(&path).unwrap();
        assert_eq!(last_line(&path, begin), None);
        io::Write::write_all(&mut log, b"one\nsupervisor: root is held\n\n").unwrap();
        assert_eq!(last_line(&path, begin).unwrap(), "root is held");
        let panic =
            b"thread 'main' (7) panicked at x.rs:1:2:\ncannot\nnote: run with `RUST_BACKTRACE=1`\n";
        io::Write::write_all(&mut log, panic).unwrap();
        assert_eq!(last_line(&path, begin).unwrap(), "cannot");
    }
}
