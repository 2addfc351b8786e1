//! Why a command failed, and the status it exits with.

use std::io;

use nix::sys::signal::Signal;
use tonic::Status;

use super::spec::SpecError;
use crate::config::ConfigError;
use crate::error::DaemonError;

/// The command line's own failure, as docker and podman have it.
pub(crate) const OWN_FAILURE: u8 = 125;
/// The container's command was found and could not be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The container's command was not found.
pub(crate) const NOT_FOUND: u8 = 127;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("{what}: {}", message(.status))]
    Call { what: String, status: Box<Status> },
    #[error(
        "image {name} is not here: import it first (supervisor import FILE), or name an archive"
    )]
    NoImage { name: String },
    #[error("image {name}: {why}")]
    BadImage { name: String, why: String },
    #[error("container id {id} is already in use: remove it first (supervisor rm {id})")]
    IdInUse { id: String },
    #[error("no container {id}")]
    NoContainer { id: String },
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("command not found: {command}: {reason}")]
    CommandNotFound { command: String, reason: String },
    #[error("command is not executable: {command}: {reason}")]
    CommandNotExecutable { command: String, reason: String },
    #[error("{what}: {cause}")]
    Io { what: String, cause: io::Error },
    #[error("{0}")]
    Usage(String),
    #[error("container {id}: interrupted by {signal} while it was being made; {left}")]
    Interrupted { id: String, signal: Signal, left: String },
    #[error("container {id} is not removed: {left}")]
    Stays { id: String, left: String },
    /// Each failure was printed when it happened.
    #[error("{failed} of {all} failed")]
    Several { failed: usize, all: usize },
}

impl CliError {
    /// A call that the daemon refused.
    pub(crate) fn call(what: impl Into<String>, status: Status) -> Self {
        Self::Call { what: what.into(), status: Box::new(status) }
    }

    /// An operation of the system that failed.
    pub(crate) fn io(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), cause: cause.into() }
    }

    /// Whether what was asked for may have been done in spite of the error.
    pub(crate) fn is_undecided(&self) -> bool {
        match self {
            Self::Call { status, .. } => is_broken(status),
            Self::Interrupted { .. } => true,
            _ => false,
        }
    }

    /// The status to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::CommandNotFound { .. } => NOT_FOUND,
            Self::CommandNotExecutable { .. } => NOT_EXECUTABLE,
            Self::Several { .. } => 1,
            // As a shell tells it.
            Self::Interrupted { signal, .. } => 128 + *signal as u8,
            _ => OWN_FAILURE,
        }
    }
}

/// Whether a status was made here, of a connection that broke under the call: it has a source then.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// What a status says; a code without words is named.
fn message(status: &Status) -> String {
    match status.code() {
        _ if is_broken(status) => {
            "the supervisor went away before it answered, and whether this was done is not known \
             (see supervisor ps --all)"
                .to_owned()
        }
        _ if !status.message().is_empty() => status.message().to_owned(),
        code => code.to_string(),
    }
}
