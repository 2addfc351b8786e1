//! The errors of the engines and of the cgroup code.
//!
//! A variant says what was attempted and has the arguments as fields. The cause is a source, which
//! `Display` does not print again. `shim.rs` returns an [`EngineError`] to the SDK as a
//! [`shim_sdk::Error`], whose text has all causes on one line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shim_sdk::{ExecId, Kind};

/// An operation on a container or a process in it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine refused the operation or failed; `message` is the engine's own text.
    #[error("{operation}: {message}")]
    Refused { operation: Operation, kind: Kind, message: String },

    /// The engine's helper process ended before it answered.
    #[error("{operation}: {who} ended without an answer ({how})")]
    Gone { operation: Operation, who: String, how: String },

    /// An operation on a file failed.
    #[error("{action} {}", .path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    /// A system call failed.
    #[error("{call}")]
    System {
        call: SystemCall,
        #[source]
        cause: io::Error,
    },

    /// The runtime did not print its version.
    #[error("{} --version", .program.display())]
    Version {
        program: PathBuf,
        #[source]
        cause: shim_sdk::Error,
    },

    /// The container's init did not open `exec.fifo` in time, for example because it was stopped.
    #[error("{}: init did not write to exec.fifo within {limit:?}", Operation::Start)]
    StartTimedOut { limit: Duration },

    /// The statistics could not be encoded.
    #[error("encode the statistics")]
    EncodeStatistics {
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },

    /// An input has not the form that it must have.
    #[error("{input}")]
    Malformed {
        input: Input,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },

    /// This engine or this host does not support the operation.
    #[error("{operation}: {why}")]
    Unsupported { operation: Operation, why: String },
}

impl EngineError {
    /// A failed operation on the file at `path`; `action` is a verb (`open`, `read`, `write`).
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self::File { action, path: path.as_ref().to_owned(), cause: cause.into() }
    }

    /// A failed system call with typed arguments.
    pub(crate) fn system(call: SystemCall, cause: impl Into<io::Error>) -> Self {
        Self::System { call, cause: cause.into() }
    }

    /// An input of the wrong form; `cause` is the parser's error or a text.
    pub(crate) fn malformed(
        input: Input,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Malformed { input, cause: cause.into() }
    }

    /// The error kind of containerd for this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Refused { kind, .. } => *kind,
            Self::File { cause, .. } | Self::System { cause, .. } => Kind::from_io(cause),
            // NOT_FOUND would say that the container does not exist, not the program.
            Self::Version { .. } | Self::EncodeStatistics { .. } => Kind::Unknown,
            Self::StartTimedOut { .. } => Kind::DeadlineExceeded,
            Self::Gone { .. } => Kind::Unavailable,
            Self::Malformed { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
        }
    }
}

/// What the shim asked of the kernel, printed with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SystemCall {
    /// Adds a descriptor to the event loop.
    EpollAdd,
    /// Creates the descriptor that a cgroup of version 1 signals when memory runs out.
    Eventfd,
    /// Creates the descriptor that reports changes of a cgroup's `memory.events`.
    InotifyInit,
    /// Changes the owner of a standard stream's pipe.
    FchownPipe { uid: u32, gid: u32 },
    /// Creates the memory file that passes an exec's process to the helper.
    MemfdCreate,
    /// Reads init's report of its start.
    ReadStartReport,
    /// Reads an exec's report of its start.
    ReadExecReport,
    /// Finds the kind of the file system at a path.
    Statfs { path: PathBuf },
    /// Writes a value to a cgroup's file.
    WriteCgroupFile { file: PathBuf, value: String },
    /// Removes a cgroup.
    Rmdir { group: PathBuf },
    /// Ends the processes of a container's cgroups and removes the cgroups.
    RemoveCgroups,
    /// Finds the freezer among a container's cgroups of version 1.
    FindFreezer,
    /// Freezes a cgroup.
    Freeze { group: PathBuf },
}

impl fmt::Display for SystemCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EpollAdd => f.write_str("epoll_ctl(EPOLL_CTL_ADD)"),
            Self::Eventfd => f.write_str("eventfd(0)"),
            Self::InotifyInit => f.write_str("inotify_init1"),
            Self::FchownPipe { uid, gid } => write!(f, "fchown(pipe, {uid}, {gid})"),
            Self::MemfdCreate => f.write_str("memfd_create(\"process\")"),
            Self::ReadStartReport => f.write_str("read the report of the start"),
            Self::ReadExecReport => f.write_str("read the report of the exec"),
            Self::Statfs { path } => write!(f, "statfs({path:?})"),
            Self::WriteCgroupFile { file, value } => {
                write!(f, "write({file:?}, {value:?})")
            }
            Self::Rmdir { group } => write!(f, "rmdir({group:?})"),
            Self::RemoveCgroups => f.write_str("remove the container's groups"),
            Self::FindFreezer => f.write_str("freeze: the freezer controller"),
            Self::Freeze { group } => write!(f, "freeze {}", group.display()),
        }
    }
}

/// An input of the shim that can be malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Runtime options or checkpoint options of a client.
    Options { type_url: String },
    /// The runtime option SystemdCgroup.
    SystemdCgroup,
    /// `options.json` of a bundle.
    OptionsFile(PathBuf),
    /// A file that a runtime writes a pid to.
    PidFile(PathBuf),
    /// The pid of a container's init.
    InitPid(u32),
    /// The process of an exec.
    ExecProcess(ExecId),
    /// The resources of an update.
    Resources,
    /// A file name in the `unified` resources of an update.
    UnifiedResource(String),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options { type_url } => write!(f, "runtime options {type_url}"),
            Self::SystemdCgroup => f.write_str("runtime option SystemdCgroup"),
            Self::OptionsFile(path) => write!(f, "{}", path.display()),
            Self::PidFile(path) => write!(f, "pid file {}", path.display()),
            Self::InitPid(pid) => write!(f, "pid {pid} of init"),
            Self::ExecProcess(id) => write!(f, "process of exec {id}"),
            Self::Resources => f.write_str("the update's resources"),
            Self::UnifiedResource(file) => write!(f, "unified resource {file:?}"),
        }
    }
}

/// What was attempted. It is printed with the words of containerd's own shim, since clients match on
/// that text (dockerd looks for `OCI runtime create failed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Start,
    Exec,
    Delete,
    Signal,
    Pause,
    Resume,
    Pids,
    Stats,
    Update,
    Checkpoint,
    Restore,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "OCI runtime create failed",
            Self::Start => "OCI runtime start failed",
            Self::Exec => "OCI runtime exec failed",
            Self::Delete => "failed to delete task",
            Self::Signal => "OCI runtime kill failed",
            Self::Pause => "OCI runtime pause failed",
            Self::Resume => "OCI runtime resume failed",
            Self::Pids => "OCI runtime ps failed",
            Self::Stats => "OCI runtime stats failed",
            Self::Update => "OCI runtime update failed",
            Self::Checkpoint => "OCI runtime checkpoint failed",
            Self::Restore => "OCI runtime restore failed",
        })
    }
}

impl From<EngineError> for shim_sdk::Error {
    fn from(error: EngineError) -> Self {
        Self::new(error.kind(), shim_sdk::error::report(&error))
    }
}
