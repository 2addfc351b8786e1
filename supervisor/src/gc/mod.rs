//! Garbage collection: what no root leads to goes.
//!
//! Roots are images, containers, leases that have not expired, and what is labelled
//! `containerd.io/gc.root`; edges are rows (`metadata::reference`). Marking and sweeping are one
//! transaction, so nothing can come between them; files go after it.
//!
//! Promise: what a root leads to is never collected. A collection runs soon after something was
//! deleted or has expired, or before the answer where the client asked for that.

mod mark;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shim_sdk::Kind;

pub(crate) use sweep::Swept;

use crate::content::{ContentError, Store};
use crate::metadata::{Database, MetadataError, now_nanos};
use crate::snapshot::Snapshotter;

/// A collection that was not waited for begins this long after its cause, so that one does for a
/// whole series of deletions, and none competes with a container's start.
const DELAY: Duration = Duration::from_secs(1);

/// A collection failed. What it had not reached stays for the next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The database failed.
    #[error("collect garbage")]
    Metadata(#[from] MetadataError),
    /// A blob could not be removed.
    #[error("collect garbage")]
    Content(#[from] ContentError),
    /// The collecting thread ended.
    #[error("collecting garbage was given up")]
    Lost,
}

impl CollectError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Metadata(cause) => cause.kind(),
            Self::Content(cause) => cause.kind(),
            Self::Lost => Kind::Internal,
        }
    }
}

impl From<rusqlite::Error> for CollectError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Metadata(cause.into())
    }
}

/// Collects garbage when told to. Clones share their schedule.
#[derive(Clone)]
pub(crate) struct Collector {
    database: Database,
    content: Store,
    snapshots: Snapshotter,
    scheduled: Arc<AtomicBool>,
    started: i64,
}

impl Collector {
    /// Collects from these stores.
    pub(crate) fn new(database: Database, content: Store, snapshots: Snapshotter) -> Self {
        Self { database, content, snapshots, scheduled: Arc::default(), started: now_nanos() }
    }

    /// Sees to a collection soon. Must be called within the runtime.
    pub(crate) fn schedule(&self) {
        if self.scheduled.swap(true, Ordering::SeqCst) {
            return;
        }
        let collector = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            // Before it begins: what is deleted from here on may be missed and needs another.
            collector.scheduled.store(false, Ordering::SeqCst);
            if let Err(error) = collector.collect().await {
                log::warn!("{}", shim_sdk::error::report(&error));
            }
        });
    }

    /// Whether something has expired since the last collection, which nothing else may set off.
    pub(crate) async fn is_due(&self) -> Result<bool, CollectError> {
        self.database.read(|connection| Ok(mark::is_due(connection)?)).await
    }

    /// Collects now.
    pub(crate) async fn collect(&self) -> Result<Swept, CollectError> {
        let collector = self.clone();
        let swept = tokio::task::spawn_blocking(move || collector.collect_blocking())
            .await
            .map_err(|_| CollectError::Lost)??;
        if swept != Swept::default() {
            log::debug!("collected {swept:?}");
        }
        Ok(swept)
    }

    /// Waits for a collection when `sync`, else schedules one: what the services do after a
    /// deletion.
    pub(crate) async fn after_delete(&self, sync: bool) -> Result<(), CollectError> {
        if sync {
            self.collect().await?;
        } else {
            self.schedule();
        }
        Ok(())
    }

    fn collect_blocking(&self) -> Result<Swept, CollectError> {
        let started = self.started;
        let garbage = self.content.retire(&self.database, move |transaction| {
            mark::mark(transaction, started)?;
            sweep::sweep(transaction)
        })?;
        let swept = garbage.swept();
        self.snapshots.discard_blocking(&garbage.snapshots);
        Ok(swept)
    }
}
