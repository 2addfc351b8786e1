//! Why a command failed, and the status it exits with.
//!
//! Promise: an error's own text does not repeat its cause; [`CliError::report`] prints both. The
//! command line has one status for its failures, wrong arguments among them, as docker and podman
//! have it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tonic::{Code, Status};

use super::spec::{CommandFault, SpecError};
use crate::config::ConfigError;
use crate::error::DaemonError;

/// The command line's own failure.
pub(crate) const OWN_FAILURE: u8 = 125;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Command(#[from] CommandFault),
    /// A call of the daemon's API.
    #[error("{what}")]
    Call {
        what: String,
        #[source]
        answer: Answer,
    },
    #[error("{namespace:?} is not a namespace")]
    BadNamespace { namespace: String },
    #[error("unknown signal {text}")]
    UnknownSignal { text: String },
    #[error("-t needs a terminal, but standard input is not one")]
    NoTerminal,
    #[error("{path} is a directory: pack it as a tar archive first")]
    ArchiveIsDirectory { path: PathBuf },
    #[error(
        "image {name} does not exist: import it first (supervisor import FILE), or give an archive"
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
    #[error("container {id} has no OCI spec")]
    NoSpec { id: String },
    #[error("container {id}: parse its OCI spec")]
    BadSpec {
        id: String,
        #[source]
        cause: serde_json::Error,
    },
    #[error("container {id}: write its {document} as JSON")]
    Encode {
        id: String,
        document: &'static str,
        #[source]
        cause: serde_json::Error,
    },
    /// The task of this process that waited ended without a result.
    #[error("wait for container {id}")]
    WaitLost {
        id: String,
        #[source]
        cause: tokio::task::JoinError,
    },
    /// A call of the operating system.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        cause: io::Error,
    },
    #[error("container {id}: interrupted by {signal} while it was being created; {left}")]
    Interrupted { id: String, signal: Signal, left: String },
    #[error("container {id} is not removed: {left}")]
    Stays { id: String, left: String },
    /// Each failure was printed when it happened.
    #[error("{failed} of {all} failed")]
    Several { failed: usize, all: usize },
}

/// What the daemon answered to a call that failed, as it is printed.
#[derive(Debug)]
pub(crate) struct Answer(Box<Status>);

impl CliError {
    /// A call that the daemon refused.
    pub(crate) fn call(what: impl Into<String>, status: Status) -> Self {
        Self::Call { what: what.into(), answer: Answer(Box::new(status)) }
    }

    /// An operation of the system that failed.
    pub(crate) fn io(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), cause: cause.into() }
    }

    /// The error and its causes on one line.
    pub(crate) fn report(&self) -> String {
        shim_sdk::error::report(self)
    }

    /// Whether what was asked for may have been done in spite of the error.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
            || matches!(self, Self::Call { answer, .. } if answer.is_broken())
    }

    /// The status to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Command(fault) => fault.exit_code(),
            Self::Several { .. } => 1,
            // As a shell does for a command that a signal ended.
            Self::Interrupted { signal, .. } => 128 + *signal as u8,
            Self::Config(_)
            | Self::Daemon(_)
            | Self::Spec(_)
            | Self::Call { .. }
            | Self::BadNamespace { .. }
            | Self::UnknownSignal { .. }
            | Self::NoTerminal
            | Self::ArchiveIsDirectory { .. }
            | Self::NoImage { .. }
            | Self::BadImage { .. }
            | Self::IdInUse { .. }
            | Self::NoContainer { .. }
            | Self::NotRunning { .. }
            | Self::NoSpec { .. }
            | Self::BadSpec { .. }
            | Self::Encode { .. }
            | Self::WaitLost { .. }
            | Self::Io { .. }
            | Self::Stays { .. } => OWN_FAILURE,
        }
    }
}

/// The outcome of a call that ends or removes something. What does not exist is not an error: an
/// earlier call, or another client, has removed it.
pub(crate) fn unless_absent<T>(
    answer: Result<T, Status>,
    what: impl FnOnce() -> String,
) -> Result<(), CliError> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(CliError::call(what(), status)),
    }
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.0.message()
    }

    /// Whether the connection broke under the call: only such a status was made in this process and
    /// has a source.
    fn is_broken(&self) -> bool {
        std::error::Error::source(&*self.0).is_some()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_broken() {
            return f.write_str(
                "the supervisor went away before it answered, so this may have been done or not \
                 (see supervisor ps --all)",
            );
        }
        match (self.0.message(), self.0.code()) {
            // A code without a message is printed by its meaning.
            ("", code) => code.fmt(f),
            (message, _) => f.write_str(message),
        }
    }
}

// The text is whole: the sources of a status are the transport's, which say nothing to a user.
impl std::error::Error for Answer {}
