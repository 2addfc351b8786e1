//! Why content was not read, written or deleted. The texts follow containerd's.

use std::io;
use std::path::PathBuf;

use shim_sdk::Kind;

use super::Digest;
use crate::metadata::filter::FilterError;
use crate::metadata::labels::LabelError;
use crate::metadata::{MetadataError, RecordError};

/// A request for content was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// The namespace has no such blob.
    #[error("content {0}: not found")]
    NotFound(Digest),
    /// The namespace has that blob already.
    #[error("content {0}: already exists")]
    AlreadyExists(Digest),
    /// There is no ingest of that reference.
    #[error("ingest {reference:?}: not found")]
    NoIngest { reference: String },
    /// Another writer has it open.
    #[error("ref {reference:?} locked: unavailable")]
    Locked { reference: String },
    /// An ingest needs a name.
    #[error("first message must have a reference: invalid argument")]
    NoReference,
    /// A second writer of an ingest wants something else than the first.
    #[error("ingest {reference:?} was begun with {field} {was}, not {now}: failed precondition")]
    Differs { reference: String, field: &'static str, was: String, now: String },
    /// What was written is not what was announced.
    #[error(
        "ingest {reference:?}: unexpected commit digest {got}, expected {want}: failed precondition"
    )]
    WrongDigest { reference: String, got: Digest, want: Digest },
    /// Less or more was written than announced.
    #[error("ingest {reference:?} failed size validation: {got} != {want}: failed precondition")]
    WrongSize { reference: String, got: u64, want: u64 },
    /// A read begins beyond the end.
    #[error("read past object length {size} bytes: out of range")]
    PastEnd { size: u64 },
    /// A field that an update cannot change.
    #[error("cannot update {field:?} field on content info {digest}: invalid argument")]
    Field { digest: Digest, field: String },
    /// A label cannot be accepted.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A lease cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file could not be used.
    #[error("{verb} {path}")]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl ContentError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::NoIngest { .. } => Kind::NotFound,
            Self::AlreadyExists(_) => Kind::AlreadyExists,
            Self::Locked { .. } => Kind::Unavailable,
            Self::Differs { .. } | Self::WrongDigest { .. } | Self::WrongSize { .. } => {
                Kind::FailedPrecondition
            }
            Self::PastEnd { .. } => Kind::OutOfRange,
            Self::NoReference | Self::Field { .. } | Self::Label(_) | Self::Filter(_) => {
                Kind::InvalidArgument
            }
            Self::Record(cause) => cause.kind(),
            // A file that the records promise but the disk lacks is damage, not "not found".
            Self::File { cause, .. } if cause.kind() == io::ErrorKind::NotFound => Kind::DataLoss,
            Self::File { cause, .. } => Kind::from_io(cause),
            Self::Metadata(cause) => cause.kind(),
        }
    }
}

impl From<rusqlite::Error> for ContentError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Metadata(cause.into())
    }
}

/// Turns an I/O error on `path` into a [`ContentError`].
pub(super) fn file(
    verb: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ContentError {
    let path = path.into();
    move |cause| ContentError::File { verb, path, cause }
}
