//! Why a request is refused, with the text and status kind that the client gets.
//!
//! The texts are containerd's own. Its clients match on some of them, so they must not change.

use crate::{Error, Kind};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The container is being created, or does not exist.
    NotCreated,
    /// The process has no pid yet.
    NotStarted,
    /// The process has ended.
    Finished,
    /// Init has ended, so nothing can be started in the container.
    InitEnded,
    /// The state does not allow the request; the text is containerd's.
    State(&'static str),
}

impl Refusal {
    /// The error that the client gets.
    pub(crate) fn into_error(self, container: &str) -> Error {
        match self {
            Self::NotCreated => Error::new(Kind::NotFound, "container not created"),
            Self::NotStarted => Error::new(Kind::FailedPrecondition, "process not created"),
            Self::Finished => Error::new(Kind::NotFound, "process already finished"),
            Self::InitEnded => Error::new(
                Kind::FailedPrecondition,
                format!("container {container} init process is not running"),
            ),
            // UNKNOWN on the wire, as containerd's own shim has it.
            Self::State(text) => Error::new(Kind::Unknown, text),
        }
    }
}
