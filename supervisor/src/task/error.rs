//! Why a task cannot do what a client asked.

use std::io;
use std::path::PathBuf;

use shim_sdk::Kind;
use shim_sdk::shim_path::ShimPathError;

use super::shim_client::bootstrap::ReplyError;
use super::shim_client::{CallError, ConnectError};

/// A call on a task that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("task {id} not found")]
    NotFound { id: String },
    #[error("process {exec} of task {id} not found")]
    ExecNotFound { id: String, exec: String },
    #[error("task {id}: already exists")]
    Exists { id: String },
    #[error("task {id} was deleted while it was being made")]
    Abandoned { id: String },
    /// A signal for what has exited; clients take it for success.
    #[error("process already finished: task {id} has exited")]
    Finished { id: String },
    #[error("task {id} has exited and its shim is gone; it can only be deleted")]
    Exited { id: String },
    #[error("task {id}: its shim is being reached, try again")]
    Recovering { id: String },
    #[error(transparent)]
    Resolve(#[from] ShimPathError),
    #[error("{attempt} {path}")]
    Bundle {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("start shim {shim}")]
    Spawn {
        shim: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("shim {shim} failed to start: {output}")]
    ShimFailed { shim: PathBuf, output: String },
    #[error("shim {shim} did not answer `{action}` within {seconds} s")]
    ShimSlow { shim: PathBuf, action: &'static str, seconds: u64 },
    #[error("reply of shim {shim}")]
    Reply {
        shim: PathBuf,
        #[source]
        cause: ReplyError,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What the shim answered, in its own words: clients match on them.
    #[error(transparent)]
    Shim(#[from] CallError),
    #[error("the supervisor is stopping")]
    Stopping,
    #[error("{what} was interrupted")]
    Interrupted { what: &'static str },
}

impl TaskError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::ExecNotFound { .. } | Self::Finished { .. } => {
                Kind::NotFound
            }
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Exited { .. } => Kind::FailedPrecondition,
            Self::Recovering { .. } | Self::Stopping => Kind::Unavailable,
            Self::Resolve(error) => error.kind(),
            Self::Bundle { cause, .. } | Self::Spawn { cause, .. } => match Kind::from_io(cause) {
                // The task's own files are nothing that the client named.
                Kind::NotFound | Kind::AlreadyExists => Kind::Internal,
                kind => kind,
            },
            Self::ShimFailed { .. } | Self::Reply { .. } => Kind::Unknown,
            Self::ShimSlow { .. } => Kind::DeadlineExceeded,
            Self::Connect(_) => Kind::Unavailable,
            Self::Shim(error) => error.kind(),
            Self::Abandoned { .. } => Kind::Aborted,
            Self::Interrupted { .. } => Kind::Internal,
        }
    }
}
