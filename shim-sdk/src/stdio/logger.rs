//! A logger: a program that reads a process's output, for `binary://` and `binary-v2://`.
//!
//! It gets stdout as descriptor 3, stderr as 4, and writes a byte to 5 when it is ready. After the
//! end of the output it has time to finish; then it gets SIGTERM, and later SIGKILL. If it ends
//! before the output, the rest is read and discarded, because the process must not fail with its
//! logger.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::task::JoinHandle;

use super::copy;
use super::io::Owner;
use super::uri::LoggerUri;
use crate::spawn::spawn;
use crate::{Error, Kind, ProcessHandle, Program, Result, Signal};

/// How long a logger may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// The time between two checks for the end of the loggers, when the shim stops.
const LOOK: Duration = Duration::from_millis(20);
/// How long a logger has to end after a signal.
const END: Duration = Duration::from_secs(12);

thread_local! {
    /// Loggers that got a signal to end, after their Delete was answered.
    static ENDING: RefCell<Vec<Rc<ProcessHandle>>> = const { RefCell::new(Vec::new()) };
}

/// Waits for the loggers that got a signal to end, and kills those that do not end, because no
/// process would do that after the shim has stopped. Loggers of running processes are not touched.
pub(crate) async fn end_all(grace: Duration) {
    let ended = async {
        while ENDING.with_borrow(|ending| !ending.is_empty()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        for process in ENDING.take() {
            // It may have ended in between.
            let _ = process.signal(Signal::KILL);
        }
    }
}

/// A running logger.
#[derive(Debug)]
pub(super) struct Logger {
    process: Rc<ProcessHandle>,
    /// Ends when the logger has.
    ended: JoinHandle<()>,
}

impl Logger {
    /// Starts a logger and waits until it is ready. It gets the pipes.
    pub(super) async fn start(
        uri: &LoggerUri,
        owner: Owner<'_>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<Self> {
        let name = uri.program.display();
        let (ready, told) = copy::pipe()?;
        // Duplicates of the logger's pipes: without them a writer would get SIGPIPE when the logger
        // dies.
        let mut spare = Vec::new();
        for pipe in stdout.iter().chain(&stderr) {
            let again = pipe.try_clone().map_err(|cause| Error::io("dup a pipe", cause))?;
            spare.push(again);
        }
        let mut program = Program::new(&uri.program)
            .args(&uri.arguments)
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace);
        for passed in [stdout, stderr] {
            let null = || OpenOptions::new().read(true).write(true).open("/dev/null");
            let passed = passed.map_or_else(|| null().map(OwnedFd::from), Ok);
            let passed = passed.map_err(|cause| Error::io("open /dev/null", cause))?;
            program = program.descriptor(passed);
        }
        let (process, watch) = spawn(program.descriptor(told)).await?.apart();
        let process = Rc::new(process);
        let program = uri.program.clone();
        let ended = tokio::task::spawn_local(async move {
            let exit = watch.await;
            log::info!("logger {} ended with status {}", program.display(), exit.status);
            discard_all(spare);
        });
        let logger = Self { process, ended };
        let readiness = copy::polled(ready, Interest::READABLE)
            .map_err(|cause| Error::io("poll a logger's readiness", cause))?;
        let byte = async {
            loop {
                let mut guard = readiness.readable().await?;
                let mut byte = [0];
                match guard.try_io(|pipe| Ok(rustix::io::read(pipe.get_ref(), &mut byte[..])?)) {
                    Ok(read) => return read,
                    Err(_would_block) => {}
                }
            }
        };
        let failed = match tokio::time::timeout(READY, byte).await {
            Ok(Ok(1..)) => return Ok(logger),
            Ok(Ok(_)) if !uri.must_write_ready => return Ok(logger),
            Ok(Ok(_)) => format!("logger {name} closed its readiness pipe without a byte"),
            Ok(Err(cause)) => format!("read the readiness of logger {name}: {cause}"),
            Err(_) => format!("logger {name} was not ready within {READY:?}"),
        };
        // It may have ended by itself.
        let _ = logger.process.signal(Signal::KILL);
        Err(Error::new(Kind::Unavailable, failed))
    }

    /// The output has ended. Waits up to the limit for the logger; after that, a task in the
    /// background ends it.
    pub(super) async fn finish(self, limit: Duration) {
        let Self { process, mut ended } = self;
        if tokio::time::timeout(limit, &mut ended).await.is_ok() {
            return;
        }
        ENDING.with_borrow_mut(|ending| ending.push(Rc::clone(&process)));
        tokio::task::spawn_local(async move {
            for signal in [Signal::TERM, Signal::KILL] {
                // It may end before the signal.
                let _ = process.signal(signal);
                if tokio::time::timeout(END, &mut ended).await.is_ok() {
                    break;
                }
            }
            ENDING.with_borrow_mut(|ending| ending.retain(|other| !Rc::ptr_eq(other, &process)));
        });
    }
}

/// Reads and drops what a dead logger has not read, until no process writes any more.
fn discard_all(pipes: Vec<OwnedFd>) {
    for pipe in pipes {
        tokio::task::spawn_local(async move {
            if let Ok(pipe) = copy::polled(pipe, Interest::READABLE) {
                // An error ends it; there is no caller to return it to.
                let _ = copy::discard(&pipe).await;
            }
        });
    }
}
