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
    /// The runtime program or libcontainer's helper refused the operation or failed; `message` is its
    /// own text.
    #[error("{operation}: {message}")]
    Refused { operation: Operation, kind: Kind, message: String },

    /// The runtime program could not be run.
    #[error("{operation}")]
    Spawn {
        operation: Operation,
        #[source]
        cause: shim_sdk::Error,
    },

    /// A process that is part of the operation could not be opened or waited for.
    #[error("{operation}")]
    Process {
        operation: Operation,
        #[source]
        cause: shim_sdk::Error,
    },

    /// The runtime program did not end in time.
    #[error("{operation}: {} took longer than {limit:?} and was killed", .program.display())]
    TimedOut { operation: Operation, program: PathBuf, limit: Duration },

    /// The root file system has a link by which this version of the runtime would change files of the
    /// host. `version` is the first line of what `--version` printed.
    #[error(
        "{operation}: /{link} of the root file system is a link, by which {} ({version}) would \
         change files of the host; use runc 1.3.6, 1.4.3 or later, or libcontainer",
        .program.display()
    )]
    LinkToHost { operation: Operation, link: String, program: PathBuf, version: String },

    /// libcontainer's helper could not be started, or did not answer.
    #[error("{operation}")]
    NoAnswer {
        operation: Operation,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The container's init ended before or during an exec.
    #[error("{}: cannot exec in a stopped container", Operation::Exec)]
    InitEnded,

    /// The container has no cgroup whose statistics could be read.
    #[error("{}: the container has no cgroup", Operation::Stats)]
    NoCgroup,

    /// The container is created by a restore, which has not happened yet.
    #[error("{operation}: the container has not been restored yet")]
    NotRestored { operation: Operation },

    /// The sum of memory and swap is less than the memory limit.
    #[error(
        "{}: memory and swap together ({sum}) must not be less than the memory limit",
        Operation::Update
    )]
    SwapBelowMemory { sum: i64 },

    /// A checkpoint failed. `message` is the first line of the error, `log` is where criu's log is.
    #[error("{message} path= {}", .log.display())]
    Checkpoint { kind: Kind, message: String, log: PathBuf },

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
    #[error("{operation}: {limit}")]
    Unsupported { operation: Operation, limit: Limitation },
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
            Self::Refused { kind, .. } | Self::Checkpoint { kind, .. } => *kind,
            Self::Process { cause, .. } => cause.kind(),
            Self::File { cause, .. } | Self::System { cause, .. } => Kind::from_io(cause),
            // NOT_FOUND would mean that the container does not exist, not the program.
            Self::Spawn { .. } | Self::Version { .. } | Self::EncodeStatistics { .. } => {
                Kind::Unknown
            }
            Self::TimedOut { .. } | Self::StartTimedOut { .. } => Kind::DeadlineExceeded,
            Self::NoAnswer { .. } => Kind::Unavailable,
            Self::LinkToHost { .. } | Self::InitEnded | Self::NotRestored { .. } => {
                Kind::FailedPrecondition
            }
            Self::NoCgroup => Kind::NotFound,
            Self::Malformed { .. } | Self::SwapBelowMemory { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
        }
    }
}

/// What an engine or a host cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Limitation {
    /// The engine does not have the operation.
    Engine,
    /// libcontainer cannot restore a container.
    NoCheckpoints,
    /// A host with cgroup v1 has no devices controller.
    NoDevicesController,
    /// `unified` resources on a host with cgroup v1.
    UnifiedOnV1,
    /// The container has no cgroup of the controller that a file belongs to.
    NoController { file: String, controller: String },
}

impl fmt::Display for Limitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine => f.write_str("this runtime cannot do that"),
            Self::NoCheckpoints => f.write_str("libcontainer has no checkpoints"),
            Self::NoDevicesController => {
                f.write_str("this host has no control group that limits devices")
            }
            Self::UnifiedOnV1 => f.write_str("unified resources need cgroup v2, this host has v1"),
            Self::NoController { file, controller } => {
                write!(f, "{file}: the container has no cgroup of controller {controller}")
            }
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
