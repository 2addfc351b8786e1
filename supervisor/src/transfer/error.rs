//! Why a transfer failed: which thing, and what about it.

use std::io;

use installer::budget::Exhausted;
use installer::extract::ExtractError;
use shim_sdk::Kind;

use super::layer::LayerError;
use super::reference::InvalidReference;
use crate::content::{ContentError, Digest, InvalidDigest};
use crate::metadata::RecordError;
use crate::snapshot::SnapshotError;
use crate::text::{QUOTED_BYTES, escaped};

/// A transfer failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The archive could not be read; a truncated one ends here.
    #[error(transparent)]
    Archive(#[from] ExtractError),
    /// A document in the store could not be read.
    #[error("read {document}")]
    Read {
        document: String,
        #[source]
        cause: io::Error,
    },
    /// The transfer's budget is used up, or the transfer was stopped.
    #[error(transparent)]
    Budget(#[from] Exhausted),
    /// The bytes of a blob are not what its name says.
    #[error("archive entry {entry} has digest {got}, its name says {want}")]
    WrongDigest { entry: String, want: Digest, got: Digest },
    /// An entry's name has a digest that is none.
    #[error("archive entry {entry}")]
    BadName {
        entry: String,
        #[source]
        cause: InvalidDigest,
    },
    /// The archive is something else.
    #[error(
        "not an image archive: it has neither index.json (OCI layout) nor manifest.json (docker save)"
    )]
    NotAnImage,
    /// A document cannot be understood.
    #[error("{document} is malformed: {reason}")]
    Malformed { document: String, reason: String },
    /// A document names something that is not there.
    #[error("{by} names {what} {name}, which is not in the archive")]
    Missing { by: String, what: &'static str, name: String },
    /// A document gives the wrong size for what it names.
    #[error("{by} says that {what} {name} has {want} bytes, it has {got}")]
    WrongSize { by: String, what: &'static str, name: String, want: u64, got: u64 },
    /// A bound of ours is exceeded.
    #[error("{what} exceeds the limit of {limit}")]
    Limit { what: String, limit: u64 },
    /// A name for an image is none.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// Nothing in the image runs on the platform asked for.
    #[error("image {image} has nothing for {wanted}, only for {have}")]
    NoPlatform { image: String, wanted: String, have: String },
    /// An unpack with a snapshotter that is not offered.
    #[error("unpack with snapshotter {0:?}: not offered")]
    Snapshotter(String),
    /// A layer's files are not what the config says.
    #[error("layer {layer} unpacks to {got}, the image's config says {want}")]
    WrongDiffId { layer: Digest, want: Digest, got: Digest },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Layer {
        layer: Digest,
        #[source]
        cause: Box<LayerError>,
    },
    /// Content could not be stored.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A snapshot could not be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A record could not be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A thread of the transfer ended without an answer.
    #[error("the transfer was given up")]
    Lost,
}

/// A name from an archive or a document, for an error.
pub(super) fn shown(name: &str) -> String {
    escaped(name, QUOTED_BYTES).to_string()
}

/// The kind of an error of the installer's crate.
pub(crate) fn kind(kind: installer::Kind) -> Kind {
    match kind {
        installer::Kind::InvalidArgument => Kind::InvalidArgument,
        installer::Kind::NotFound => Kind::NotFound,
        installer::Kind::AlreadyExists => Kind::AlreadyExists,
        installer::Kind::PermissionDenied => Kind::PermissionDenied,
        installer::Kind::ResourceExhausted => Kind::ResourceExhausted,
        installer::Kind::FailedPrecondition => Kind::FailedPrecondition,
        installer::Kind::DataLoss => Kind::DataLoss,
        installer::Kind::Cancelled => Kind::Cancelled,
        installer::Kind::Internal => Kind::Internal,
    }
}

impl TransferError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Archive(cause) => kind(cause.kind()),
            Self::Budget(cause) => kind(installer::Kind::of_refused(cause)),
            Self::Read { cause, .. } => match Kind::from_io(cause) {
                Kind::Unknown => Kind::DataLoss,
                kind => kind,
            },
            Self::WrongDigest { .. } | Self::WrongDiffId { .. } => Kind::FailedPrecondition,
            Self::BadName { .. }
            | Self::NotAnImage
            | Self::Malformed { .. }
            | Self::WrongSize { .. }
            | Self::Reference(_)
            | Self::Snapshotter(_) => Kind::InvalidArgument,
            Self::Missing { .. } | Self::NoPlatform { .. } => Kind::NotFound,
            Self::Limit { .. } => Kind::ResourceExhausted,
            Self::Layer { cause, .. } => cause.kind(),
            Self::Content(cause) => cause.kind(),
            Self::Snapshot(cause) => cause.kind(),
            Self::Record(cause) => cause.kind(),
            Self::Lost => Kind::Internal,
        }
    }
}
