//! The kinds of error that callers tell apart.

use std::io;

use crate::budget::Exhausted;

/// What went wrong, in terms a caller can map to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The archive or the request is not acceptable as it is.
    InvalidArgument,
    /// What was named does not exist.
    NotFound,
    /// Something else holds that place.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// The disk or a limit is used up.
    ResourceExhausted,
    /// The state does not allow it.
    FailedPrecondition,
    /// The data is damaged or ends early.
    DataLoss,
    /// It was stopped: its client has gone.
    Cancelled,
    /// Anything else that the system refused.
    Internal,
}

impl Kind {
    /// The kind that a refused charge amounts to.
    pub fn of_refused(refused: &Exhausted) -> Self {
        match refused {
            Exhausted::Stopped => Self::Cancelled,
            Exhausted::Limit { .. } | Exhausted::Expansion { .. } | Exhausted::Time { .. } => {
                Self::ResourceExhausted
            }
        }
    }

    /// The kind that an I/O error amounts to.
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::PermissionDenied
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Self::InvalidArgument,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => Self::ResourceExhausted,
            io::ErrorKind::Unsupported => Self::InvalidArgument,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::DataLoss,
            _ => Self::Internal,
        }
    }
}
