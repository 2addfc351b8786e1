//! The snapshotter: each request one transaction, with the driver's part inside or after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::error::directory;
use super::overlay::remove_orphan;
use super::record::{self, Scope, Snapshot};
use super::{Driver, Info, Kind, Mount, SnapshotError, Usage, drivers, usage};
use crate::events::{Bus, Event};
use crate::lease::{self, LeaseId};
use crate::metadata::filter::Filters;
use crate::metadata::reference;
use crate::metadata::{Database, Labels, Namespace, from_nanos, labels, mask, now_nanos};
use crate::namespace;

/// The snapshots of all namespaces.
#[derive(Clone)]
pub(crate) struct Snapshotter {
    pub(super) database: Database,
    events: Bus,
    pub(super) driver: Arc<dyn Driver>,
}

/// What a new snapshot is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct New {
    /// Its key.
    pub(crate) key: String,
    /// The name of its parent, empty for none.
    pub(crate) parent: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// The lease that is to keep it.
    pub(crate) lease: Option<LeaseId>,
}

/// An active snapshot that is to be a committed one. Key and name are fields, so that a caller cannot
/// exchange them.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// The key of the active snapshot.
    pub(crate) key: String,
    /// The name that it is to have.
    pub(crate) name: String,
    /// The labels that it is to have.
    pub(crate) labels: Labels,
    /// The lease that is to keep it.
    pub(crate) lease: Option<LeaseId>,
}

impl Snapshotter {
    /// Opens the snapshotter with the default driver under `root` (`root/snapshots`).
    pub(crate) fn open(
        root: &Path,
        database: Database,
        events: Bus,
    ) -> Result<Self, SnapshotError> {
        let driver = drivers::open(drivers::DEFAULT, root.join("snapshots"))?;
        Ok(Self { database, events, driver })
    }

    /// The name that requests must give.
    pub(crate) fn name(&self) -> &'static str {
        self.driver.name()
    }

    /// Makes an active snapshot; how to mount it is the answer.
    pub(crate) async fn prepare(
        &self,
        namespace: &Namespace,
        new: New,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let (key, parent) = (new.key.clone(), new.parent.clone());
        let mounts = self.create(namespace, Kind::Active, new).await?;
        let snapshotter = self.name().to_owned();
        self.events.publish(namespace, Event::SnapshotPrepared { key, parent, snapshotter });
        Ok(mounts)
    }

    /// Makes a view; how to mount it is the answer.
    pub(crate) async fn view(
        &self,
        namespace: &Namespace,
        new: New,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let (key, parent) = (new.key.clone(), new.parent.clone());
        let mounts = self.create(namespace, Kind::View, new).await?;
        let snapshotter = self.name().to_owned();
        self.events.publish(namespace, Event::SnapshotPrepared { key, parent, snapshotter });
        Ok(mounts)
    }

    async fn create(
        &self,
        namespace: &Namespace,
        kind: Kind,
        new: New,
    ) -> Result<Vec<Mount>, SnapshotError> {
        require("key", &new.key)?;
        labels::validate(&new.labels)?;
        let scope = self.scope(namespace);
        let driver = self.driver.clone();
        self.database
            .write(move |transaction| {
                namespace::ensure(transaction, &scope.namespace)?;
                let parent = match new.parent.as_str() {
                    "" => None,
                    name => Some(committed(transaction, &scope, name)?),
                };
                let now = from_nanos(now_nanos());
                let info = Info {
                    name: new.key,
                    kind,
                    parent: None,
                    labels: new.labels,
                    created: now,
                    updated: now,
                };
                let below = parent.as_ref().map(|parent| parent.id);
                let id = record::insert(transaction, &scope, below, &info)?;
                let node = scope.node(&info.name);
                let kept: Vec<_> =
                    parent.iter().map(|parent| scope.node(&parent.info.name)).collect();
                reference::record(transaction, &scope.namespace, &node, &kept, &info.labels)?;
                lease::hold(transaction, &scope.namespace, new.lease.as_ref(), &node)?;
                // Within the transaction: a record never names a directory that is not there.
                driver.create(id, kind, below)?;
                Ok(driver.mounts(id, kind, &record::chain(transaction, below)?))
            })
            .await
    }

    /// How to mount an active snapshot or a view.
    pub(crate) async fn mounts(
        &self,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let (scope, key, driver) = (self.scope(namespace), key.to_owned(), self.driver.clone());
        self.database
            .read(move |connection| {
                let snapshot = record::find(connection, &scope, &key)?;
                if snapshot.info.kind == Kind::Committed {
                    return Err(SnapshotError::NotMountable { key });
                }
                let parents = record::chain(connection, snapshot.parent)?;
                Ok(driver.mounts(snapshot.id, snapshot.info.kind, &parents))
            })
            .await
    }

    /// Makes an active snapshot a committed one. Its files are on the disk before its record is: a
    /// record is never checked again.
    pub(crate) async fn commit(
        &self,
        namespace: &Namespace,
        commit: Commit,
    ) -> Result<(), SnapshotError> {
        let Commit { key, name, labels, lease } = commit;
        require("name", &name)?;
        require("key", &key)?;
        labels::validate(&labels)?;
        let usage = self.settle(namespace, &key).await?;
        let (scope, old, new) = (self.scope(namespace), key.clone(), name.clone());
        self.database
            .write(move |transaction| {
                let mut snapshot = record::find(transaction, &scope, &old)?;
                if snapshot.info.kind != Kind::Active {
                    return Err(SnapshotError::NotActive { key: old });
                }
                if old != new && record::lookup(transaction, &scope, &new)?.is_some() {
                    return Err(SnapshotError::AlreadyExists { key: new });
                }
                let now = from_nanos(now_nanos());
                snapshot.usage = usage;
                snapshot.info.name.clone_from(&new);
                snapshot.info.kind = Kind::Committed;
                snapshot.info.labels = labels;
                (snapshot.info.created, snapshot.info.updated) = (now, now);
                record::store(transaction, &snapshot)?;
                let (was, is) = (scope.node(&old), scope.node(&new));
                reference::clear(transaction, &scope.namespace, &was)?;
                let kept: Vec<_> =
                    snapshot.info.parent.iter().map(|parent| scope.node(parent)).collect();
                reference::record(
                    transaction,
                    &scope.namespace,
                    &is,
                    &kept,
                    &snapshot.info.labels,
                )?;
                lease::release(transaction, &scope.namespace, lease.as_ref(), &was)?;
                lease::hold(transaction, &scope.namespace, lease.as_ref(), &is)?;
                Ok(())
            })
            .await?;
        let event = Event::SnapshotCommitted { key, name, snapshotter: self.name().to_owned() };
        self.events.publish(namespace, event);
        Ok(())
    }

    /// Removes a snapshot without children. Its files go in the background.
    pub(crate) async fn remove(
        &self,
        namespace: &Namespace,
        key: &str,
        lease: Option<LeaseId>,
    ) -> Result<(), SnapshotError> {
        let (scope, name) = (self.scope(namespace), key.to_owned());
        let id = self
            .database
            .remove::<_, SnapshotError>(move |transaction| {
                let snapshot = record::find(transaction, &scope, &name)?;
                record::delete(transaction, &snapshot)?;
                let node = scope.node(&name);
                reference::clear(transaction, &scope.namespace, &node)?;
                lease::release(transaction, &scope.namespace, lease.as_ref(), &node)?;
                Ok(snapshot.id)
            })
            .await?;
        let snapshotter = self.clone();
        tokio::task::spawn_blocking(move || snapshotter.discard_blocking(&[id]));
        let event =
            Event::SnapshotRemoved { key: key.to_owned(), snapshotter: self.name().to_owned() };
        self.events.publish(namespace, event);
        Ok(())
    }

    /// What is known about a snapshot.
    pub(crate) async fn stat(
        &self,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Info, SnapshotError> {
        Ok(self.find(namespace, key).await?.info)
    }

    /// Changes the labels that `paths` name (`labels`, `labels.KEY`), all when it is empty.
    pub(crate) async fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        change: Labels,
        paths: Vec<String>,
    ) -> Result<Info, SnapshotError> {
        let (scope, key) = (self.scope(namespace), key.to_owned());
        self.database
            .write(move |transaction| {
                let mut snapshot = record::find(transaction, &scope, &key)?;
                let info = &mut snapshot.info;
                if paths.is_empty() {
                    info.labels.clone_from(&change);
                }
                for path in &paths {
                    match mask::path(path, &["labels"]) {
                        mask::Path::Field("labels") => info.labels.clone_from(&change),
                        mask::Path::Key(_, name) => {
                            labels::set(&mut info.labels, name, change.get(name));
                        }
                        mask::Path::Field(_) => {
                            return Err(SnapshotError::Field { key, field: path.clone() });
                        }
                    }
                }
                labels::validate(&info.labels)?;
                info.updated = from_nanos(now_nanos());
                record::store(transaction, &snapshot)?;
                let kept: Vec<_> =
                    snapshot.info.parent.iter().map(|parent| scope.node(parent)).collect();
                let node = scope.node(&key);
                let labels = &snapshot.info.labels;
                reference::replace(transaction, &scope.namespace, &node, &kept, labels)?;
                Ok(snapshot.info)
            })
            .await
    }

    /// The snapshots that pass `filters`, by key.
    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Info>, SnapshotError> {
        let filters = Filters::parse(filters)?;
        let scope = self.scope(namespace);
        let all = self.database.read(move |connection| record::all(connection, &scope)).await?;
        let infos = all.into_iter().map(|snapshot| snapshot.info);
        Ok(infos.filter(|info| filters.matches(info)).collect())
    }

    /// The active snapshots of all namespaces that have a label `key` and that nothing refers to.
    pub(crate) async fn unused_labelled(
        &self,
        key: &'static str,
    ) -> Result<Vec<(Namespace, Info)>, SnapshotError> {
        let snapshotter = self.name();
        self.database
            .read(move |connection| {
                let infos = record::unused_labelled(connection, snapshotter, key)?;
                Ok(infos.into_iter().filter(|(_, info)| info.labels.contains_key(key)).collect())
            })
            .await
    }

    /// What a snapshot itself, without its parents, takes up.
    pub(crate) async fn usage(
        &self,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Usage, SnapshotError> {
        let snapshot = self.find(namespace, key).await?;
        match snapshot.info.kind {
            Kind::Active => self.measure(snapshot.id).await,
            Kind::View | Kind::Committed => Ok(snapshot.usage),
        }
    }

    /// Takes directories that a crash left without a record out of the way; they are the answer, to
    /// be removed by [`remove_orphans`], for which no client has to wait. For the daemon's start.
    pub(crate) fn sweep(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let known: std::collections::HashSet<i64> =
            self.database.read_blocking::<_, SnapshotError>(|connection| {
                let mut statement = connection.prepare("SELECT id FROM snapshots")?;
                let ids = statement.query_map([], |row| row.get(0))?;
                Ok(ids.collect::<Result<_, _>>()?)
            })?;
        self.driver.sweep(&|id| known.contains(&id))
    }

    /// Removes the directories of snapshots whose records have gone.
    pub(crate) fn discard_blocking(&self, ids: &[i64]) {
        for id in ids {
            if let Err(error) = self.driver.remove(*id) {
                // Harmless now: nothing refers to it, and the next start sweeps it.
                log::debug!("removing the directory of snapshot {id}: {error}");
            }
        }
    }

    /// Syncs the files of an active snapshot, and measures them.
    async fn settle(&self, namespace: &Namespace, key: &str) -> Result<Usage, SnapshotError> {
        let snapshot = self.find(namespace, key).await?;
        if snapshot.info.kind != Kind::Active {
            return Err(SnapshotError::NotActive { key: key.to_owned() });
        }
        let driver = self.driver.clone();
        match tokio::task::spawn_blocking(move || driver.sync()).await {
            Ok(synced) => synced?,
            Err(cause) => {
                let root = self.driver.root(snapshot.id);
                return Err(directory("sync", root)(std::io::Error::other(cause)));
            }
        }
        self.measure(snapshot.id).await
    }

    async fn measure(&self, id: i64) -> Result<Usage, SnapshotError> {
        let root = self.driver.root(id);
        let path: PathBuf = root.clone();
        let measured = tokio::task::spawn_blocking(move || usage::measure(&path)).await;
        match measured {
            Ok(measured) => measured.map_err(directory("measure", root)),
            Err(cause) => Err(directory("measure", root)(std::io::Error::other(cause))),
        }
    }

    pub(super) async fn find(
        &self,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Snapshot, SnapshotError> {
        let (scope, key) = (self.scope(namespace), key.to_owned());
        self.database.read(move |connection| record::find(connection, &scope, &key)).await
    }

    pub(super) fn scope(&self, namespace: &Namespace) -> Scope {
        Scope { namespace: namespace.clone(), snapshotter: self.name() }
    }
}

/// Removes what [`Snapshotter::sweep`] found, however much that is. Blocks.
pub(crate) fn remove_orphans(orphans: &[PathBuf]) {
    for path in orphans {
        remove_orphan(path);
    }
}

fn require(what: &'static str, value: &str) -> Result<(), SnapshotError> {
    if value.is_empty() { Err(SnapshotError::Empty { what }) } else { Ok(()) }
}

fn committed(
    connection: &Connection,
    scope: &Scope,
    name: &str,
) -> Result<Snapshot, SnapshotError> {
    let parent = record::lookup(connection, scope, name)?
        .ok_or_else(|| SnapshotError::NoParent { parent: name.to_owned() })?;
    if parent.info.kind == Kind::Committed {
        Ok(parent)
    } else {
        Err(SnapshotError::ParentNotCommitted { parent: name.to_owned() })
    }
}
