//! Why a snapshot was not made, changed or removed. The texts follow containerd's.

use std::io;
use std::path::PathBuf;

use shim_sdk::Kind;

use crate::metadata::filter::FilterError;
use crate::metadata::labels::LabelError;
use crate::metadata::{MetadataError, RecordError};

/// A request about a snapshot was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// There is no such snapshotter.
    #[error("snapshotter not loaded: {0}: invalid argument")]
    Snapshotter(String),
    /// A key or name is missing.
    #[error("snapshot {what} must not be empty: invalid argument")]
    Empty { what: &'static str },
    /// There is no such snapshot.
    #[error("snapshot {key}: not found")]
    NotFound { key: String },
    /// The key or name is taken.
    #[error("snapshot {key}: already exists")]
    AlreadyExists { key: String },
    /// There is no such parent.
    #[error("parent snapshot {parent}: not found")]
    NoParent { parent: String },
    /// A parent can still change.
    #[error("parent {parent:?} is not committed snapshot: invalid argument")]
    ParentNotCommitted { parent: String },
    /// Only an active snapshot can be committed.
    #[error("snapshot {key} is not active: failed precondition")]
    NotActive { key: String },
    /// A committed snapshot is not mounted itself; a view of it is.
    #[error("snapshot {key} is neither active nor a view: failed precondition")]
    NotMountable { key: String },
    /// Others are built on it.
    #[error("cannot remove snapshot {key} with child: failed precondition")]
    HasChildren { key: String },
    /// A field that an update cannot change.
    #[error("cannot update {field:?} field on snapshot {key:?}: invalid argument")]
    Field { key: String, field: String },
    /// A label cannot be accepted.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A lease cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A directory could not be used.
    #[error("{verb} {path}")]
    Directory {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl SnapshotError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::NoParent { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::NotActive { .. } | Self::NotMountable { .. } | Self::HasChildren { .. } => {
                Kind::FailedPrecondition
            }
            Self::Snapshotter(_)
            | Self::Empty { .. }
            | Self::ParentNotCommitted { .. }
            | Self::Field { .. }
            | Self::Label(_)
            | Self::Filter(_) => Kind::InvalidArgument,
            Self::Record(cause) => cause.kind(),
            Self::Directory { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                Kind::DataLoss
            }
            Self::Directory { cause, .. } => Kind::from_io(cause),
            Self::Metadata(cause) => cause.kind(),
        }
    }
}

impl From<rusqlite::Error> for SnapshotError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Metadata(cause.into())
    }
}

/// Turns an I/O error on `path` into a [`SnapshotError`].
pub(super) fn directory(
    verb: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.into();
    move |cause| SnapshotError::Directory { verb, path, cause }
}
