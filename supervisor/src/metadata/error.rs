//! What can go wrong with the file, and with any record in it.

use std::io;
use std::path::PathBuf;

use shim_sdk::Kind;

/// The database itself failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    /// The folder of the file could not be made.
    #[error("create folder of metadata {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file could not be opened.
    #[error("open metadata {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rusqlite::Error,
    },
    /// A step of the upgrade failed.
    #[error("bring metadata to schema {version}")]
    Upgrade {
        /// The schema that was to be reached.
        version: i64,
        /// Why.
        #[source]
        cause: rusqlite::Error,
    },
    /// The file was written by a later release.
    #[error("metadata has schema {found}, this release knows schemas up to {known}")]
    TooNew {
        /// The schema found.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// A statement failed.
    #[error("metadata statement")]
    Statement(#[source] rusqlite::Error),
    /// A stored value cannot be read back.
    #[error("metadata holds a damaged {what}")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What a root's database must be could not be read or written.
    #[error("keep metadata.mark in {root}")]
    Mark {
        /// The root directory.
        root: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The database could not be copied.
    #[error("copy metadata to {path}")]
    Copy {
        /// The copy.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The writer thread has ended.
    #[error("metadata is closed")]
    Closed,
    /// A thread for the database could not be started.
    #[error("start the metadata writer")]
    Thread(#[source] io::Error),
}

impl MetadataError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Folder { cause, .. }
            | Self::Thread(cause)
            | Self::Mark { cause, .. }
            | Self::Copy { cause, .. } => Kind::from_io(cause),
            Self::Open { cause, .. } | Self::Upgrade { cause, .. } | Self::Statement(cause) => {
                match cause.sqlite_error_code() {
                    _ if super::is_full(cause) => Kind::ResourceExhausted,
                    Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::OutOfMemory) => {
                        Kind::ResourceExhausted
                    }
                    Some(
                        rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase,
                    ) => Kind::DataLoss,
                    Some(rusqlite::ErrorCode::DatabaseBusy) => Kind::Unavailable,
                    _ => Kind::Internal,
                }
            }
            Self::TooNew { .. } => Kind::FailedPrecondition,
            Self::Damaged { .. } => Kind::DataLoss,
            Self::Closed => Kind::Unavailable,
        }
    }
}

impl From<rusqlite::Error> for MetadataError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Statement(cause)
    }
}

/// A request about a record (image, container, lease, namespace) was refused or failed.
///
/// The texts follow containerd's, for clients that look inside them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// There is no such record.
    #[error("{what} {id:?}: not found")]
    NotFound {
        /// The sort of record.
        what: &'static str,
        /// Its identifier.
        id: String,
    },
    /// The identifier is taken.
    #[error("{what} {id:?}: already exists")]
    AlreadyExists {
        /// The sort of record.
        what: &'static str,
        /// Its identifier.
        id: String,
    },
    /// A field of the request cannot be accepted.
    #[error("{what} {id:?}: {reason}: invalid argument")]
    Invalid {
        /// The sort of record.
        what: &'static str,
        /// Its identifier.
        id: String,
        /// Which field, and why.
        reason: String,
    },
    /// The record is not in a state that allows this.
    #[error("{what} {id:?} {reason}: failed precondition")]
    Refused {
        /// The sort of record.
        what: &'static str,
        /// Its identifier.
        id: String,
        /// Why not.
        reason: String,
    },
    /// A field path of an update mask is not one that can be changed.
    #[error("cannot update {field:?} field on {what} {id:?}: invalid argument")]
    Field {
        /// The sort of record.
        what: &'static str,
        /// Its identifier.
        id: String,
        /// The field path.
        field: String,
    },
    /// A label cannot be accepted.
    #[error(transparent)]
    Label(#[from] super::labels::LabelError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] super::filter::FilterError),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl RecordError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::Invalid { .. } | Self::Field { .. } | Self::Label(_) | Self::Filter(_) => {
                Kind::InvalidArgument
            }
            Self::Refused { .. } => Kind::FailedPrecondition,
            Self::Metadata(cause) => cause.kind(),
        }
    }
}

impl From<rusqlite::Error> for RecordError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Metadata(cause.into())
    }
}
