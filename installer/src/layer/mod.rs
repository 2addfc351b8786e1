//! Extracts one layer of an image onto a directory, and lets nothing in it reach anything else.
//!
//! # Terms
//!
//! - *layer*: a tar stream of entries, with whiteouts for what it removes from the layers below.
//! - *into*: the directory that the layer's own entries go to.
//! - *parents*: the directories of the layers below, nearest first, in overlayfs's form.
//! - *merged root*: what a container would see: *into* over its parents.
//!
//! Promise: an entry's name is looked up in the merged root, one component at a time and relative
//! to descriptors, so that neither `..`, nor an absolute name, nor a symbolic link leads outside.
//! A parent that is a symbolic link (`lib` → `usr/lib`) is followed within the merged root, as other
//! tools do, whether a lower layer or the same one made it. Directories that the layer does not
//! mention, but puts something in, keep the metadata they have below. Memory does not grow with the
//! number of entries; where it must (removing whiteouts over what is there already), it is charged
//! to the transfer's budget.
//! Nothing is synced: who records the result as complete syncs the file system once.
//!
//! See the OCI image specification ("Image Layer Filesystem Changeset"), openat2(2), and overlayfs
//! in the kernel's documentation.

mod archive;
mod decompress;
mod error;
#[cfg(test)]
mod fuzz;
pub mod merged;
mod metadata;
#[cfg(test)]
mod tests;
mod tree;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use archive::{Archive, Entry, EntryKind};
pub use decompress::{Compression, decompressed, decompressed_within};
pub use error::{EntryName, ExtractError, Refusal};

pub use crate::budget::Limits;
use crate::budget::{Budget, Cost};
use tree::Tree;

/// What to do with an entry that removes something from the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Write what overlayfs understands: a 0/0 character device for a removed name, and
    /// `trusted.overlay.opaque` on a directory that hides what is below it. *into* starts empty.
    ///
    /// Without parents there is nothing to hide, and nothing is written.
    Overlay,
    /// Remove it from *into*, which already holds the layers below.
    Remove,
}

/// A layer that was extracted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes of content.
    pub size_bytes: u64,
    /// Entries in the archive.
    pub entries: u64,
}

/// Extracts `tar`, which is not compressed, onto `into`.
///
/// `parents` are the lower overlay directories, nearest first, and empty for the base layer or when
/// `into` itself holds the layers below. The stream is read to its end, beyond the archive's own
/// end too, so that a caller who digests it sees every byte.
///
/// On an error `into` holds part of the layer; the caller removes it.
pub fn apply(
    tar: impl Read,
    into: &Path,
    parents: &[PathBuf],
    whiteouts: Whiteouts,
    limits: &Limits,
) -> Result<Applied, ExtractError> {
    let budget = Budget::new(limits.clone());
    let tar = budget.meter(budget.meter(tar, Cost::Input), Cost::Output);
    apply_within(tar, into, parents, whiteouts, &budget)
}

/// [`apply`], charged to `budget`, except for the bytes of `tar`: the reader that makes them charges
/// them, as [`decompressed_within`] does.
pub fn apply_within(
    tar: impl Read,
    into: &Path,
    parents: &[PathBuf],
    whiteouts: Whiteouts,
    budget: &Budget,
) -> Result<Applied, ExtractError> {
    let mut archive = Archive::new(tar, budget);
    let mut tree = Tree::open(into, parents, whiteouts, budget)?;
    while let Some(entry) = archive.next_entry()? {
        tree.add(&entry, &mut archive)?;
    }
    archive.drain()?;
    tree.finish()?;
    let (entries, size_bytes) = archive.totals();
    Ok(Applied { size_bytes, entries })
}
