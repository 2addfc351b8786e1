//! Images: their records, their documents, and the archives that hold them.
//!
//! Terms, as in the OCI image specification: a *manifest* lists an image's config and layers; an
//! *index* lists manifests, one for each platform; a *target* is the manifest or index that an
//! image's record points to; a *diff id* is the digest of an uncompressed layer; the *chain id* of a
//! layer names the snapshot that holds it and all layers below it.
//!
//! - `record`: the records in the database.
//! - `manifest`, `media_type`, `bounded`: the JSON documents, bounded while they are parsed.
//! - `execution`: what an image says of its containers.
//! - `platform`, `reference`, `chain_id`: platforms, image names, chain ids.
//! - `resolve`, `select`: from a target to its manifests, and the manifest for a platform.
//! - `archive`: reads OCI layouts and docker archives into the content store.
//!
//! Not here: unpacking, leases and the order of an import (`transfer`).

pub(crate) mod archive;
mod bounded;
mod chain_id;
mod error;
mod execution;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod platform;
mod record;
pub(crate) mod reference;
pub(crate) mod resolve;
mod select;

pub(crate) use chain_id::chain_ids;
pub(crate) use error::{ImageError, installer_kind};
pub(crate) use execution::{ExecutionConfig, RunnableConfig};
pub(crate) use platform::Platform;
pub(crate) use record::{Image, Images};
