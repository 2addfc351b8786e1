//! Images in and out: archives, unpacking, layers.
//!
//! Terms: an *archive* is a tar of an OCI image layout or of what `docker save` writes; a *target*
//! is the manifest or index that an image's name points to; the *chain id* of a layer names the
//! snapshot of it and all below.
//!
//! Promise: an image's record appears last, when everything it leads to is in place and verified.
//! A transfer that fails leaves nothing half-made: what it brought was held by a lease of its own
//! only, and goes with it.
//! See the OCI image specification (layout, manifest, index, config).

mod archive;
mod bounded;
mod document;
mod error;
mod import;
mod layer;
mod layout;
mod platform;
mod progress;
pub(crate) mod reference;
mod remake;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;

pub(crate) use bounded::List;
pub(crate) use error::{TransferError, kind};
pub(crate) use import::{Destination, Importer, Prefix, end_orphans};
pub(crate) use layer::{LayerError, apply};
pub(crate) use platform::Platform;
pub(crate) use progress::{Event, Progress};
pub(crate) use remake::KnownLayer;
