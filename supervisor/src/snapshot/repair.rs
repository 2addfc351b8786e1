//! What the check of a root asks of the snapshots: what is recorded, what is there, and a directory
//! made anew in its place.

use std::path::PathBuf;

use rusqlite::OptionalExtension;

use super::error::directory;
use super::record::{self, Kind};
use super::{Mount, SnapshotError, Snapshotter, Usage, restore, usage};
use crate::metadata::reference::{self, Node};
use crate::metadata::{Labels, Namespace, label_column, now_nanos};
use crate::namespace;

/// A snapshot as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) id: i64,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) is_committed: bool,
    usage: Usage,
    parent: Option<i64>,
}

impl Snapshotter {
    /// Every snapshot of every namespace, parents before their children. Blocks.
    pub(crate) fn recorded(&self) -> Result<Vec<Recorded>, SnapshotError> {
        let name = self.name();
        self.database.read_blocking(|connection| {
            let mut statement = connection.prepare(
                "SELECT id, namespace, key, kind, size_bytes, inodes, parent FROM snapshots \
                 WHERE snapshotter = ?1 ORDER BY id",
            )?;
            let found = statement.query_map([name], |row| {
                Ok(Recorded {
                    id: row.get(0)?,
                    namespace: row.get(1)?,
                    name: row.get(2)?,
                    is_committed: row.get::<_, i32>(3)? == Kind::Committed.number(),
                    usage: Usage {
                        size_bytes: row.get::<_, i64>(4)?.unsigned_abs(),
                        inodes: row.get::<_, i64>(5)?.unsigned_abs(),
                    },
                    parent: row.get(6)?,
                })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Where the files of a snapshot itself are.
    pub(crate) fn files(&self, snapshot: &Recorded) -> PathBuf {
        self.driver.root(snapshot.id)
    }

    /// What is wrong with the directory of a snapshot, as far as its record tells. Blocks.
    pub(crate) fn fault(&self, snapshot: &Recorded) -> Option<String> {
        let root = self.files(snapshot);
        if !root.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Some("its directory is missing".to_owned());
        }
        if !snapshot.is_committed {
            return None;
        }
        let found = match usage::measure(&root) {
            Ok(found) => found,
            Err(error) => return Some(format!("its directory cannot be read: {error}")),
        };
        let was = snapshot.usage;
        if found.inodes != was.inodes {
            return Some(format!("it has {} files, {} were committed", found.inodes, was.inodes));
        }
        // File systems round in ways of their own; one that lost its files' content has half of it.
        (found.size_bytes < was.size_bytes / 2).then(|| {
            format!("it takes {} bytes, {} were committed", found.size_bytes, was.size_bytes)
        })
    }

    /// Makes the directory of a committed snapshot anew: `fill` puts its files where mounts say, and
    /// they take the place of what is there, which is set aside. Blocks.
    pub(crate) fn remake<E: From<SnapshotError>>(
        &self,
        snapshot: &Recorded,
        fill: impl FnOnce(&[Mount]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (id, below) = (snapshot.id, snapshot.parent);
        let parents = self.database.read_blocking(|connection| record::chain(connection, below))?;
        let (draft, mounts) = self.driver.draft(id, restore::next_number(), &parents)?;
        let filled = fill(&mounts).and_then(|()| Ok(self.driver.put_in_place(id, &draft)?));
        if let Err(error) = filled {
            // A draft that stays is removed at the next start.
            let _ = installer::remove::remove_tree(&draft);
            return Err(error);
        }
        let root = self.files(snapshot);
        let usage = usage::measure(&root).map_err(directory("measure", &root))?;
        self.database.write_blocking(move |transaction| {
            transaction.execute(
                "UPDATE snapshots SET size_bytes = ?2, inodes = ?3 WHERE id = ?1",
                (
                    id,
                    i64::try_from(usage.size_bytes).unwrap_or(i64::MAX),
                    i64::try_from(usage.inodes).unwrap_or(i64::MAX),
                ),
            )?;
            Ok::<_, SnapshotError>(())
        })?;
        Ok(())
    }

    /// Directories of snapshots that no record names, by number. Blocks.
    pub(crate) fn strays(&self) -> Result<Vec<(i64, PathBuf)>, SnapshotError> {
        let mut strays = Vec::new();
        for (id, path) in self.driver.all()? {
            let known = self.database.read_blocking::<_, SnapshotError>(|connection| {
                let mut statement =
                    connection.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?;
                Ok(statement.query_row([id], |_| Ok(())).optional()?.is_some())
            })?;
            if !known {
                strays.push((id, path));
            }
        }
        strays.sort();
        Ok(strays)
    }

    /// Records the directory of number `id` as a snapshot `name` without a parent. Blocks.
    pub(crate) fn adopt(
        &self,
        namespace: &Namespace,
        id: i64,
        name: &str,
        labels: &Labels,
    ) -> Result<(), SnapshotError> {
        let path = self.driver.root(id);
        let is_active = path.with_file_name("work").is_dir();
        let kind = if is_active { Kind::Active } else { Kind::Committed };
        let usage = usage::measure(&path).map_err(directory("measure", &path))?;
        let (namespace, name, labels) = (namespace.clone(), name.to_owned(), labels.clone());
        let snapshotter = self.name();
        self.database.write_blocking(move |transaction| {
            namespace::ensure(transaction, &namespace)?;
            transaction.execute(
                "INSERT INTO snapshots (id, namespace, snapshotter, key, kind, labels, \
                 size_bytes, inodes, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
                (
                    id,
                    namespace.as_str(),
                    snapshotter,
                    &name,
                    kind.number(),
                    label_column::encode(&labels)?,
                    i64::try_from(usage.size_bytes).unwrap_or(i64::MAX),
                    i64::try_from(usage.inodes).unwrap_or(i64::MAX),
                    now_nanos(),
                ),
            )?;
            let node = Node::snapshot(snapshotter, &name);
            reference::record(transaction, &namespace, &node, &[], &labels)?;
            Ok::<_, SnapshotError>(())
        })
    }
}
