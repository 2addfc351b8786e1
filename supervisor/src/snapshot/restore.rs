//! Puts the files of a committed snapshot back whose directory was lost.
//!
//! A record outlives its directory where a user removed that, or a disk lost it. Its layers' blobs
//! bring it back: they are unpacked beside, and put in place in one step, under the same number,
//! since others are built on it. Nothing is replaced that is there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::directory;
use super::record;
use super::{Kind, Mount, SnapshotError, Snapshotter};
use crate::metadata::Namespace;

/// Directories to be filled. They go when this is dropped.
pub(crate) struct Draft {
    id: i64,
    home: PathBuf,
    /// How to mount them over the snapshot's parents.
    pub(crate) mounts: Vec<Mount>,
}

/// A number that no other draft of this daemon has.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = installer::remove::remove_tree(&self.home) {
            // The next start sees to it.
            log::warn!("remove {}: {error}", self.home.display());
        }
    }
}

impl Snapshotter {
    /// Whether the record of committed snapshot `name` has no directory.
    pub(crate) async fn is_lost(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<bool, SnapshotError> {
        let snapshot = self.find(namespace, name).await?;
        let root = self.driver.root(snapshot.id);
        let looked = tokio::task::spawn_blocking(move || match root.symlink_metadata() {
            Ok(found) => Ok(!found.is_dir()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(cause) => Err(directory("look at", root)(cause)),
        });
        looked.await.unwrap_or(Ok(false)).map(|lost| lost && snapshot.info.kind == Kind::Committed)
    }

    /// Directories to be filled in place of the lost one of `name`.
    pub(crate) async fn draft(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Draft, SnapshotError> {
        let (scope, name, driver) = (self.scope(namespace), name.to_owned(), self.driver.clone());
        let number = next_number();
        self.database
            .read(move |connection| {
                let snapshot = record::find(connection, &scope, &name)?;
                let parents = record::chain(connection, snapshot.parent)?;
                let (home, mounts) = driver.draft(snapshot.id, number, &parents)?;
                Ok(Draft { id: snapshot.id, home, mounts })
            })
            .await
    }

    /// Puts a filled draft in the lost directory's place, synced.
    pub(crate) async fn restore(&self, draft: Draft) -> Result<(), SnapshotError> {
        let driver = self.driver.clone();
        let (id, home) = (draft.id, draft.home.clone());
        let restored = tokio::task::spawn_blocking(move || driver.restore(id, &home));
        let outcome = restored.await.unwrap_or_else(|cause| {
            Err(directory("restore snapshot", draft.home.clone())(std::io::Error::other(cause)))
        });
        drop(draft);
        outcome
    }
}
