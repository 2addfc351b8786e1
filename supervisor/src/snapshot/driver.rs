//! The contract of a snapshot driver: it makes directories and lists of mounts.
//!
//! A driver keeps no records. It knows a snapshot by its number, which is never given to another
//! snapshot once a record had it. The records, and which snapshot is whose parent, are in metadata
//! (`record.rs`); `snapshotter.rs` calls the driver and keeps both in agreement.
//! All methods block.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use super::{Kind, Mount, SnapshotError};

/// Makes, mounts, syncs and removes the directories of snapshots.
pub(crate) trait Driver: Debug + Send + Sync {
    /// The name by which clients choose the driver.
    fn name(&self) -> &'static str;

    /// Makes the directories of snapshot `id`, whose root takes owner and mode from its parent's.
    fn create(&self, id: i64, kind: Kind, parent: Option<i64>) -> Result<(), SnapshotError>;

    /// Puts a filled draft in place of the directories of snapshot `id`.
    fn put_in_place(&self, id: i64, draft: &Path) -> Result<(), SnapshotError>;

    /// The directories that are as a snapshot's, by number.
    fn all(&self) -> Result<Vec<(i64, PathBuf)>, SnapshotError>;

    /// How snapshot `id` is mounted, over `parents`, the nearest first.
    fn mounts(&self, id: i64, kind: Kind, parents: &[i64]) -> Vec<Mount>;

    /// Puts everything that was written to the folder's file system on the disk.
    fn sync(&self) -> Result<(), SnapshotError>;

    /// Directories to be filled in place of those of snapshot `id`, and how to mount them over
    /// `parents`. `number` tells those of one daemon apart.
    fn draft(
        &self,
        id: i64,
        number: u64,
        parents: &[i64],
    ) -> Result<(PathBuf, Vec<Mount>), SnapshotError>;

    /// Moves the files of a draft to where those of snapshot `id` are missing, once they are on the
    /// disk. What another request has restored meanwhile stays.
    fn restore(&self, id: i64, draft: &Path) -> Result<(), SnapshotError>;

    /// Removes the directories of snapshot `id`. Its number is never used again, so this can
    /// happen at any time after its record has gone.
    fn remove(&self, id: i64) -> io::Result<()>;

    /// Takes the directories of snapshots that `known` denies out of the way, and answers with them;
    /// the database must be known to be this folder's. What is no snapshot's is set aside.
    ///
    /// They bear names that no snapshot will have, so they can be removed while others are made.
    fn sweep(&self, known: &dyn Fn(i64) -> bool) -> Result<Vec<PathBuf>, SnapshotError>;

    /// Where the files of snapshot `id` itself are.
    fn root(&self, id: i64) -> PathBuf;
}
