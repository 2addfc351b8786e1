//! Snapshots: a tree in metadata, directories and mounts by a driver.
//!
//! Terms, containerd's: an *active* snapshot is being changed and has a *key*; a *view* is read
//! only and has a key too; a *committed* snapshot has a *name*, never changes, and can be the
//! *parent* of others. Keys and names share one set within a namespace and snapshotter.
//!
//! ```text
//!  prepare(parent) ──► active ──commit──► committed      remove: anything without children
//!  view(parent) ─────► view
//! ```
//!
//! Promise: records and directories agree after a crash: a directory is made before its record is
//! durable, outlives it, and is swept at the next start when it has none. The record of a committed
//! snapshot is written when every file of it is on the disk.

#[cfg(test)]
mod conformance;
mod driver;
mod drivers;
mod error;
pub(crate) mod mount;
mod overlay;
mod record;
mod repair;
mod replace;
mod restore;
mod snapshotter;
#[cfg(test)]
mod tests;
mod usage;

use driver::Driver;
pub(crate) use drivers::DEFAULT as DEFAULT_SNAPSHOTTER;
pub(crate) use error::SnapshotError;
pub(crate) use mount::Mount;
pub(crate) use record::{Info, Kind};
pub(crate) use repair::Recorded;
pub(crate) use snapshotter::{Commit, New, Snapshotter, remove_orphans};
pub(crate) use usage::Usage;
