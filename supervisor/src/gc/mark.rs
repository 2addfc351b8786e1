//! Marking: one recursive query from the roots along the edges.

use rusqlite::{Connection, Transaction};

use crate::metadata::now_nanos;

/// How long an ingest without a lease is kept, as in containerd.
const INGEST_NANOS: i64 = 24 * 60 * 60 * 1_000_000_000;
/// How long an active snapshot or a view that nothing refers to is kept: a client without a lease
/// prepares the snapshot first and the container that refers to it next. Not those of layers being
/// unpacked, which are labelled with what they are to become: their unpackers hold leases. Nor
/// those of before this daemon started: the call that was to refer to them ended with the last one.
const ACTIVE_NANOS: i64 = 10 * 60 * 1_000_000_000;
/// As `snapshot::Kind::Committed` is stored.
const COMMITTED: i64 = 3;

/// Fills the temporary table `reachable`, and ends leases whose time has come. `started` is when
/// the daemon did, in nanoseconds since 1970.
pub(super) fn mark(transaction: &Transaction<'_>, started: i64) -> rusqlite::Result<()> {
    let now = now_nanos();
    transaction.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS reachable ( \
             namespace TEXT NOT NULL, node TEXT NOT NULL, PRIMARY KEY (namespace, node) \
         ) WITHOUT ROWID; \
         DELETE FROM temp.reachable;",
    )?;
    transaction.execute(
        "DELETE FROM edges WHERE (namespace, source) IN \
             (SELECT namespace, 'lease/' || id FROM leases WHERE expires <= ?1)",
        [now],
    )?;
    transaction.execute("DELETE FROM leases WHERE expires <= ?1", [now])?;
    transaction.execute(
        // A node after '=' is held flat: it is reachable, but nothing beyond it through this edge.
        "INSERT INTO temp.reachable \
         WITH RECURSIVE found (namespace, node) AS ( \
             SELECT namespace, 'image/' || name FROM images \
             UNION SELECT namespace, 'container/' || id FROM containers \
             UNION SELECT namespace, 'lease/' || id FROM leases \
             UNION SELECT name, 'root/' FROM namespaces \
             UNION SELECT namespace, 'ingest/' || ref FROM ingests WHERE started > ?1 \
             UNION SELECT namespace, 'snapshot/' || snapshotter || '/' || key FROM snapshots \
                 WHERE kind <> ?3 AND created > ?2 \
                 AND instr(labels, '\"containerd.io/snapshot.ref\"') = 0 \
             UNION SELECT edges.namespace, edges.target FROM found JOIN edges \
                 ON edges.namespace = found.namespace AND edges.source = found.node \
         ) SELECT DISTINCT namespace, ltrim(node, '=') FROM found",
        (now - INGEST_NANOS, started.max(now - ACTIVE_NANOS), COMMITTED),
    )?;
    Ok(())
}

/// Whether a lease has ended, or an ingest or active snapshot that nothing refers to has been there
/// for long enough. Most snapshots bear their container's id, which is looked up faster than an edge.
pub(super) fn is_due(connection: &Connection) -> rusqlite::Result<bool> {
    let now = now_nanos();
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM leases WHERE expires <= ?1) \
             OR EXISTS (SELECT 1 FROM ingests i WHERE started <= ?2 \
                 AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.namespace = i.namespace \
                     AND ltrim(e.target, '=') = 'ingest/' || i.ref)) \
             OR EXISTS (SELECT 1 FROM snapshots s WHERE kind <> ?4 AND created <= ?3 \
                 AND NOT EXISTS (SELECT 1 FROM containers c \
                     WHERE c.namespace = s.namespace AND c.id = s.key) \
                 AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.namespace = s.namespace \
                     AND ltrim(e.target, '=') = 'snapshot/' || s.snapshotter || '/' || s.key))",
        )?
        .query_row((now, now - INGEST_NANOS, now - ACTIVE_NANOS, COMMITTED), |row| row.get(0))
}
