//! The client's side: reaches the daemon of a root, and starts one where nothing listens.
//!
//! Promise: however many clients do this at once, one daemon is started, and each of them is
//! connected to it or told why it did not come up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use super::lock::{self, Attempt};
use super::sys;
use crate::config::DaemonConfig;
use crate::error::DaemonError;

/// The log starts anew when it has grown past this.
const LOG_BYTES: u64 = 4 << 20;

/// What a daemon writes to its standard output once its socket answers.
pub(super) const READY: &[u8] = b"ready\n";

/// Connects to the daemon, after starting it if need be.
pub(crate) async fn connect(config: &DaemonConfig) -> Result<Channel, DaemonError> {
    let stream = ensure_running(config)?;
    channel(stream, config.address.clone()).await
}

/// A connection to the daemon, after starting it if need be. Blocks.
fn ensure_running(config: &DaemonConfig) -> Result<UnixStream, DaemonError> {
    if let Some(stream) = reach(&config.address)? {
        return Ok(stream);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(DaemonError::NotRoot { what: "supervisor" });
    }
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| DaemonError::File { what, path, cause }
    };
    fs::create_dir_all(&config.state).map_err(failed("make directory", &config.state))?;
    let path = config.state.join("start.lock");
    loop {
        let attempt = lock::attempt(&path).map_err(failed("lock", &path))?;
        // Whoever held the lock may have started a daemon since the last look.
        if let Some(stream) = reach(&config.address)? {
            return Ok(stream);
        }
        match attempt {
            Attempt::Locked(_held) => {
                start(config)?;
                return reach(&config.address)?.ok_or_else(|| DaemonError::DidNotStart {
                    reason: "it left at once".to_owned(),
                    log: log_path(config),
                });
            }
            Attempt::Held(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Connects if somebody listens.
fn reach(address: &Path) -> Result<Option<UnixStream>, DaemonError> {
    match UnixStream::connect(address) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(DaemonError::NotRoot { what: "supervisor" })
        }
        Err(cause) => {
            Err(DaemonError::File { what: "connect to", path: address.to_owned(), cause })
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
    command.current_dir("/").env_clear().envs(std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            name == "PATH"
                || name == "RUST_LOG"
                || name.starts_with("SUPERVISOR_")
                || name.to_ascii_lowercase().ends_with("_proxy")
        })
    }));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    sys::keep_descriptors_from_children();
    let mut child = command
        .spawn()
        .map_err(|cause| DaemonError::System { what: "start the supervisor", cause })?;
    let mut answer = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        // Ends when the daemon is ready (it lets go of the pipe) or dead.
        pipe.read_to_end(&mut answer)
            .map_err(|cause| DaemonError::System { what: "wait for the supervisor", cause })?;
    }
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

fn log_path(config: &DaemonConfig) -> std::path::PathBuf {
    config.state.join("supervisor.log")
}

/// The log for appending, and where its new part begins.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let begin = file.metadata()?.len();
    Ok((file, begin))
}

/// What a daemon that died said last.
fn last_line(path: &Path, begin: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(begin)).ok()?;
    let mut text = String::new();
    file.take(LOG_BYTES).read_to_string(&mut text).ok()?;
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // A panic is followed by a backtrace, or by a note on how to get one.
    let panic = lines.iter().rposition(|line| line.contains(" panicked at "));
    let line = match panic {
        Some(at) => lines.get(at + 1).or(lines.get(at)),
        None => lines.last(),
    };
    Some(line?.trim_start_matches("supervisor: ").to_owned())
}

/// A gRPC channel whose first connection is `stream`.
async fn channel(stream: UnixStream, address: std::path::PathBuf) -> Result<Channel, DaemonError> {
    let first = Arc::new(Mutex::new(Some(stream)));
    let failed = {
        let address = address.clone();
        move |cause| DaemonError::Serve { address, cause }
    };
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let address = address.clone();
        async move {
            let stream = match first {
                Some(stream) => {
                    stream.set_nonblocking(true)?;
                    tokio::net::UnixStream::from_std(stream)?
                }
                None => tokio::net::UnixStream::connect(address).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
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
