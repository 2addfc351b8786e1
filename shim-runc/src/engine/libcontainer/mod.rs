//! Creates containers with libcontainer, without a runtime binary, in helper processes of the shim.
//! libcontainer keeps the record of a container and checks its spec; cloning, the root file system and
//! the identity of processes are our own code.
//!
//! ```text
//!   shim ──spawns──> helper ──clones──> init, execs
//!    │  <──answers───  │                    │
//!    └── parent of all (CLONE_PARENT) ──────┘
//! ```
//!
//! A helper has one thread. It is started for the first call, or earlier by [`Libcontainer::prepare`]. It
//! exits after some time without a call, and is replaced when it dies or hangs. Running containers are
//! not affected. Calls of different containers have different helpers (`pool`).
//!
//! Promise: every call is answered by a deadline. A create or exec that fails, also because the helper
//! died, leaves no process, cgroup or record behind. A container cannot reach the shim's binary through
//! the helper.
//! Not here: cgroup statistics and updates, signals, exits; they are the same for both engines.
//! See the OCI runtime specification. `shim-runc/LIBCONTAINER.md` lists what works round libcontainer.

mod connection;
mod error_pipe;
mod features;
mod helper;
mod helper_executable;
mod notify_socket;
mod pool;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use shim_sdk::error::report;
use shim_sdk::{ContainerId, Io, Pid};
use tokio::io::Interest;

use crate::cgroup::record;
use crate::error::{EngineError, Input, Operation, SystemCall};

use super::{CreateRequest, Engine, ExecRequest};

use self::connection::{Answer, AskError};
use self::error_pipe::Findings;
use self::pool::{Call, Pool};
use self::wire::{Failure, HelperReply, HelperRequest};
use crate::sys;

pub(crate) use self::features::features;

/// The first argument that makes the shim's binary a helper.
const HELPER_ARGUMENT: &str = "libcontainer-helper";

/// The descriptor of the helper's end of the socket.
const HELPER_SOCKET: i32 = 3;

/// The time limit of one call, hooks included. A helper that is stopped is noticed much earlier.
const DEADLINE: Duration = Duration::from_secs(120);

/// How often a request is sent to another helper if a helper exits before it reads it.
const ATTEMPTS: usize = 3;

/// How often the removal of a half-made container is tried, each time with another helper.
const CLEAN_UPS: usize = 20;

/// When so many processes are recorded, those that have ended are removed.
const KNOWN: usize = 256;

/// How long an exec may take after its container's init has ended. The kernel kills processes that have
/// joined the pid namespace, which the helper notices; this limit is for a helper that does not.
const EXEC_AFTER_INIT: Duration = Duration::from_millis(200);

/// Runs the helper, if the first argument asks for it. `main` calls this first, since the helper must not
/// have a second thread.
pub(crate) fn run_internal() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == HELPER_ARGUMENT => Some(helper::run()),
        _ => None,
    }
}

/// The engine: the shim's record of its helpers and of the containers that they have created.
#[derive(Debug)]
pub(crate) struct Libcontainer {
    root: PathBuf,
    pool: Pool,
    /// The containers whose init waits for its start.
    waiting: RefCell<HashMap<String, Waiting>>,
    /// The start times, by pid, of the processes that were handed over to the shim. The clean-up after a
    /// dead helper must not kill them. The start time shows whether a pid was reused.
    known: RefCell<HashMap<i32, u64>>,
}

/// An init that waits for its start.
#[derive(Debug)]
struct Waiting {
    /// The errors of the start; it closes when the user's command is executed.
    report: OwnedFd,
    /// Whether the start runs hooks.
    has_hooks: bool,
}

/// The streams of a process, which the helper gets as descriptors.
#[derive(Debug, Default)]
pub(crate) struct BorrowedStreams<'a> {
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    pub(crate) stderr: Option<BorrowedFd<'a>>,
    /// The console socket, if the process has a terminal instead.
    pub(crate) console: Option<PathBuf>,
}

impl<'a> BorrowedStreams<'a> {
    fn named(&self) -> wire::StreamList {
        wire::StreamList {
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
            console: self.console.clone(),
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'a>> {
        [self.stdin, self.stdout, self.stderr].into_iter().flatten().collect()
    }
}

impl Libcontainer {
    /// An engine with its records below `root`. Starts no helper yet.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, pool: Pool::default(), waiting: RefCell::default(), known: RefCell::default() }
    }

    /// The same engine with its records below `root`. Each request names the root, so helpers stay.
    pub(crate) fn rooted(self, root: PathBuf) -> Self {
        Self { root, ..self }
    }

    /// Starts a helper before the first call, and lets it prepare the spec of the first container. An error
    /// shows at the first call.
    pub(crate) fn prepare(&self, first: Option<(&str, &Path)>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let quiet = |error: &dyn std::fmt::Display| log::debug!("prepare: {error}");
        let _ = self.pool.prepare().inspect_err(|error| quiet(error));
        if let Some((id, bundle)) = first
            && let Ok(bundle) = std::path::absolute(bundle)
        {
            let request =
                HelperRequest::Expect { root: self.root.clone(), id: id.to_owned(), bundle };
            let told = self.pool.with_idle(|helper| helper.tell(&request));
            let _ = told.transpose().inspect_err(|error| quiet(error));
        }
    }

    /// Creates a container. Returns its init's pid.
    async fn create_container(
        &self,
        id: &str,
        bundle: &Path,
        (no_pivot_root, no_new_keyring): (bool, bool),
        streams: &BorrowedStreams<'_>,
    ) -> Result<i32, EngineError> {
        let bundle = std::path::absolute(bundle)
            .map_err(|cause| EngineError::file("find", bundle, cause))?;
        let request = HelperRequest::Create {
            root: self.root.clone(),
            id: id.to_owned(),
            bundle,
            no_pivot_root,
            no_new_keyring,
            streams: streams.named(),
        };
        let mut answer = match self.ask(id, &request, &streams.fds()).await {
            Ok(answer) => answer,
            Err(error) => {
                self.clean_up_half_made(id).await;
                return Err(no_answer(Operation::Create, error));
            }
        };
        match (answer.reply, answer.fds.pop()) {
            (HelperReply::Created { pid, has_hooks }, Some(report)) => {
                self.waiting.borrow_mut().insert(id.to_owned(), Waiting { report, has_hooks });
                self.hand_over(pid);
                Ok(pid)
            }
            (HelperReply::Failed(failure), _) => {
                self.pool.forget(id);
                Err(refused(Operation::Create, failure))
            }
            _ => Err(no_answer(Operation::Create, AskError::Nonsense)),
        }
    }

    /// Starts the user's command. Returns when init has executed it.
    async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        let has_hooks = self.waiting.borrow().get(id).is_none_or(|waiting| waiting.has_hooks);
        let told = !has_hooks
            && notify_socket::tell(&self.root.join(id))
                // The helper reports the reason.
                .inspect_err(|error| log::debug!("{id}: tell init to go on: {error}"))
                .is_ok();
        if !told {
            let request = HelperRequest::Start { root: self.root.clone(), id: id.to_owned() };
            self.done(Operation::Start, id, &request).await?;
        }
        let Some(waiting) = self.waiting.borrow_mut().remove(id) else {
            return Ok(());
        };
        let findings = read_to_end(waiting.report)
            .await
            .map_err(|cause| EngineError::system(SystemCall::ReadStartReport, cause))?;
        match findings.start_failure() {
            Some(failure) => Err(refused(Operation::Start, failure)),
            None => Ok(()),
        }
    }

    /// Starts a further process, given as JSON. Returns its pid.
    async fn exec_process(
        &self,
        id: &str,
        process: &[u8],
        streams: &BorrowedStreams<'_>,
    ) -> Result<i32, EngineError> {
        let file = in_memory(process)
            .map_err(|cause| EngineError::system(SystemCall::MemfdCreate, cause))?;
        let request = HelperRequest::Exec {
            root: self.root.clone(),
            id: id.to_owned(),
            streams: streams.named(),
        };
        let mut fds = streams.fds();
        fds.push(file.as_fd());
        let mut answer = match self.ask(id, &request, &fds).await {
            Ok(answer) => answer,
            Err(error) => return Err(no_answer(Operation::Exec, error)),
        };
        match (answer.reply, answer.fds.pop()) {
            (HelperReply::Executed { pid }, Some(report)) => {
                self.hand_over(pid);
                self.follow_exec(pid, report).await
            }
            (HelperReply::Failed(failure), _) => Err(refused(Operation::Exec, failure)),
            _ => Err(no_answer(Operation::Exec, AskError::Nonsense)),
        }
    }

    /// Waits until a new process executes its command. A process of the container may stop it before; then
    /// only this call waits.
    async fn follow_exec(&self, pid: i32, report: OwnedFd) -> Result<i32, EngineError> {
        match read_to_end(report).await.map(Findings::start_failure) {
            Ok(None) => Ok(pid),
            Ok(Some(failure)) => Err(refused(Operation::Exec, failure)),
            Err(cause) => {
                // It is our child and not reaped, so the pid was not reused.
                if let Some(process) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
                }
                Err(EngineError::system(SystemCall::ReadExecReport, cause))
            }
        }
    }

    /// Removes a container. Parts that do not exist are no error.
    async fn delete_container(&self, id: &str, force: bool) -> Result<(), EngineError> {
        let request = HelperRequest::Delete { root: self.root.clone(), id: id.to_owned(), force };
        self.done(Operation::Delete, id, &request).await?;
        self.waiting.borrow_mut().remove(id);
        self.pool.forget(id);
        Ok(())
    }

    /// Freezes a container.
    async fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        let request = HelperRequest::Pause { root: self.root.clone(), id: id.to_owned() };
        self.done(Operation::Pause, id, &request).await
    }

    /// Thaws a container.
    async fn resume_container(&self, id: &str) -> Result<(), EngineError> {
        let request = HelperRequest::Resume { root: self.root.clone(), id: id.to_owned() };
        self.done(Operation::Resume, id, &request).await
    }

    /// The helper's pid, if there is one.
    #[cfg(test)]
    async fn helper_pid(&self) -> rustix::process::Pid {
        let pid = self.pool.with_idle(connection::Connection::pid);
        pid.and_then(rustix::process::Pid::from_raw).expect("a helper")
    }

    /// Kills the helper, as an administrator may.
    #[cfg(test)]
    async fn kill_helper(&self) {
        let _ =
            rustix::process::kill_process(self.helper_pid().await, rustix::process::Signal::KILL);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn done(
        &self,
        operation: Operation,
        id: &str,
        request: &HelperRequest,
    ) -> Result<(), EngineError> {
        match self.ask(id, request, &[]).await {
            Ok(Answer { reply: HelperReply::Done, .. }) => Ok(()),
            Ok(Answer { reply: HelperReply::Failed(failure), .. }) => {
                Err(refused(operation, failure))
            }
            Ok(_) => Err(no_answer(operation, AskError::Nonsense)),
            Err(error) => Err(no_answer(operation, error)),
        }
    }

    /// Sends a request to a helper, in the container's turn.
    async fn ask(
        &self,
        id: &str,
        request: &HelperRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, AskError> {
        let queue = self.pool.queue(id);
        let call = self.pool.call(&queue).await;
        // A process that joins a container which ends meanwhile may hang for ever.
        let joins = matches!(request, HelperRequest::Exec { .. });
        if joins && queue.has_ended() {
            return Err(AskError::Ended);
        }
        let overtaken = async {
            if !joins {
                return std::future::pending().await;
            }
            queue.ended().await;
            tokio::time::sleep(EXEC_AFTER_INIT).await;
        };
        let asked = self.ask_one(&call, request, fds, overtaken);
        tokio::select! {
            answer = asked => answer,
            never = call.make_room() => match never {},
        }
    }

    /// Sends the request to an idle helper, or to a new one.
    async fn ask_one(
        &self,
        call: &Call<'_>,
        request: &HelperRequest,
        fds: &[BorrowedFd<'_>],
        overtaken: impl Future<Output = ()>,
    ) -> Result<Answer, AskError> {
        let mut overtaken = std::pin::pin!(overtaken);
        let mut left = AskError::Died { how: "it left".to_owned() };
        for _ in 0..ATTEMPTS {
            let helper = call.helper()?;
            let answer = tokio::select! {
                // In this order: an answer that is there counts.
                biased;
                answer = helper.ask(request, fds, DEADLINE) => answer,
                () = &mut overtaken => Err(AskError::Ended),
            };
            match answer {
                Ok(Answer { reply: HelperReply::Leaving, .. }) => helper.wait().await,
                Ok(answer) => {
                    call.give_back(helper);
                    return Ok(answer);
                }
                // The helper ended before it read the request, so nothing was done.
                Err(error @ AskError::Unheard { .. }) => {
                    helper.kill(|pid| self.is_known(pid)).await;
                    left = error;
                }
                Err(error) => {
                    log::warn!("{}", report(&error));
                    helper.kill(|pid| self.is_known(pid)).await;
                    return Err(error);
                }
            }
        }
        Err(left)
    }

    /// Removes the parts that a helper made before it died in a create.
    async fn clean_up_half_made(&self, id: &str) {
        let mut last = None;
        for _ in 0..CLEAN_UPS {
            match self.delete_container(id, true).await {
                Ok(()) => return,
                // The helper for the removal may have been killed as well.
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last {
            log::warn!("clean up the half-made container {id}: {}", report(&error));
        }
    }

    /// Whether a process was handed over to the shim.
    fn is_known(&self, pid: i32) -> bool {
        let started = self.known.borrow().get(&pid).copied();
        started.is_some() && started == connection::start_time(pid)
    }

    fn hand_over(&self, pid: i32) {
        let mut known = self.known.borrow_mut();
        if known.len() >= KNOWN {
            // Not by the kernel's list of children, which may leave out one while another ends.
            known.retain(|pid, started| connection::start_time(*pid) == Some(*started));
        }
        // A process without a start time has ended.
        if let Some(started) = connection::start_time(pid) {
            known.insert(pid, started);
        }
    }
}

impl Engine for Libcontainer {
    async fn create(&self, request: &CreateRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        let CreateRequest { id, bundle, no_pivot_root, no_new_keyring } = *request;
        let streams = BorrowedStreams::from(&io);
        let options = (no_pivot_root, no_new_keyring);
        let pid = self.create_container(id.as_str(), bundle, options, &streams).await?;
        known(Operation::Create, pid)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.start_container(id.as_str()).await
    }

    async fn exec(&self, request: &ExecRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        let process = serde_json::to_vec(request.process).map_err(|cause| {
            EngineError::malformed(Input::ExecProcess(request.id.clone()), cause)
        })?;
        let streams = BorrowedStreams::from(&io);
        let pid = self.exec_process(request.container.as_str(), &process, &streams).await?;
        known(Operation::Exec, pid)
    }

    fn groups_file(&self, id: &ContainerId) -> (PathBuf, Option<&Path>) {
        (record::file_beside(&self.root, id.as_str()), Some(&self.root))
    }

    fn init_exited(&self, id: &ContainerId) {
        self.pool.queue(id.as_str()).end();
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        self.delete_container(id.as_str(), force).await
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.pause_container(id.as_str()).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.resume_container(id.as_str()).await
    }
}

impl<'a> From<&'a Io> for BorrowedStreams<'a> {
    fn from(io: &'a Io) -> Self {
        match io {
            Io::Streams(streams) => Self {
                stdin: streams.stdin.as_ref().map(AsFd::as_fd),
                stdout: streams.stdout.as_ref().map(AsFd::as_fd),
                stderr: streams.stderr.as_ref().map(AsFd::as_fd),
                console: None,
            },
            Io::Terminal(terminal) => {
                Self { console: Some(terminal.console_socket().to_owned()), ..Self::default() }
            }
        }
    }
}

fn known(operation: Operation, pid: i32) -> Result<Pid, EngineError> {
    let known = u32::try_from(pid).ok().and_then(Pid::new);
    known.ok_or_else(|| no_answer(operation, AskError::Nonsense))
}

/// Reads a report to its end.
async fn read_to_end(report: OwnedFd) -> std::io::Result<Findings> {
    let report = sys::poll::async_fd(report, Interest::READABLE)?;
    let mut findings = Findings::default();
    let read = async {
        loop {
            let mut ready = report.readable().await?;
            if findings.read(report.get_ref())? {
                return Ok(());
            }
            ready.clear_ready();
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map(|()| findings)
}

fn in_memory(bytes: &[u8]) -> std::io::Result<fs::File> {
    use std::io::{Seek, Write};
    let mut file = fs::File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn refused(operation: Operation, failure: Failure) -> EngineError {
    let Failure { reason, message } = failure;
    EngineError::Refused { operation, kind: reason.kind(), message }
}

/// A call that the helper did not answer.
fn no_answer(operation: Operation, cause: AskError) -> EngineError {
    match cause {
        AskError::Ended => EngineError::InitEnded,
        cause => EngineError::NoAnswer { operation, cause: cause.into() },
    }
}
