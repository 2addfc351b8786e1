//! Any OCI runtime that is a command: runc, crun, and what behaves like them.
//!
//! Promise: a call is one run of the runtime at most, and its end is the runtime's exit. It is
//! never the end of a pipe, because the container inherits its standard streams from the runtime and
//! keeps them open. A call that takes longer than [`DEADLINE`] is ended, with what it started.
//!
//! Here is what is asked of the runtime; `command` is how that is said, `log` what it answers.
//!
//! See the OCI runtime command line interface (opencontainers/runtime-tools) and runc(8).

mod command;
mod delete;
mod features;
mod log;
mod root;
mod start;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shim_sdk::file::read_regular;
use shim_sdk::{ContainerId, Io, Kind, Pid, Program, spawn};

use self::command::{Command, Global};
use self::log::CallLog;
use super::{
    CheckpointRequest, CreateRequest, Engine, EngineRoot, ExecRequest, RestoreRequest,
    UpdateRequest,
};
use crate::cgroup::made::{self, Made};
use crate::cgroup::{ahead, remove};
use crate::error::{EngineError, Input, Operation};
use crate::overdue;

pub(crate) use features::features;

/// How long any one call may take, as with libcontainer. Hooks run within it.
const DEADLINE: Duration = Duration::from_secs(120);

/// The most of a file with a process id that is read.
const MAX_PID_BYTES: u64 = 64;

/// A runtime program, for one container.
#[derive(Debug)]
pub(crate) struct Runc {
    /// A path, or a name to be searched for on PATH.
    program: PathBuf,
    root: EngineRoot,
    /// The container's bundle, where files of a call go.
    bundle: PathBuf,
    systemd_cgroup: bool,
    /// Init, once there is one.
    init: Cell<Option<Pid>>,
    /// Whether it was let go. One that was not is killed by a delete.
    started: Cell<bool>,
    deadline: Duration,
}

impl Runc {
    /// The runtime `program` for the container of a bundle.
    pub(crate) fn new(
        program: PathBuf,
        root: EngineRoot,
        bundle: PathBuf,
        systemd_cgroup: bool,
    ) -> Self {
        Self {
            program,
            root,
            bundle,
            systemd_cgroup,
            init: Cell::new(None),
            started: Cell::new(false),
            deadline: DEADLINE,
        }
    }

    /// Runs one command to its end.
    async fn run(
        &self,
        operation: Operation,
        command: &Command<'_>,
        log_name: &str,
        io: Io,
    ) -> Result<(), EngineError> {
        let log = CallLog::new(self.bundle.join(log_name));
        let global = Global { root: &self.root.0, systemd_cgroup: self.systemd_cgroup };
        let program = Program::new(&self.program)
            .args(command.arguments(&global, log.path()))
            .directory(&self.bundle)
            // The runtime would report to the service manager in the container's name.
            .without_env("NOTIFY_SOCKET");
        let (program, capture) = match io {
            // What the runtime has is the container's for good, so a pipe of ours will not do even
            // where nobody wants the output: it would break when the runtime has ended.
            Io::Streams(streams) if makes_process(operation) => (program.streams(streams), false),
            Io::Streams(_) | Io::Terminal(_) => (program.capture_stderr(), true),
        };
        if makes_process(operation) {
            ahead::get_ready();
        }
        // "Not found" would say that the container is gone, not the program.
        let running = spawn(program).await.map_err(|cause| EngineError::Refused {
            operation,
            kind: Kind::Unknown,
            message: cause.report(),
        })?;
        let pid = running.pid();
        let ended = async {
            if capture {
                let output = running.output(None).await.map_err(|cause| EngineError::Refused {
                    operation,
                    kind: cause.kind(),
                    message: cause.report(),
                })?;
                Ok((output.exit.status, output.stderr))
            } else {
                let mut running = running;
                Ok((running.wait().await.status, Vec::new()))
            }
        };
        let limit = self.limit(operation);
        let Ok(ended) = tokio::time::timeout(limit, ended).await else {
            overdue::end(pid).await;
            let message =
                format!("{} took longer than {limit:?} and was killed", self.program.display());
            let kind = Kind::DeadlineExceeded;
            return Err(EngineError::Refused { operation, kind, message });
        };
        let (status, stderr) = ended?;
        if status == 0 {
            return Ok(());
        }
        let message = log.reason(&stderr, status);
        Err(EngineError::Refused { operation, kind: log::kind(operation, &message), message })
    }

    /// Looks at what the runtime is about to make: refuses what would harm the host, and writes down
    /// which groups are not there yet, and so will be the container's.
    async fn look_at_spec(&self, operation: Operation, bundle: &Path) -> Result<(), EngineError> {
        let Some(spec) = root::Spec::read(bundle) else { return Ok(()) };
        root::check(operation, &self.program, bundle, &spec).await?;
        let Some(groups) = spec.groups().filter(|_| !self.systemd_cgroup) else { return Ok(()) };
        let file = self.file(made::FILE);
        let made = Made::plan(groups, bundle, remove::everywhere(groups)?, spec.ends_with_init());
        made.write(&file).map_err(|cause| EngineError::file("write", file, cause))
    }

    /// Removes the groups that the container has made, or leaves those that others are in to them.
    async fn end_groups(&self, made: &Made) -> Result<(), EngineError> {
        remove::end(made, &self.file(made::FILE), !made.ends_with_init).await
    }

    /// How long a call may take. A checkpoint writes the container's whole memory.
    fn limit(&self, operation: Operation) -> Duration {
        match operation {
            Operation::Checkpoint | Operation::Restore => self.deadline * 10,
            Operation::Create
            | Operation::Start
            | Operation::Exec
            | Operation::Delete
            | Operation::Signal
            | Operation::Pause
            | Operation::Resume
            | Operation::Pids
            | Operation::Stats
            | Operation::Update => self.deadline,
        }
    }

    /// Reads the pid that the runtime wrote.
    fn pid(&self, file: &Path) -> Result<Pid, EngineError> {
        let text = read_regular(file, MAX_PID_BYTES)
            .map_err(|cause| EngineError::file("read", file, cause))?;
        let text = String::from_utf8_lossy(&text);
        text.trim().parse().ok().and_then(Pid::new).ok_or_else(|| {
            let input = Input::PidFile(file.to_owned());
            EngineError::malformed(input, format!("{text:?} is not a pid"))
        })
    }

    /// Whether a container that this runtime knows has a directory of its id: containerd has most
    /// containers cleaned up once more after they were deleted, which should cost nothing.
    fn keeps_records(&self) -> bool {
        self.program.file_name().is_some_and(|name| name == "runc" || name == "crun")
    }

    /// Where the runtime keeps what it knows of a container.
    fn record(&self, id: &ContainerId) -> PathBuf {
        self.root.0.join(id.as_str())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }
}

/// The log of calls about the container itself; containerd's own shim has it under this name too.
const LOG: &str = "log.json";

impl Engine for Runc {
    async fn create(&self, request: &CreateRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        self.look_at_spec(Operation::Create, request.bundle).await?;
        let pid_file = self.file(super::INIT_PID_FILE);
        let console = console_socket(&io);
        let command =
            Command::Create { request, pid_file: &pid_file, console_socket: console.as_deref() };
        let created = self.run(Operation::Create, &command, LOG, io).await;
        let pid = match created.and_then(|()| self.pid(&pid_file)) {
            Ok(pid) => pid,
            Err(error) => {
                // A runtime that fails cleans up after itself, one that was killed cannot. An id
                // in use is another container's, which must not be touched.
                if error.kind() != Kind::AlreadyExists
                    && self.record(request.id).exists()
                    && let Err(cause) = self.delete(request.id, true).await
                {
                    ::log::debug!("clean up after a failed create: {cause}");
                }
                return Err(error);
            }
        };
        self.init.set(Some(pid));
        Ok(pid)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let by_fifo = async {
            match self.init.get() {
                Some(init) => start::by_fifo(&self.program, &self.record(id), init).await,
                None => Ok(false),
            }
        };
        // An init that was stopped (SIGSTOP) neither writes to the fifo nor exits.
        let late = |_| EngineError::StartTimedOut { limit: self.deadline };
        if tokio::time::timeout(self.deadline, by_fifo).await.map_err(late)?? {
            self.started.set(true);
            return Ok(());
        }
        self.run(Operation::Start, &Command::Start { id }, LOG, Io::null()).await?;
        self.started.set(true);
        Ok(())
    }

    async fn exec(&self, request: &ExecRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        let process = Scratch::write(
            self.file(&format!("{}.process.json", request.id)),
            &serde_json::to_vec(request.process).map_err(|cause| {
                EngineError::malformed(Input::ExecProcess(request.id.clone()), cause)
            })?,
        )?;
        // Gone after the call: a container may see thousands of execs.
        let pid_file = Scratch(self.file(&format!("{}.pid", request.id)));
        let console = console_socket(&io);
        let command = Command::Exec {
            container: request.container,
            process: &process.0,
            pid_file: &pid_file.0,
            console_socket: console.as_deref(),
        };
        let log_name = format!("{}.log.json", request.id);
        self.run(Operation::Exec, &command, &log_name, io).await?;
        self.pid(&pid_file.0)
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        if force && self.keeps_records() && !self.record(id).exists() {
            return Ok(());
        }
        let made = Made::read(&self.file(made::FILE));
        let owns = |group: &Path| made.as_ref().is_none_or(|made| made.owns(group));
        if !force && self.started.get() {
            if delete::by_hand(&self.program, &self.record(id), owns) {
                return Ok(());
            }
            // Once init has ended, what is left in its groups belongs to others. `runc delete` would
            // not leave it there; here it is left, and the record is removed by hand.
            let has_ended = self.init.get().is_some_and(|init| !overdue::is_alive(init));
            if let Some(made) = made.filter(|made| made.ends_with_init && made.is_any())
                && has_ended
                && self.end_groups(&made).await.is_ok()
                && delete::by_hand(&self.program, &self.record(id), |_| false)
            {
                return Ok(());
            }
        }
        match self.run(Operation::Delete, &Command::Delete { id, force }, LOG, Io::null()).await {
            // After a checkpoint, say, or an earlier delete whose answer was lost.
            Err(EngineError::Refused { message, .. })
                if log::is_missing_container(&message, &self.record(id)) =>
            {
                Ok(())
            }
            // The record is gone; only groups are left, in which other processes are. Those stay.
            Err(EngineError::Refused { .. })
                if force && self.keeps_records() && !self.record(id).exists() =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn groups_file(&self, _id: &ContainerId) -> (PathBuf, Option<&Path>) {
        (self.file(made::FILE), None)
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.run(Operation::Pause, &Command::Pause { id }, LOG, Io::null()).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.run(Operation::Resume, &Command::Resume { id }, LOG, Io::null()).await
    }

    async fn update(&self, request: &UpdateRequest<'_>) -> Result<(), EngineError> {
        let resources = Scratch::write(self.file("resources.json"), request.resources)?;
        let command = Command::Update { id: request.id, resources: &resources.0 };
        self.run(Operation::Update, &command, LOG, Io::null()).await
    }

    async fn checkpoint(&self, request: &CheckpointRequest<'_>) -> Result<(), EngineError> {
        let command = Command::Checkpoint { request };
        self.run(Operation::Checkpoint, &command, LOG, Io::null()).await
    }

    async fn restore(&self, request: &RestoreRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        self.look_at_spec(Operation::Restore, request.bundle).await?;
        let pid_file = self.file(super::INIT_PID_FILE);
        let console = console_socket(&io);
        let command =
            Command::Restore { request, pid_file: &pid_file, console_socket: console.as_deref() };
        self.run(Operation::Restore, &command, LOG, io).await?;
        let pid = self.pid(&pid_file)?;
        self.init.set(Some(pid));
        Ok(pid)
    }
}

fn console_socket(io: &Io) -> Option<PathBuf> {
    match io {
        Io::Terminal(terminal) => Some(terminal.console_socket().to_owned()),
        Io::Streams(_) => None,
    }
}

/// Whether a process inherits the streams that the runtime is run with.
fn makes_process(operation: Operation) -> bool {
    matches!(operation, Operation::Create | Operation::Exec | Operation::Restore)
}

/// A file that lives for one call.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    /// Writes a file that only root can read: an exec's environment may hold secrets.
    fn write(path: PathBuf, content: &[u8]) -> Result<Self, EngineError> {
        use std::os::unix::fs::OpenOptionsExt;
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, content))
            .map_err(|cause| EngineError::file("write", &path, cause))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_file(&self.0)
            && cause.kind() != io::ErrorKind::NotFound
        {
            // The bundle goes with the container, and the file in it.
            ::log::debug!("remove {}: {cause}", self.0.display());
        }
    }
}
