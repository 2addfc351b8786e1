//! Why a transfer failed: on what, and the cause.

use std::io;

use installer::budget::Exhausted;
use installer::layer::ExtractError;
use shim_sdk::Kind;

use super::layer::LayerError;
use crate::content::{ContentError, Digest};
use crate::image::{ImageError, installer_kind};
use crate::metadata::RecordError;
use crate::snapshot::SnapshotError;

/// A transfer failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The image or its archive could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer could not be read. A truncated layer ends here.
    #[error(transparent)]
    Archive(#[from] ExtractError),
    /// A file could not be read.
    #[error("read {document}")]
    Read {
        document: String,
        #[source]
        cause: io::Error,
    },
    /// The transfer's budget is used up, or the transfer was stopped.
    #[error(transparent)]
    Budget(#[from] Exhausted),
    /// The unpack asks for a snapshotter that the daemon does not have.
    #[error("unpack with snapshotter {0:?}: not offered")]
    Snapshotter(String),
    /// The uncompressed layer does not have the digest that the image's config gives.
    #[error("layer {layer} unpacks to {got}, the image's config says {want}")]
    WrongDiffId { layer: Digest, want: Digest, got: Digest },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Layer {
        layer: Digest,
        #[source]
        cause: Box<LayerError>,
    },
    /// The content store refused.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The snapshotter refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The database refused.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A thread of the transfer ended without an answer.
    #[error("the transfer was given up")]
    Lost,
}

impl TransferError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Image(cause) => cause.kind(),
            Self::Archive(cause) => installer_kind(cause.kind()),
            Self::Budget(cause) => installer_kind(installer::Kind::of_refused(cause)),
            Self::Read { cause, .. } => match Kind::from_io(cause) {
                Kind::Unknown => Kind::DataLoss,
                kind => kind,
            },
            Self::WrongDiffId { .. } => Kind::FailedPrecondition,
            Self::Snapshotter(_) => Kind::InvalidArgument,
            Self::Layer { cause, .. } => cause.kind(),
            Self::Content(cause) => cause.kind(),
            Self::Snapshot(cause) => cause.kind(),
            Self::Record(cause) => cause.kind(),
            Self::Lost => Kind::Internal,
        }
    }
}
