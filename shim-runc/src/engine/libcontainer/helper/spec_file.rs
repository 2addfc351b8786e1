//! The spec in a bundle: `config.json`.
//!
//! Promise: the file is read only if it is a regular file, and to a bound ([`MAX_SPEC_BYTES`]).
//! See the OCI runtime specification, bundle.md.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use shim_sdk::bundle::MAX_SPEC_BYTES;
use shim_sdk::file::read_regular;

use super::super::wire::{Failure, Reason};

/// The name of the file.
const SPEC: &str = "config.json";

/// Identifies one version of a bundle's spec: inode, size, and the time of the last change in seconds
/// and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpecVersion(u64, u64, i64, i64);

impl SpecVersion {
    /// The version that the bundle has now. `None` if there is no spec.
    pub(super) fn of(bundle: &Path) -> Option<Self> {
        let file = fs::metadata(bundle.join(SPEC)).ok()?;
        Some(Self(file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
    }
}

/// Reads the spec in a bundle.
pub(super) fn read_spec(bundle: &Path) -> Result<Spec, Failure> {
    let path = bundle.join(SPEC);
    let text = read_regular(&path, MAX_SPEC_BYTES).map_err(|error| {
        Failure::new(Reason::InvalidRequest, format!("read {}: {error}", path.display()))
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::new(Reason::InvalidRequest, format!("parse {}: {error}", path.display()))
    })
}
