//! The closed set of error kinds that containerd's clients distinguish.
//!
//! See containerd's errdefs package. Exactly one function per wire turns a kind into a code.

use std::io;

/// The kind of an error, in containerd's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// None of the others; the status code is UNKNOWN.
    Unknown,
    /// The request itself is malformed.
    InvalidArgument,
    /// The object does not exist, or does not exist any more.
    NotFound,
    /// The identifier is taken.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// A quota or a resource of the host is used up.
    ResourceExhausted,
    /// The object is in a state that does not allow this.
    FailedPrecondition,
    /// A concurrent request came first; try again.
    Aborted,
    /// A position lies outside the object.
    OutOfRange,
    /// This method, or an option of it, is not supported.
    Unimplemented,
    /// An internal invariant does not hold.
    Internal,
    /// The other side cannot be reached now, or shuts down.
    Unavailable,
    /// Stored data is damaged.
    DataLoss,
    /// The caller gave up.
    Cancelled,
    /// Time ran out.
    DeadlineExceeded,
}

impl Kind {
    /// The kind of an I/O error.
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
            io::ErrorKind::TimedOut => Self::DeadlineExceeded,
            io::ErrorKind::Unsupported => Self::Unimplemented,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::DataLoss,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}
