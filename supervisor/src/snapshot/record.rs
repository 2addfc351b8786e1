//! Snapshots as records: statements, no directories.

use std::borrow::Cow;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::{SnapshotError, Usage};
use crate::metadata::filter::{self, Fields};
use crate::metadata::reference::Node;
use crate::metadata::{Labels, MetadataError, Namespace, from_nanos, label_column, to_nanos};

const COLUMNS: &str = "s.id, s.key, s.kind, p.key, s.parent, s.labels, s.created, s.updated, \
                       s.size_bytes, s.inodes";
const FROM: &str = "snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Read only, over its parent.
    View,
    /// Being changed.
    Active,
    /// Never changed again.
    Committed,
}

impl Kind {
    /// As stored, which is also the number on the wire.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::View => 1,
            Self::Active => 2,
            Self::Committed => 3,
        }
    }

    fn from_number(number: i64) -> Option<Self> {
        [Self::View, Self::Active, Self::Committed]
            .into_iter()
            .find(|kind| i64::from(kind.number()) == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What is known about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    /// Its key, or its name once committed.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// The name of its parent.
    pub(crate) parent: Option<String>,
    /// Its labels.
    pub(crate) labels: Labels,
    /// When it was made or committed.
    pub(crate) created: SystemTime,
    /// When it last changed.
    pub(crate) updated: SystemTime,
}

impl Fields for Info {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["name"] => Some(self.name.as_str().into()),
            ["kind"] => Some(self.kind.name().into()),
            ["parent"] => Some(self.parent.as_deref().unwrap_or_default().into()),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// A record with what only the driver needs.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: i64,
    pub(super) parent: Option<i64>,
    pub(super) info: Info,
    /// As measured at its commit.
    pub(super) usage: Usage,
}

/// Whose snapshots are meant.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) namespace: Namespace,
    pub(super) snapshotter: &'static str,
}

impl Scope {
    pub(super) fn node(&self, key: &str) -> Node {
        Node::snapshot(self.snapshotter, key)
    }
}

/// The snapshot of that key or name.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    key: &str,
) -> Result<Snapshot, SnapshotError> {
    lookup(connection, scope, key)?.ok_or_else(|| SnapshotError::NotFound { key: key.to_owned() })
}

/// The snapshot of that key or name, if there is one.
pub(super) fn lookup(
    connection: &Connection,
    scope: &Scope,
    key: &str,
) -> Result<Option<Snapshot>, SnapshotError> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM {FROM} \
             WHERE s.namespace = ?1 AND s.snapshotter = ?2 AND s.key = ?3"
        ))?
        .query_row((scope.namespace.as_str(), scope.snapshotter, key), |row| Ok(read(row)))
        .optional()?;
    Ok(found.transpose()?)
}

/// All snapshots, by key.
pub(super) fn all(connection: &Connection, scope: &Scope) -> Result<Vec<Snapshot>, SnapshotError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE s.namespace = ?1 AND s.snapshotter = ?2 ORDER BY s.key"
    ))?;
    let mut rows = statement.query((scope.namespace.as_str(), scope.snapshotter))?;
    let mut snapshots = Vec::new();
    while let Some(row) = rows.next()? {
        snapshots.push(read(row)?);
    }
    Ok(snapshots)
}

/// Active snapshots of all namespaces whose labels mention `key` and that no record refers to. Most
/// bear their container's id, which is looked up faster than an edge.
pub(super) fn unused_labelled(
    connection: &Connection,
    snapshotter: &str,
    key: &str,
) -> Result<Vec<(Namespace, Info)>, SnapshotError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, s.namespace FROM {FROM} \
         WHERE s.snapshotter = ?1 AND s.kind = ?2 AND instr(s.labels, ?3) > 0 \
         AND NOT EXISTS (SELECT 1 FROM containers c \
             WHERE c.namespace = s.namespace AND c.id = s.key) \
         AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.namespace = s.namespace \
             AND ltrim(e.target, '=') = 'snapshot/' || s.snapshotter || '/' || s.key)"
    ))?;
    let mut rows = statement.query((snapshotter, Kind::Active.number(), key))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(namespace) = Namespace::new(row.get::<_, String>(10)?) {
            found.push((namespace, read(row)?.info));
        }
    }
    Ok(found)
}

/// The ids from `nearest` up to the one without a parent.
pub(super) fn chain(
    connection: &Connection,
    nearest: Option<i64>,
) -> Result<Vec<i64>, SnapshotError> {
    let Some(nearest) = nearest else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE chain (id, parent, depth) AS ( \
             SELECT id, parent, 0 FROM snapshots WHERE id = ?1 \
             UNION ALL \
             SELECT s.id, s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.parent \
         ) SELECT id FROM chain ORDER BY depth",
    )?;
    let ids = statement.query_map([nearest], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Writes a new record; its id is the answer.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    scope: &Scope,
    parent: Option<i64>,
    info: &Info,
) -> Result<i64, SnapshotError> {
    let made = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO snapshots \
             (namespace, snapshotter, key, kind, parent, labels, created, updated) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute((
            scope.namespace.as_str(),
            scope.snapshotter,
            &info.name,
            info.kind.number(),
            parent,
            label_column::encode(&info.labels)?,
            to_nanos(info.created),
            to_nanos(info.updated),
        ))?;
    if made == 0 {
        return Err(SnapshotError::AlreadyExists { key: info.name.clone() });
    }
    Ok(transaction.last_insert_rowid())
}

/// Writes what changed in a record: all of `info` but its parent, and the usage.
pub(super) fn store(
    transaction: &Transaction<'_>,
    snapshot: &Snapshot,
) -> Result<(), SnapshotError> {
    let info = &snapshot.info;
    transaction
        .prepare_cached(
            "UPDATE snapshots SET key = ?2, kind = ?3, labels = ?4, created = ?5, updated = ?6, \
             size_bytes = ?7, inodes = ?8 WHERE id = ?1",
        )?
        .execute((
            snapshot.id,
            &info.name,
            info.kind.number(),
            label_column::encode(&info.labels)?,
            to_nanos(info.created),
            to_nanos(info.updated),
            i64::try_from(snapshot.usage.size_bytes).unwrap_or(i64::MAX),
            i64::try_from(snapshot.usage.inodes).unwrap_or(i64::MAX),
        ))?;
    Ok(())
}

/// Deletes a record that has no children.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    snapshot: &Snapshot,
) -> Result<(), SnapshotError> {
    let has_children = transaction
        .prepare_cached("SELECT 1 FROM snapshots WHERE parent = ?1")?
        .exists([snapshot.id])?;
    if has_children {
        return Err(SnapshotError::HasChildren { key: snapshot.info.name.clone() });
    }
    transaction.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([snapshot.id])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Snapshot, MetadataError> {
    let kind = Kind::from_number(row.get(2)?).ok_or_else(|| MetadataError::Damaged {
        what: "snapshot",
        cause: "its kind is unknown".into(),
    })?;
    Ok(Snapshot {
        id: row.get(0)?,
        parent: row.get(4)?,
        info: Info {
            name: row.get(1)?,
            kind,
            parent: row.get(3)?,
            labels: label_column::decode(&row.get::<_, String>(5)?)?,
            created: from_nanos(row.get(6)?),
            updated: from_nanos(row.get(7)?),
        },
        usage: Usage {
            size_bytes: row.get::<_, i64>(8)?.unsigned_abs(),
            inodes: row.get::<_, i64>(9)?.unsigned_abs(),
        },
    })
}
