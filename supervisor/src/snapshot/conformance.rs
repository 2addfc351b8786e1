//! The suite of every snapshotter, on the snapshotter itself, with its default driver.

use conformance::snapshot::{self, Kind, Usage};
use conformance::{Labels, Mount, Refused, Result};

use super::{Commit, Info, New, SnapshotError, Snapshotter};
use crate::events::Bus;
use crate::metadata::{Database, Namespace};

struct Local {
    snapshots: Snapshotter,
    namespace: Namespace,
}

fn refuse(error: SnapshotError) -> Refused {
    Refused { kind: error.kind(), text: shim_sdk::error::report(&error) }
}

fn known(info: Info) -> snapshot::Info {
    snapshot::Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: match info.kind {
            super::Kind::View => Kind::View,
            super::Kind::Active => Kind::Active,
            super::Kind::Committed => Kind::Committed,
        },
        labels: info.labels,
    }
}

fn new(key: &str, parent: &str, labels: &Labels) -> New {
    New { key: key.to_owned(), parent: parent.to_owned(), labels: labels.clone(), lease: None }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl conformance::Snapshotter for Local {
    async fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.snapshots.prepare(&self.namespace, new(key, parent, labels)).await.map_err(refuse)
    }

    async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let new = new(key, parent, &Labels::new());
        self.snapshots.view(&self.namespace, new).await.map_err(refuse)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.snapshots.mounts(&self.namespace, key).await.map_err(refuse)
    }

    async fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        let (key, name, labels) = (key.to_owned(), name.to_owned(), labels.clone());
        let commit = Commit { key, name, labels, lease: None };
        self.snapshots.commit(&self.namespace, commit).await.map_err(refuse)
    }

    async fn stat(&self, key: &str) -> Result<snapshot::Info> {
        self.snapshots.stat(&self.namespace, key).await.map(known).map_err(refuse)
    }

    async fn update(&self, key: &str, labels: &Labels, paths: &[&str]) -> Result<snapshot::Info> {
        let updated = self.snapshots.update(&self.namespace, key, labels.clone(), owned(paths));
        updated.await.map(known).map_err(refuse)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.snapshots.remove(&self.namespace, key, None).await.map_err(refuse)
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<snapshot::Info>> {
        let found = self.snapshots.list(&self.namespace, &owned(filters)).await;
        found.map(|infos| infos.into_iter().map(known).collect()).map_err(refuse)
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let usage = self.snapshots.usage(&self.namespace, key).await.map_err(refuse)?;
        Ok(Usage { size: usage.size_bytes, inodes: usage.inodes })
    }
}

fn without_snapshots(case: impl AsyncFnOnce(&Local)) {
    let folder = tempfile::tempdir().expect("make a directory");
    let database = Database::open(folder.path().join("meta.db")).expect("open a database");
    let snapshots = Snapshotter::open(folder.path(), database, Bus::new());
    let snapshots = snapshots.expect("open the snapshotter");
    let local = Local { snapshots, namespace: Namespace::new("a").expect("a namespace") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("make a runtime").block_on(case(&local));
}

conformance::snapshotter_suite!(without_snapshots);
