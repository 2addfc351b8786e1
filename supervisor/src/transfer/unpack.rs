//! Unpacks an image's layers into snapshots.
//!
//! Each layer becomes the committed snapshot of its chain id, which says what is in it: one that
//! is there already is used as it is, one whose directory was lost is put back. The config's label
//! then keeps the topmost from garbage collection, as the image's target keeps the config.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use installer::budget::Budget;

use super::layer::{self, Applied};
use super::{Event, Progress, TransferError};
use crate::content::{Descriptor, Digest, Store};
use crate::image::chain_ids;
use crate::image::resolve::ResolvedManifest;
use crate::lease::{LeaseId, Leases, Resource};
use crate::metadata::{Labels, Namespace};
use crate::snapshot::{Commit, New, SnapshotError, Snapshotter};

const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What unpacking works with.
pub(super) struct Unpacker<'a> {
    pub(super) store: &'a Store,
    pub(super) snapshots: &'a Snapshotter,
    pub(super) leases: &'a Leases,
    pub(super) namespace: &'a Namespace,
    pub(super) lease: &'a LeaseId,
    pub(super) progress: &'a Progress,
    pub(super) budget: &'a Budget,
}

/// Whether a layer's snapshot is there.
enum Held {
    Whole,
    Not,
    /// Its record is, its directory is not.
    Lost,
}

impl Unpacker<'_> {
    /// Makes the snapshots of `image`; the labels that keep them are the answer.
    pub(super) async fn unpack(
        &self,
        image: &ResolvedManifest,
    ) -> Result<BTreeMap<Digest, Labels>, TransferError> {
        let mut labels = BTreeMap::new();
        let chain = chain_ids(&image.diff_ids);
        let mut parent = String::new();
        for ((layer, diff_id), chain_id) in
            image.layers.iter().zip(image.diff_ids.iter()).zip(&chain)
        {
            match self.held(chain_id).await? {
                Held::Whole => {}
                Held::Not => self.layer(layer, diff_id, chain_id, &parent).await?,
                Held::Lost => self.restore(layer, diff_id, chain_id).await?,
            }
            let uncompressed = (UNCOMPRESSED.to_owned(), diff_id.to_string());
            labels.insert(layer.digest.clone(), Labels::from([uncompressed]));
            parent = chain_id.to_string();
        }
        if !parent.is_empty() {
            let key = format!("containerd.io/gc.ref.snapshot.{}", self.snapshots.name());
            labels.insert(image.config.clone(), Labels::from([(key, parent)]));
        }
        Ok(labels)
    }

    /// Unpacks a layer whose snapshot has a record and no directory.
    async fn restore(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<(), TransferError> {
        log::warn!("the directory of snapshot {chain_id} is lost: its layer is unpacked again");
        self.tell("unpacking", layer);
        let draft = self.snapshots.draft(self.namespace, chain_id.as_str()).await?;
        self.apply(layer, diff_id, draft.mounts.clone()).await?;
        self.snapshots.restore(draft).await?;
        self.tell("unpacked", layer);
        Ok(())
    }

    /// Whether the snapshot is there; it is then held by our lease too. Held first, looked up
    /// then: between the two it cannot be collected.
    async fn held(&self, chain_id: &Digest) -> Result<Held, TransferError> {
        let kind = format!("snapshots/{}", self.snapshots.name());
        let resource = Resource { kind, id: chain_id.to_string() };
        self.leases.add(self.namespace, self.lease, resource).await?;
        match self.snapshots.is_lost(self.namespace, chain_id.as_str()).await {
            Ok(false) => Ok(Held::Whole),
            Ok(true) => Ok(Held::Lost),
            Err(SnapshotError::NotFound { .. }) => Ok(Held::Not),
            Err(other) => Err(other.into()),
        }
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
        parent: &str,
    ) -> Result<(), TransferError> {
        self.tell("unpacking", layer);
        let key =
            format!("extract-{}-{} {chain_id}", self.lease, NEXT.fetch_add(1, Ordering::Relaxed));
        let labels = Labels::from([(SNAPSHOT_REF.to_owned(), chain_id.to_string())]);
        let new = New {
            key: key.clone(),
            parent: parent.to_owned(),
            labels: labels.clone(),
            lease: Some(self.lease.clone()),
        };
        let mounts = self.snapshots.prepare(self.namespace, new).await?;
        let commit = Commit {
            key: key.clone(),
            name: chain_id.to_string(),
            labels,
            lease: Some(self.lease.clone()),
        };
        let outcome = match self.apply(layer, diff_id, mounts).await {
            Ok(()) => {
                self.snapshots.commit(self.namespace, commit).await.map_err(TransferError::from)
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else {
            self.tell("unpacked", layer);
            return Ok(());
        };
        let removed = self.snapshots.remove(self.namespace, &key, Some(self.lease.clone())).await;
        if let Err(error) = removed {
            // Its lease goes with this transfer, and it with the next collection.
            log::debug!("remove snapshot {key:?}: {error}");
        }
        match error {
            // Another client has unpacked the same layer meanwhile.
            TransferError::Snapshot(SnapshotError::AlreadyExists { .. }) => Ok(()),
            other => Err(other),
        }
    }

    async fn apply(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        mounts: Vec<crate::snapshot::Mount>,
    ) -> Result<(), TransferError> {
        let (store, namespace) = (self.store.clone(), self.namespace.clone());
        let digest = layer.digest.clone();
        let budget = self.budget.clone();
        let Applied { diff_id: got, .. } = blocking(move || {
            let (_, blob) = store.open_blob(&namespace, &digest)?;
            layer::apply(blob, &mounts, false, &budget)
                .map_err(|cause| TransferError::Layer { layer: digest, cause: Box::new(cause) })
        })
        .await?;
        if got == *diff_id {
            return Ok(());
        }
        Err(TransferError::WrongDiffId { layer: layer.digest.clone(), want: diff_id.clone(), got })
    }

    fn tell(&self, event: &'static str, layer: &Descriptor) {
        self.progress.tell(Event {
            event,
            name: layer.digest.to_string(),
            target: Some(layer.clone()),
            progress: 0,
            total: layer.size_bytes,
        });
    }
}

/// Runs a step that blocks on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::task::spawn_blocking(step).await.unwrap_or(Err(TransferError::Lost))
}
