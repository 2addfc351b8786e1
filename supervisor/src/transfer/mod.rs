//! Images in and out: imports, and unpacking of layers into snapshots.
//!
//! Promise: an image's record is written last, when all that it refers to is stored and verified.
//! A transfer that fails leaves nothing: a lease of its own holds what it brought, and is deleted
//! with it.
//!
//! - `import`: from an archive to images' records.
//! - `unpack`, `layer`: from layers to snapshots.
//! - `repair`: what the check of a root needs of images.
//! - `progress`: the events of a running transfer.
//!
//! Not here: documents, platforms, names and archives of images (`image`).

mod error;
mod import;
mod layer;
mod progress;
mod repair;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use error::TransferError;
pub(crate) use import::{Destination, Importer, Prefix, end_orphans};
pub(crate) use layer::{LayerError, apply};
pub(crate) use progress::{Event, Progress};
pub(crate) use repair::KnownLayer;
