//! The kinds of error that callers tell apart.

use std::io;

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
    /// Anything else that the system refused.
    Internal,
}

impl Kind {
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
            | io::ErrorKind::OutOfMemory => Self::ResourceExhausted,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::DataLoss,
            _ => Self::Internal,
        }
    }
}
