//! Helpers, with their exit and output, and processes of containers.
//!
//! The kernel kills both when the shim dies (PR_SET_PDEATHSIG).

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

/// The most of a helper's output that is kept. The rest is read and dropped.
const MAX_CAPTURED_BYTES: usize = 4 << 20;

/// A helper that was spawned.
///
/// # Cancel safety
///
/// Every method may be dropped. The helper is not killed then, and is still reaped.
#[derive(Debug)]
pub struct Child {
    process: ProcessHandle,
    watch: ExitWatch,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The exit and the output of a helper.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, if it was captured.
    pub stdout: Vec<u8>,
    /// Its standard error, if it was captured.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether its status is 0.
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
/// If it is dropped before it returns, the helper is killed.
pub async fn spawn(program: Program) -> Result<Child> {
    // The helper may be reaped before this thread gets its pid.
    let _expecting = reaper::expect();
    let Spawned { process, stdout, stderr } = thread::spawn(program).await?;
    let watch = reaper::watch_child(&process);
    Ok(Child { process, watch, stdout, stderr })
}

/// Spawns the process of a container. The SDK watches the pid that the runtime returns.
///
/// The kernel kills the process when the shim dies. Otherwise no process would know of one that is
/// not in the journal yet; one in the journal is killed by `delete` anyway.
///
/// Must be called from a [`Runtime`](crate::Runtime)'s methods, as [`spawn`].
///
/// # Cancel safety
///
/// As [`spawn`].
pub async fn spawn_process(program: Program) -> Result<Pid> {
    Ok(thread::spawn(program).await?.process.pid())
}

/// Spawns a helper that the caller supervises. It blocks the event loop until the helper runs, so
/// it is for helpers that are started rarely and live long.
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

    /// The helper and its exit, without its output.
    pub(crate) fn apart(self) -> (ProcessHandle, ExitWatch) {
        (self.process, self.watch)
    }

    /// Waits for the exit. Later calls return it again.
    pub async fn wait(&mut self) -> Exit {
        (&mut self.watch).await
    }

    /// Waits for the exit and returns it with the captured output. After the limit, if there is
    /// one, the helper is killed and the error is DEADLINE_EXCEEDED.
    ///
    /// Reading stops at the exit, not at the end of the file: a process that inherited a pipe may
    /// keep it open.
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
                    // It may have exited in between; that is the same result.
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

/// A stream that is captured.
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

    /// Reads once. At the end of the file it never returns, so that a select! continues with the
    /// others.
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

    /// Reads the bytes that are in the pipe now.
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
