//! What can go wrong between the shim and whatever makes its containers.
//!
//! Both engines and the cgroup code answer with [`EngineError`]; it becomes an [`shim_sdk::Error`]
//! at the one place where the shim hands it to the SDK.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shim_sdk::Kind;

/// An operation on a container or a process in it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine refused or failed, in its own words.
    #[error("{operation}: {message}")]
    Refused { operation: Operation, kind: Kind, message: String },

    /// The process that works for the shim went away before it answered.
    #[error("{operation}: {who} ended without an answer ({how})")]
    Gone { operation: Operation, who: String, how: String },

    /// A file could not be used.
    #[error("{action} {}", .path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    /// A system call failed; `call` shows it with its arguments.
    #[error("{call}")]
    Call {
        call: String,
        #[source]
        cause: io::Error,
    },

    /// Something that was to be read is not what it should be.
    #[error("{what}: {problem}")]
    Malformed { what: String, problem: String },

    /// This engine, or this host, does not offer the operation.
    #[error("{operation}: {why}")]
    Unsupported { operation: Operation, why: String },
}

impl EngineError {
    /// A failed use of the file at `path`; `action` is a verb (`open`, `read`, `write`).
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self::File { action, path: path.as_ref().to_owned(), cause: cause.into() }
    }

    /// A failed system call.
    pub(crate) fn call(call: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::Call { call: call.into(), cause: cause.into() }
    }

    /// What this amounts to in containerd's terms.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Refused { kind, .. } => *kind,
            Self::File { cause, .. } | Self::Call { cause, .. } => Kind::from_io(cause),
            Self::Gone { .. } => Kind::Unavailable,
            Self::Malformed { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
        }
    }
}

/// What was attempted. Printed as containerd's own shim prints it, since clients match on that
/// text (dockerd looks for `OCI runtime create failed`).
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
