//! Programs that a runtime runs, and processes that it makes.
//!
//! The shim reaps every child itself, so `std::process::Child::wait` would find nothing. These
//! calls spawn and leave the waiting to the shim. They do not hold up the event loop, which a spawn
//! by `std::process::Command` would do until the program runs.
//!
//! Two kinds: [`spawn`] is for a helper that serves one call, [`spawn_process`] for the process of a
//! container. Both die with the shim.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::thread::{self, Spawned};
use crate::reaper;
use crate::reaper::ExitWatch;
use crate::sys::{self, Stack};
use crate::{Error, Exit, Kind, Pid, ProcessHandle, Program, Result, Signal};

/// How much of a helper's output is kept; the rest is read and dropped.
const MAX_CAPTURED_BYTES: usize = 4 << 20;

/// A helper that was spawned.
///
/// # Cancel safety
///
/// Every method may be dropped; the helper is reaped in any case. It is not killed by a drop.
#[derive(Debug)]
pub struct Child {
    process: ProcessHandle,
    watch: ExitWatch,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// What a helper left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, where that was piped.
    pub stdout: Vec<u8>,
    /// Its standard error, where that was piped.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it ended well.
    pub fn success(&self) -> bool {
        self.exit.status == 0
    }
}

/// Spawns a helper. It is killed when the shim dies.
///
/// Must be called from a [`Runtime`](crate::Runtime)'s methods, on the shim's thread.
///
/// # Cancel safety
///
/// Dropped before it has answered, it leaves nothing that runs.
pub async fn spawn(program: Program) -> Result<Child> {
    // It may have been reaped by the time that this thread hears of it.
    let _expecting = reaper::expect();
    let Spawned { process, stdout, stderr } = thread::spawn(program).await?;
    let watch = reaper::watch_child(&process);
    Ok(Child { process, watch, stdout, stderr })
}

/// Spawns the process of a container; the SDK learns its exit from the pid that the runtime
/// answers with.
///
/// It is killed when the shim dies, at whichever moment that is: a process that was spawned and not
/// yet journaled would be nobody's, and what is journaled the daemon's `delete` kills anyway.
///
/// Must be called from a [`Runtime`](crate::Runtime)'s methods, as [`spawn`].
///
/// # Cancel safety
///
/// As [`spawn`].
pub async fn spawn_process(program: Program) -> Result<Pid> {
    Ok(thread::spawn(program).await?.process.pid())
}

/// Spawns a helper that the caller watches over, and holds up the event loop until it runs: for one
/// that is rare and lives long.
///
/// Must be called from a [`Runtime`](crate::Runtime)'s methods, as [`spawn`].
pub fn spawn_now(program: Program) -> Result<ProcessHandle> {
    Ok(thread::spawn_blocking(program, &mut Stack::new())?.process)
}

impl Child {
    /// The helper's pid.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The helper, for signals.
    pub fn process(&self) -> &ProcessHandle {
        &self.process
    }

    /// The helper and its exit, where its output is no matter.
    pub(crate) fn apart(self) -> (ProcessHandle, ExitWatch) {
        (self.process, self.watch)
    }

    /// Waits for the exit; the same again once it is known.
    pub async fn wait(&mut self) -> Exit {
        (&mut self.watch).await
    }

    /// Waits for the exit and what was written to pipes until then. After the limit, where there
    /// is one, the helper is killed and the answer is an error of kind DEADLINE_EXCEEDED.
    ///
    /// The exit ends the reading, not the end of the file: whoever inherited a pipe may keep it.
    pub async fn output(mut self, limit: Option<Duration>) -> Result<Output> {
        let (mut stdout, mut stderr) = (Capture::new(self.stdout), Capture::new(self.stderr));
        let work = async {
            let exit = loop {
                tokio::select! {
                    exit = &mut self.watch => break exit,
                    () = stdout.read() => {}
                    () = stderr.read() => {}
                }
            };
            stdout.read_available();
            stderr.read_available();
            exit
        };
        let exit = match limit {
            None => work.await,
            Some(limit) => match tokio::time::timeout(limit, work).await {
                Ok(exit) => exit,
                Err(_) => {
                    // It may have exited just now, which is as well.
                    let _ = self.process.signal(Signal::KILL);
                    return Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!("process {} took longer than {limit:?}", self.process.pid()),
                    ));
                }
            },
        };
        Ok(Output { exit, stdout: stdout.bytes, stderr: stderr.bytes })
    }
}

/// One stream being read.
struct Capture {
    pipe: Option<AsyncFd<OwnedFd>>,
    bytes: Vec<u8>,
}

impl Capture {
    fn new(pipe: Option<OwnedFd>) -> Self {
        let pipe = pipe.and_then(|pipe| {
            rustix::io::ioctl_fionbio(pipe.as_fd(), true).ok()?;
            sys::async_fd(pipe, Interest::READABLE).ok()
        });
        Self { pipe, bytes: Vec::new() }
    }

    /// Reads once; pending for ever at the end of the file, so that a select! goes on without it.
    async fn read(&mut self) {
        let Some(pipe) = &self.pipe else { return std::future::pending().await };
        let Ok(mut ready) = pipe.readable().await else {
            self.pipe = None;
            return;
        };
        let result = ready.try_io(|pipe| read_into(pipe.get_ref(), &mut self.bytes));
        match result {
            Ok(Ok(0)) | Ok(Err(_)) => self.pipe = None,
            Ok(Ok(_)) | Err(_) => {}
        }
    }

    /// Reads what is there now.
    fn read_available(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        while read_into(pipe.get_ref(), &mut self.bytes).is_ok_and(|read| read > 0) {}
    }
}

fn read_into(pipe: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 8192];
    let read = rustix::io::read(pipe, &mut chunk)?;
    let room = MAX_CAPTURED_BYTES.saturating_sub(bytes.len());
    bytes.extend_from_slice(&chunk[..read.min(room)]);
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_shim(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test());
    }

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script]).capture_stdout().capture_stderr()
    }

    #[test]
    fn output_and_status_of_a_helper_come_through() {
        in_shim(async || {
            let child = spawn(sh("echo out; echo err >&2; exit 3")).await.expect("spawn");
            let output = child.output(None).await.expect("no limit");
            assert_eq!(output.exit.status, 3);
            assert_eq!(output.stdout, b"out\n");
            assert_eq!(output.stderr, b"err\n");
        });
    }

    #[test]
    fn more_output_than_a_pipe_holds_is_read_whole() {
        in_shim(async || {
            let child = spawn(sh("head -c 1000000 /dev/zero")).await.expect("spawn");
            assert_eq!(child.output(None).await.expect("no limit").stdout.len(), 1_000_000);
        });
    }

    #[test]
    fn a_pipe_that_was_inherited_does_not_delay_the_answer() {
        in_shim(async || {
            let child = spawn(sh("sleep 100 & echo $!")).await.expect("spawn");
            let output = tokio::time::timeout(Duration::from_secs(20), child.output(None)).await;
            let output = output.expect("at once").expect("no limit");
            let pid = String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().expect("a pid");
            let left = ProcessHandle::open(Pid::new(pid).expect("not 0")).expect("open");
            left.signal(Signal::KILL).expect("it runs");
        });
    }

    #[test]
    fn a_helper_that_hangs_is_killed_at_its_limit() {
        in_shim(async || {
            let child = spawn(sh("exec sleep 100")).await.expect("spawn");
            let process = ProcessHandle::open(child.pid()).expect("open");
            let error = child.output(Some(Duration::from_millis(50))).await.expect_err("too slow");
            assert_eq!(error.kind(), Kind::DeadlineExceeded);
            reaper::watch(&process).await;
        });
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        in_shim(async || {
            let error = spawn(Program::new("/no/such")).await.expect_err("missing");
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(error.to_string().contains("/no/such"));
        });
    }
}
