//! Runs a shim's binary: `start`, which answers with an address, and `delete`, which cleans up.
//!
//! Promise: neither blocks the runtime's thread, neither takes longer than its limit, and a shim
//! gets none of this daemon's descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use protos::ttrpc::api;
use protos::ttrpc::protobuf::Message as _;
use shim_sdk::Exit;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::Deleted;
use super::error::TaskError;
use super::shim_client::bootstrap::{Bootstrap, Dialect, Parameters};
use super::sys::{Child, Command};
use crate::any::Any;

/// How long `start` may take. A machine that starts many at once is slow, not broken.
const START: Duration = Duration::from_secs(30);
/// How long `delete` may take: it kills, unmounts and removes.
const DELETE: Duration = Duration::from_secs(10);
/// As much as is read of what a shim prints.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Variables that a shim does not get from this process: they are set anew, or speak to this
/// process alone.
const SET: [&str; 9] = [
    "TTRPC_ADDRESS",
    "GRPC_ADDRESS",
    "NAMESPACE",
    "MAX_SHIM_VERSION",
    "GOMAXPROCS",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// A shim's binary as it is called for one task.
#[derive(Debug, Clone)]
pub(super) struct Shim {
    pub(super) path: PathBuf,
    pub(super) bundle: PathBuf,
}

/// A shim that is at `start`.
#[derive(Debug)]
pub(super) struct Starting {
    child: Child,
}

impl Shim {
    fn command(&self, told: &Parameters<'_>) -> Result<Command, TaskError> {
        let inherited = std::env::vars_os()
            .filter(|(name, _)| !name.to_str().is_some_and(|name| SET.contains(&name)));
        let set = [
            ("TTRPC_ADDRESS", told.ttrpc_address),
            ("GRPC_ADDRESS", told.grpc_address),
            ("NAMESPACE", told.namespace),
            ("MAX_SHIM_VERSION", "3"),
            // What containerd allows a shim written in Go.
            ("GOMAXPROCS", "2"),
        ];
        let set = set.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let build = || {
            let mut command = Command::new(&self.path, &self.bundle, inherited.chain(set))?;
            let flags = [
                ("-namespace", told.namespace),
                ("-address", told.grpc_address),
                ("-publish-binary", told.binary),
                ("-id", told.id),
            ];
            for (name, value) in flags {
                command.argument(name)?.argument(value)?;
            }
            if told.debug {
                command.argument("-debug")?;
            }
            Ok(command)
        };
        build().map_err(self.failed())
    }

    fn failed(&self) -> impl Fn(io::Error) -> TaskError + use<> {
        let shim = self.path.clone();
        move |cause| TaskError::Spawn { shim: shim.clone(), cause }
    }

    /// Starts the shim. Blocks until it has been executed.
    pub(super) fn spawn(
        &self,
        told: &Parameters<'_>,
        dialect: Dialect,
    ) -> Result<Starting, TaskError> {
        let mut command = self.command(told)?;
        command.argument("start").map_err(self.failed())?;
        let child = run(&command, &told.encode(dialect)).map_err(self.failed())?;
        Ok(Starting { child })
    }

    /// Reads the address that the shim prints.
    pub(super) async fn address(&self, starting: Starting) -> Result<Bootstrap, TaskError> {
        let (status, stdout, stderr) = self.finish(starting.child, "start", START).await?;
        if !status.success() {
            let output = if stderr.is_empty() { stdout } else { stderr };
            let output = String::from_utf8_lossy(&output).trim().to_owned();
            let output = if output.is_empty() { status.to_string() } else { output };
            return Err(TaskError::ShimFailed { shim: self.path.clone(), output });
        }
        if !stderr.is_empty() {
            log::debug!("{}: {}", self.path.display(), String::from_utf8_lossy(&stderr).trim());
        }
        Bootstrap::parse(&stdout)
            .map_err(|cause| TaskError::Reply { shim: self.path.clone(), cause })
    }

    /// Has the shim's binary clean up behind a shim that is gone.
    pub(super) async fn delete(&self, told: &Parameters<'_>) -> Result<Deleted, TaskError> {
        let mut command = self.command(told)?;
        let arguments = [OsStr::new("-bundle"), self.bundle.as_os_str(), OsStr::new("delete")];
        for argument in arguments {
            command.argument(argument).map_err(self.failed())?;
        }
        let child = beside(move || run(&command, &[])).await.map_err(self.failed())?;
        let (status, stdout, stderr) = self.finish(child, "delete", DELETE).await?;
        let failed = |output: String| TaskError::ShimFailed { shim: self.path.clone(), output };
        if !status.success() {
            return Err(failed(String::from_utf8_lossy(&stderr).trim().to_owned()));
        }
        let answer = api::DeleteResponse::parse_from_bytes(&stdout)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Deleted {
            pid: Some(answer.pid).filter(|pid| *pid > 0),
            exit: Exit {
                status: answer.exit_status,
                at: super::shim_client::time(answer.exited_at.as_ref())
                    .unwrap_or_else(std::time::SystemTime::now),
            },
        })
    }

    /// Has the shim's binary describe itself: an encoded `RuntimeInfo`.
    pub(super) async fn info(path: PathBuf, options: Option<Any>) -> Result<Vec<u8>, TaskError> {
        let shim = Self { path, bundle: "/".into() };
        let mut command =
            Command::new(&shim.path, &shim.bundle, std::env::vars_os()).map_err(shim.failed())?;
        command.argument("-info").map_err(shim.failed())?;
        let input = options.map(|options| prost::Message::encode_to_vec(&options));
        let child = beside(move || run(&command, &input.unwrap_or_default()));
        let child = child.await.map_err(shim.failed())?;
        let (status, stdout, stderr) = shim.finish(child, "-info", DELETE).await?;
        if !status.success() {
            let output = String::from_utf8_lossy(&stderr).trim().to_owned();
            return Err(TaskError::ShimFailed { shim: shim.path, output });
        }
        Ok(stdout)
    }

    /// Collects what a child prints and how it ends; kills it when the limit is over.
    async fn finish(
        &self,
        mut child: Child,
        action: &'static str,
        limit: Duration,
    ) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), TaskError> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let collected = tokio::time::timeout(limit, async {
            let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))?;
            child.exited().await?;
            Ok::<_, io::Error>((stdout, stderr))
        })
        .await;
        match collected {
            Ok(Ok((stdout, stderr))) => {
                let status = child.reap().map_err(self.failed())?;
                Ok((status, stdout, stderr))
            }
            Ok(Err(error)) => {
                child.end();
                Err(self.failed()(error))
            }
            Err(_) => {
                child.end();
                let seconds = limit.as_secs();
                Err(TaskError::ShimSlow { shim: self.path.clone(), action, seconds })
            }
        }
    }
}

/// Everything that comes out of a pipe.
async fn read(pipe: Option<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        pipe.take(OUTPUT_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Starts a command and gives it its input. Blocks.
fn run(command: &Command, input: &[u8]) -> io::Result<Child> {
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(File::from);
    match stdin.map(|mut stdin| stdin.write_all(input)) {
        // A shim need not read what it has no use for.
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            child.end();
            Err(error)
        }
        _ => Ok(child),
    }
}

/// Runs what blocks beside the runtime.
async fn beside<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
