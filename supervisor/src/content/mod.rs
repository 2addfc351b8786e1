//! Blobs by digest, and the ingests that become blobs.
//!
//! Terms: a *blob* is immutable content named by its digest; an *ingest* is content on its way
//! in, named by a reference its writer chose, resumable; a *descriptor* points to a blob.
//!
//! Everything here blocks (files, the database): callers in the async tree go through a blocking
//! thread.

mod compare;
#[cfg(test)]
mod conformance;
mod digest;
mod error;
mod ingest;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(crate) use compare::Comparison;
pub(crate) use digest::{Digest, Hasher, InvalidDigest};
pub(crate) use error::ContentError;
pub(crate) use ingest::{Ingest, Request, Status};
pub(crate) use store::{Garbage, Info, Store, forget};

/// Points to content: what it is, its digest and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// What the content is.
    pub(crate) media_type: String,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Anything else said about it.
    pub(crate) annotations: BTreeMap<String, String>,
}
