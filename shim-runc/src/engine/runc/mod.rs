//! The engine for OCI runtimes that are command-line programs: runc, crun and compatible ones.
//!
//! Promise: one call runs the runtime at most once, and ends when the runtime exits. It does not
//! wait for the end of a pipe, because the container inherits the standard streams of the runtime
//! and keeps them open. A call that takes longer than [`DEADLINE`] is killed, with all processes that
//! it started.
//!
//! This module decides which command is run when; `command` builds its command line, `log` reads
//! the error from the runtime's log.
//!
//! See the OCI runtime command line interface (opencontainers/runtime-tools) and runc(8).

mod command;
mod delete;
mod features;
mod log;
mod rootfs_check;
mod start;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shim_sdk::error::report;
use shim_sdk::file::read_regular;
use shim_sdk::{ContainerId, Io, Kind, Pid, Program, spawn};

use self::command::{Command, Global};
use self::log::CallLog;
use super::{
    CheckpointRequest, CreateRequest, Engine, EngineRoot, ExecRequest, RestoreRequest,
    UpdateRequest,
};
use crate::cgroup::record::{self, Made};
use crate::cgroup::{remove, warm_threadgroup_lock};
use crate::error::{EngineError, Input, Operation};
use crate::process_tree;
use crate::spec::SpecExcerpt;

pub(crate) use features::features;

/// The time limit of one call, hooks included. The libcontainer engine has the same.
const DEADLINE: Duration = Duration::from_secs(120);

/// The largest pid file that is read.
const MAX_PID_BYTES: u64 = 64;

/// A runtime program and one container.
#[derive(Debug)]
pub(crate) struct Runc {
    /// A path, or a name that is looked up on PATH.
    program: PathBuf,
    root: EngineRoot,
    /// The container's bundle; the temporary files of a call are in it, too.
    bundle: PathBuf,
    systemd_cgroup: bool,
    /// The pid of init, once the container is created.
    init: Cell<Option<Pid>>,
    /// Whether init was started. A restored container is never started.
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

    /// Runs one command and waits until it exits.
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
            // The container keeps the streams of the runtime. They are therefore never a pipe of the
            // shim, which would break after the runtime's exit.
            Io::Streams(streams) if creates_process(operation) => (program.streams(streams), false),
            Io::Streams(_) | Io::Terminal(_) => (program.capture_stderr(), true),
        };
        if creates_process(operation) {
            warm_threadgroup_lock::get_ready();
        }
        let running =
            spawn(program).await.map_err(|cause| EngineError::Spawn { operation, cause })?;
        let pid = running.pid();
        let ended = async {
            if capture {
                let output = running
                    .output(None)
                    .await
                    .map_err(|cause| EngineError::Process { operation, cause })?;
                Ok((output.exit.status, output.stderr))
            } else {
                let mut running = running;
                Ok((running.wait().await.status, Vec::new()))
            }
        };
        let limit = self.limit(operation);
        let Ok(ended) = tokio::time::timeout(limit, ended).await else {
            process_tree::end(pid).await;
            let program = self.program.clone();
            return Err(EngineError::TimedOut { operation, program, limit });
        };
        let (status, stderr) = ended?;
        if status == 0 {
            return Ok(());
        }
        let message = log.reason(&stderr, status);
        Err(EngineError::Refused { operation, kind: log::kind(operation, &message), message })
    }

    /// Checks the bundle before the runtime creates a container from it: refuses a root file system
    /// that would harm the host, and records which cgroups do not exist yet. Only those are removed
    /// with the container.
    async fn check_spec(&self, operation: Operation, bundle: &Path) -> Result<(), EngineError> {
        let Some(spec) = SpecExcerpt::read(bundle) else { return Ok(()) };
        rootfs_check::check(operation, &self.program, bundle, &spec).await?;
        let Some(groups) = rootfs_check::plain_cgroups_path(&spec).filter(|_| !self.systemd_cgroup)
        else {
            return Ok(());
        };
        let file = self.file(record::FILE);
        let made =
            Made::plan(groups, bundle, remove::everywhere(groups)?, spec.has_new_pid_namespace());
        made.write(&file).map_err(|cause| EngineError::file("write", file, cause))
    }

    /// Removes the cgroups that were created for the container. A cgroup with processes of another
    /// container stays.
    async fn end_groups(&self, made: &Made) -> Result<(), EngineError> {
        remove::end(made, &self.file(record::FILE), !made.ends_with_init).await
    }

    /// The time limit of an operation. A checkpoint writes all memory of the container.
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

    /// Reads a pid file that the runtime wrote.
    fn pid(&self, file: &Path) -> Result<Pid, EngineError> {
        let text = read_regular(file, MAX_PID_BYTES)
            .map_err(|cause| EngineError::file("read", file, cause))?;
        let text = String::from_utf8_lossy(&text);
        text.trim().parse().ok().and_then(Pid::new).ok_or_else(|| {
            let input = Input::PidFile(file.to_owned());
            EngineError::malformed(input, format!("{text:?} is not a pid"))
        })
    }

    /// Whether the runtime keeps a directory with the id of each container. containerd runs `delete`
    /// once more for most containers that are deleted already; without a directory the runtime need
    /// not be run for that.
    fn has_state_directories(&self) -> bool {
        self.program.file_name().is_some_and(|name| name == "runc" || name == "crun")
    }

    /// The directory where the runtime keeps the state of a container.
    fn state_directory(&self, id: &ContainerId) -> PathBuf {
        self.root.0.join(id.as_str())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }
}

/// The log file of calls on a container. containerd's own shim uses the same name.
const LOG: &str = "log.json";

impl Engine for Runc {
    async fn create(&self, request: &CreateRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        self.check_spec(Operation::Create, request.bundle).await?;
        let pid_file = self.file(super::INIT_PID_FILE);
        let console = console_socket(&io);
        let command =
            Command::Create { request, pid_file: &pid_file, console_socket: console.as_deref() };
        let created = self.run(Operation::Create, &command, LOG, io).await;
        let pid = match created.and_then(|()| self.pid(&pid_file)) {
            Ok(pid) => pid,
            Err(error) => {
                // A runtime that was killed has not removed what it created. With AlreadyExists the
                // state is that of another container and must stay.
                if error.kind() != Kind::AlreadyExists
                    && self.state_directory(request.id).exists()
                    && let Err(cause) = self.delete(request.id, true).await
                {
                    ::log::debug!("clean up after a failed create: {}", report(&cause));
                }
                return Err(error);
            }
        };
        self.init.set(Some(pid));
        Ok(pid)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let through_fifo = async {
            match self.init.get() {
                Some(init) => {
                    start::through_fifo(&self.program, &self.state_directory(id), init).await
                }
                None => Ok(false),
            }
        };
        // An init that was stopped (SIGSTOP) neither writes to the fifo nor exits.
        let late = |_| EngineError::StartTimedOut { limit: self.deadline };
        if tokio::time::timeout(self.deadline, through_fifo).await.map_err(late)?? {
            self.started.set(true);
            return Ok(());
        }
        self.run(Operation::Start, &Command::Start { id }, LOG, Io::null()).await?;
        self.started.set(true);
        Ok(())
    }

    async fn exec(&self, request: &ExecRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        let process = TemporaryFile::write(
            self.file(&format!("{}.process.json", request.id)),
            &serde_json::to_vec(request.process).map_err(|cause| {
                EngineError::malformed(Input::ExecProcess(request.id.clone()), cause)
            })?,
        )?;
        // Removed after the call, because a container may have thousands of execs.
        let pid_file = TemporaryFile(self.file(&format!("{}.pid", request.id)));
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
        if force && self.has_state_directories() && !self.state_directory(id).exists() {
            return Ok(());
        }
        let made = Made::read(&self.file(record::FILE));
        let owns = |group: &Path| made.as_ref().is_none_or(|made| made.owns(group));
        if !force && self.started.get() {
            if delete::without_runtime(&self.program, &self.state_directory(id), owns) {
                return Ok(());
            }
            // After init's exit only processes of others are in its cgroups. `runc delete` would kill
            // them, so the shim removes the state directory itself and leaves those cgroups.
            let has_ended = self.init.get().is_some_and(|init| !process_tree::is_alive(init));
            if let Some(made) = made.filter(|made| made.ends_with_init && made.is_any())
                && has_ended
                && self.end_groups(&made).await.is_ok()
                && delete::without_runtime(&self.program, &self.state_directory(id), |_| false)
            {
                return Ok(());
            }
        }
        match self.run(Operation::Delete, &Command::Delete { id, force }, LOG, Io::null()).await {
            // For example after a checkpoint, or after an earlier delete whose answer was lost.
            Err(EngineError::Refused { message, .. })
                if log::is_missing_container(&message, &self.state_directory(id)) =>
            {
                Ok(())
            }
            // The state is removed. Cgroups that hold processes of others are left, and stay.
            Err(_)
                if force && self.has_state_directories() && !self.state_directory(id).exists() =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn groups_file(&self, _id: &ContainerId) -> (PathBuf, Option<&Path>) {
        (self.file(record::FILE), None)
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.run(Operation::Pause, &Command::Pause { id }, LOG, Io::null()).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.run(Operation::Resume, &Command::Resume { id }, LOG, Io::null()).await
    }

    async fn update(&self, request: &UpdateRequest<'_>) -> Result<(), EngineError> {
        let resources = TemporaryFile::write(self.file("resources.json"), request.resources)?;
        let command = Command::Update { id: request.id, resources: &resources.0 };
        self.run(Operation::Update, &command, LOG, Io::null()).await
    }

    async fn checkpoint(&self, request: &CheckpointRequest<'_>) -> Result<(), EngineError> {
        let command = Command::Checkpoint { request };
        self.run(Operation::Checkpoint, &command, LOG, Io::null()).await
    }

    async fn restore(&self, request: &RestoreRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        self.check_spec(Operation::Restore, request.bundle).await?;
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

/// Whether a process of the container inherits the standard streams of the runtime.
fn creates_process(operation: Operation) -> bool {
    matches!(operation, Operation::Create | Operation::Exec | Operation::Restore)
}

/// A file that exists during one call.
#[derive(Debug)]
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// Writes a file that only root can read, since the environment of an exec may hold secrets.
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

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_file(&self.0)
            && cause.kind() != io::ErrorKind::NotFound
        {
            // Harmless: the file is removed with the bundle.
            ::log::debug!("remove {}: {cause}", self.0.display());
        }
    }
}
