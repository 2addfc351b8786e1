//! Runs a shim's binary: `start`, which answers with an address, and `delete`, which cleans up.
//!
//! Promise: neither blocks the runtime's thread, neither takes longer than its limit, and a shim
//! gets none of this daemon's descriptors.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use prost_types::Any;
use protos::ttrpc::api;
use protos::ttrpc::protobuf::Message as _;
use shim_sdk::Exit;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::Deleted;
use super::bootstrap::{Bootstrap, Dialect, Parameters};
use super::error::TaskError;

/// How long `start` may take. A machine that starts many at once is slow, not broken.
const START: Duration = Duration::from_secs(30);
/// How long `delete` may take: it kills, unmounts and removes.
const DELETE: Duration = Duration::from_secs(10);
/// As much as is read of what a shim prints.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Variables that speak to this process, not to its children.
const PRIVATE: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

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
    fn command(&self, told: &Parameters<'_>) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.bundle);
        command.args(["-namespace", told.namespace, "-address", told.grpc_address]);
        command.args(["-publish-binary", told.binary, "-id", told.id]);
        if told.debug {
            command.arg("-debug");
        }
        for name in PRIVATE {
            command.env_remove(name);
        }
        command.envs([
            ("TTRPC_ADDRESS", told.ttrpc_address),
            ("GRPC_ADDRESS", told.grpc_address),
            ("NAMESPACE", told.namespace),
            ("MAX_SHIM_VERSION", "3"),
            // What containerd allows a shim written in Go.
            ("GOMAXPROCS", "2"),
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
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
        let mut command = self.command(told);
        command.arg("start").stdin(Stdio::piped());
        let mut child = command.spawn().map_err(self.failed())?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(&told.encode(dialect)) {
                // A shim need not read what it has no use for.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    end(&mut child);
                    return Err(self.failed()(error));
                }
                _ => {}
            }
        }
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
        let mut command = self.command(told);
        command.arg("-bundle").arg(&self.bundle).arg("delete").stdin(Stdio::null());
        let spawned = tokio::task::spawn_blocking(move || command.spawn()).await;
        let child = spawned
            .map_err(|_| TaskError::Interrupted { what: "start of a shim" })?
            .map_err(self.failed())?;
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
                at: super::driver::time(answer.exited_at.as_ref())
                    .unwrap_or_else(std::time::SystemTime::now),
            },
        })
    }

    /// Has the shim's binary describe itself: an encoded `RuntimeInfo`.
    pub(super) async fn info(path: PathBuf, options: Option<Any>) -> Result<Vec<u8>, TaskError> {
        let shim = Self { path: path.clone(), bundle: "/".into() };
        let mut command = Command::new(path);
        command.arg("-info").current_dir("/").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = options.map(|options| prost::Message::encode_to_vec(&options));
        let spawned = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A shim need not read what it has no use for.
                let _ = stdin.write_all(&input.unwrap_or_default());
            }
            Ok(child)
        });
        let child = spawned
            .await
            .map_err(|_| TaskError::Interrupted { what: "start of a shim" })?
            .map_err(shim.failed())?;
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
            let (stdout, stderr) =
                tokio::try_join!(read(stdout.map(Into::into)), read(stderr.map(Into::into)))?;
            super::sys::exited(&child).await?;
            Ok::<_, io::Error>((stdout, stderr))
        })
        .await;
        match collected {
            Ok(Ok((stdout, stderr))) => {
                let status = child.wait().map_err(self.failed())?;
                Ok((status, stdout, stderr))
            }
            Ok(Err(error)) => {
                end(&mut child);
                Err(self.failed()(error))
            }
            Err(_) => {
                end(&mut child);
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

/// Kills and reaps; a child that is dead already only wants the latter.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
