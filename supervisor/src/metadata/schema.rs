//! The tables, as the steps that made them. A step that has shipped is never edited.
//!
//! Terms:
//! - Every record belongs to a `namespace`, which exists from its first record on.
//! - `labels` is a JSON object. Times are nanoseconds since 1970.
//! - `edges` are references between records, as `reference` writes them: `source` keeps `target`
//!   from being collected. A target need not exist (yet). `owner` is the record whose fields or
//!   labels say so, nearly always the source itself.
//! - `snapshots.id` is also the name of its directory and is never used twice.
//! - `identity` is one row: the root that the database belongs to, and its generation (`mark`).

/// One step a schema version, in order.
pub(super) const STEPS: &[&str] = &[
    "
CREATE TABLE namespaces (
    name    TEXT PRIMARY KEY,
    labels  TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;

CREATE TABLE images (
    namespace   TEXT NOT NULL REFERENCES namespaces(name),
    name        TEXT NOT NULL,
    labels      TEXT NOT NULL,
    media_type  TEXT NOT NULL,
    digest      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE containers (
    namespace       TEXT NOT NULL REFERENCES namespaces(name),
    id              TEXT NOT NULL,
    labels          TEXT NOT NULL,
    image           TEXT NOT NULL,
    runtime         TEXT NOT NULL,
    options_type    TEXT,
    options         BLOB,
    spec_type       TEXT,
    spec            BLOB,
    snapshotter     TEXT NOT NULL,
    snapshot_key    TEXT NOT NULL,
    sandbox         TEXT NOT NULL,
    extensions      BLOB NOT NULL,
    created         INTEGER NOT NULL,
    updated         INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
);

CREATE TABLE blobs (
    namespace   TEXT NOT NULL REFERENCES namespaces(name),
    digest      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    labels      TEXT NOT NULL,
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE INDEX blobs_by_digest ON blobs (digest);

CREATE TABLE ingests (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace   TEXT NOT NULL REFERENCES namespaces(name),
    ref         TEXT NOT NULL,
    total_bytes INTEGER NOT NULL,
    expected    TEXT,
    shared      TEXT,
    started     INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    UNIQUE (namespace, ref)
);

CREATE TABLE snapshots (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace   TEXT NOT NULL REFERENCES namespaces(name),
    snapshotter TEXT NOT NULL,
    key         TEXT NOT NULL,
    kind        INTEGER NOT NULL,
    parent      INTEGER REFERENCES snapshots(id),
    labels      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL DEFAULT 0,
    inodes      INTEGER NOT NULL DEFAULT 0,
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    UNIQUE (namespace, snapshotter, key)
);
CREATE INDEX snapshots_by_parent ON snapshots (parent) WHERE parent IS NOT NULL;

CREATE TABLE leases (
    namespace   TEXT NOT NULL REFERENCES namespaces(name),
    id          TEXT NOT NULL,
    labels      TEXT NOT NULL,
    expires     INTEGER,
    created     INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE edges (
    namespace   TEXT NOT NULL,
    source      TEXT NOT NULL,
    target      TEXT NOT NULL,
    owner       TEXT NOT NULL,
    PRIMARY KEY (namespace, source, target, owner)
) WITHOUT ROWID;
CREATE INDEX edges_by_other_owner ON edges (namespace, owner) WHERE owner <> source;
",
    "
CREATE TABLE identity (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    root        TEXT NOT NULL,
    generation  INTEGER NOT NULL
);
",
];

/// Every table, with the schema version that has it first.
pub(super) const TABLES: &[(i64, &str)] = &[
    (1, "namespaces"),
    (1, "images"),
    (1, "containers"),
    (1, "blobs"),
    (1, "ingests"),
    (1, "snapshots"),
    (1, "leases"),
    (1, "edges"),
    (2, "identity"),
];
