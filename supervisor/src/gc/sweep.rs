//! Sweeping: the records that were not marked.

use rusqlite::Transaction;

use crate::content::{self, Digest, Garbage};
use crate::metadata::reference::{self, Node};
use crate::metadata::{MetadataError, Namespace};

use super::CollectError;

/// How much a collection took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Swept {
    /// Records of blobs.
    pub(crate) blobs: usize,
    /// Records of ingests.
    pub(crate) ingests: usize,
    /// Snapshots.
    pub(crate) snapshots: usize,
}

impl Garbage {
    /// How much this is.
    pub(super) fn swept(&self) -> Swept {
        Swept { blobs: self.records, ingests: self.ingests.len(), snapshots: self.snapshots.len() }
    }
}

/// Deletes the records that `mark` did not reach; what is left to remove from the disk is the
/// answer.
pub(super) fn sweep(transaction: &Transaction<'_>) -> Result<Garbage, CollectError> {
    let mut garbage = Garbage::default();
    for (namespace, digest) in unmarked(transaction, "blobs", "digest", "'content/' || digest")? {
        let digest = Digest::parse(digest)
            .map_err(|cause| MetadataError::Damaged { what: "digest", cause: cause.into() })?;
        garbage.records += 1;
        if content::forget(transaction, &namespace, &digest)? {
            garbage.blobs.push(digest);
        }
    }
    for (namespace, name) in unmarked(transaction, "ingests", "ref", "'ingest/' || ref")? {
        let id = transaction.query_row(
            "DELETE FROM ingests WHERE namespace = ?1 AND ref = ?2 RETURNING id",
            (namespace.as_str(), &name),
            |row| row.get(0),
        )?;
        reference::clear(transaction, &namespace, &Node::ingest(&name))?;
        garbage.ingests.push(id);
    }
    snapshots(transaction, &mut garbage)?;
    Ok(garbage)
}

fn snapshots(transaction: &Transaction<'_>, garbage: &mut Garbage) -> Result<(), CollectError> {
    let node = "'snapshot/' || snapshotter || '/' || key";
    let ids = {
        let mut statement = transaction.prepare_cached(&format!(
            "SELECT id, namespace, {node} FROM snapshots \
             WHERE NOT EXISTS (SELECT 1 FROM temp.reachable r \
                 WHERE r.namespace = snapshots.namespace AND r.node = {node}) \
             ORDER BY id DESC"
        ))?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })?;
        rows.collect::<Result<Vec<_>, _>>()?
    };
    // A child's number is above its parent's, so children go first. A parent whose child stays
    // (a flat lease holds only that) stays with it.
    for (id, namespace, node) in ids {
        let deleted = transaction
            .prepare_cached(
                "DELETE FROM snapshots WHERE id = ?1 \
                 AND NOT EXISTS (SELECT 1 FROM snapshots child WHERE child.parent = ?1)",
            )?
            .execute([id])?;
        if deleted > 0 {
            let namespace = named(namespace)?;
            reference::clear(transaction, &namespace, &Node::from_stored(node))?;
            garbage.snapshots.push(id);
        }
    }
    Ok(())
}

fn unmarked(
    transaction: &Transaction<'_>,
    table: &str,
    key: &str,
    node: &str,
) -> Result<Vec<(Namespace, String)>, CollectError> {
    let mut statement = transaction.prepare_cached(&format!(
        "SELECT namespace, {key} FROM {table} \
         WHERE NOT EXISTS (SELECT 1 FROM temp.reachable r \
             WHERE r.namespace = {table}.namespace AND r.node = {node})"
    ))?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|(namespace, key)| Ok((named(namespace)?, key))).collect()
}

fn named(namespace: String) -> Result<Namespace, MetadataError> {
    Namespace::new(namespace)
        .map_err(|cause| MetadataError::Damaged { what: "namespace", cause: cause.into() })
}
