//! Why an image cannot be read: which document or archive entry, and what is wrong with it.

use std::io;

use installer::budget::Exhausted;
use installer::layer::ExtractError;
use shim_sdk::Kind;

use super::reference::InvalidReference;
use crate::content::{ContentError, Digest, InvalidDigest};
use crate::text::{QUOTED_BYTES, escaped};

/// An image, or an archive of images, could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The archive could not be read. A truncated archive ends here.
    #[error(transparent)]
    Archive(#[from] ExtractError),
    /// A document in the store could not be read.
    #[error("read {document}")]
    Read {
        document: String,
        #[source]
        cause: io::Error,
    },
    /// The budget is used up, or the work was stopped.
    #[error(transparent)]
    Budget(#[from] Exhausted),
    /// A blob's bytes do not have the digest that its name gives.
    #[error("archive entry {entry} has digest {got}, its name says {want}")]
    WrongDigest { entry: String, want: Digest, got: Digest },
    /// The name of a blob's archive entry holds no valid digest.
    #[error("archive entry {entry}")]
    BadName {
        entry: String,
        #[source]
        cause: InvalidDigest,
    },
    /// The archive holds no images.
    #[error(
        "not an image archive: it has neither index.json (OCI layout) nor manifest.json (docker save)"
    )]
    NotAnImage,
    /// A document does not have the form that it must have. The reason may quote the document, so
    /// it is kept as escaped and bounded text and not as a source.
    #[error("{document} is malformed: {reason}")]
    Malformed { document: String, reason: String },
    /// A document refers to a blob that is not there.
    #[error("{by} names {what} {name}, which is not in the archive")]
    Missing { by: String, what: &'static str, name: String },
    /// A document gives the wrong size for a blob.
    #[error("{by} says that {what} {name} has {want} bytes, it has {got}")]
    WrongSize { by: String, what: &'static str, name: String, want: u64, got: u64 },
    /// One of the limits of this module is exceeded.
    #[error("{what} exceeds the limit of {limit}")]
    Limit { what: String, limit: u64 },
    /// The text is not a valid image reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The image has no manifest that runs on the platform.
    #[error("image {image} has nothing for {wanted}, only for {have}")]
    NoPlatform { image: String, wanted: String, have: String },
    /// The content store refused.
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl ImageError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Archive(cause) => installer_kind(cause.kind()),
            Self::Budget(cause) => installer_kind(installer::Kind::of_refused(cause)),
            Self::Read { cause, .. } => match Kind::from_io(cause) {
                Kind::Unknown => Kind::DataLoss,
                kind => kind,
            },
            Self::WrongDigest { .. } => Kind::FailedPrecondition,
            Self::BadName { .. }
            | Self::NotAnImage
            | Self::Malformed { .. }
            | Self::WrongSize { .. }
            | Self::Reference(_) => Kind::InvalidArgument,
            Self::Missing { .. } | Self::NoPlatform { .. } => Kind::NotFound,
            Self::Limit { .. } => Kind::ResourceExhausted,
            Self::Content(cause) => cause.kind(),
        }
    }
}

/// The kind of an error of the installer crate, which knows none of our crates.
pub(crate) fn installer_kind(kind: installer::Kind) -> Kind {
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

/// A name from an archive or a document, escaped and bounded for an error.
pub(super) fn quoted(name: &str) -> String {
    escaped(name, QUOTED_BYTES).to_string()
}

/// `reason` may quote the document, so it may be of any length.
pub(super) fn malformed(document: &str, reason: impl ToString) -> ImageError {
    ImageError::Malformed { document: document.to_owned(), reason: quoted(&reason.to_string()) }
}
