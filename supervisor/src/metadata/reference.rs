//! References between records, kept as rows so that what is reachable is one query.
//!
//! A node is a record's name in the table `edges`; an edge says that its source keeps its target
//! from being collected. Edges come from fields (an image's target, a container's snapshot, a
//! snapshot's parent), from leases, and from containerd's labels:
//!
//! - `containerd.io/gc.ref.content[.NAME]` = a digest;
//! - `containerd.io/gc.ref.snapshot.SNAPSHOTTER[/NAME]` = a snapshot's key;
//! - `containerd.io/gc.ref.image[.NAME]` = an image's name;
//! - `containerd.io/gc.bref.{container,content,image,snapshot.X}[.NAME]`: the other way round,
//!   the named record keeps this one;
//! - `containerd.io/gc.root`: this record is kept for its own sake.

use std::fmt;

use rusqlite::Transaction;

use super::{Labels, Namespace};

const REF: &str = "containerd.io/gc.ref.";
const BACK: &str = "containerd.io/gc.bref.";
const ROOT: &str = "containerd.io/gc.root";

/// A record, as `edges` names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node(String);

impl Node {
    /// The source of edges to what is kept for its own sake.
    pub(crate) fn root() -> Self {
        Self("root/".to_owned())
    }

    /// A blob.
    pub(crate) fn content(digest: impl fmt::Display) -> Self {
        Self(format!("content/{digest}"))
    }

    /// An ingest.
    pub(crate) fn ingest(reference: &str) -> Self {
        Self(format!("ingest/{reference}"))
    }

    /// A snapshot.
    pub(crate) fn snapshot(snapshotter: &str, key: &str) -> Self {
        Self(format!("snapshot/{snapshotter}/{key}"))
    }

    /// An image.
    pub(crate) fn image(name: &str) -> Self {
        Self(format!("image/{name}"))
    }

    /// A container.
    pub(crate) fn container(id: &str) -> Self {
        Self(format!("container/{id}"))
    }

    /// A lease.
    pub(crate) fn lease(id: &str) -> Self {
        Self(format!("lease/{id}"))
    }

    /// This record without what it refers to in turn, as a flat lease holds it: a node from
    /// which no edge leads on.
    pub(crate) fn flat(&self) -> Self {
        Self(format!("={}", self.0))
    }

    /// The node as stored.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The node stored as `text`.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }
}

/// Records that `source` keeps `target`.
pub(crate) fn add(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    source: &Node,
    target: &Node,
) -> rusqlite::Result<()> {
    insert(transaction, namespace, source, target, source)
}

fn insert(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    source: &Node,
    target: &Node,
    owner: &Node,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO edges (namespace, source, target, owner) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((namespace.as_str(), source.as_str(), target.as_str(), owner.as_str()))?;
    Ok(())
}

/// Forgets that `source` keeps `target`; whether it did is the answer.
pub(crate) fn remove(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    source: &Node,
    target: &Node,
) -> rusqlite::Result<bool> {
    let removed = transaction
        .prepare_cached("DELETE FROM edges WHERE namespace = ?1 AND source = ?2 AND target = ?3")?
        .execute((namespace.as_str(), source.as_str(), target.as_str()))?;
    Ok(removed > 0)
}

/// Records the edges that a new record's `fields` and `labels` say.
pub(crate) fn record(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    node: &Node,
    fields: &[Node],
    labels: &Labels,
) -> rusqlite::Result<()> {
    for target in fields {
        insert(transaction, namespace, node, target, node)?;
    }
    for (key, value) in labels {
        match edge(key, value) {
            Some(Edge::To(target)) => insert(transaction, namespace, node, &target, node)?,
            Some(Edge::From(source)) => insert(transaction, namespace, &source, node, node)?,
            None => {}
        }
    }
    Ok(())
}

/// Makes the edges that `node` owns exactly those that its `fields` and `labels` now say.
pub(crate) fn replace(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    node: &Node,
    fields: &[Node],
    labels: &Labels,
) -> rusqlite::Result<()> {
    clear(transaction, namespace, node)?;
    record(transaction, namespace, node, fields, labels)
}

/// Forgets the edges that `node` owns, as when it is deleted.
pub(crate) fn clear(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    node: &Node,
) -> rusqlite::Result<()> {
    let key = (namespace.as_str(), node.as_str());
    transaction
        .prepare_cached("DELETE FROM edges WHERE namespace = ?1 AND source = ?2 AND owner = ?2")?
        .execute(key)?;
    transaction
        .prepare_cached(
            "DELETE FROM edges WHERE namespace = ?1 AND owner = ?2 AND owner <> source",
        )?
        .execute(key)?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Edge {
    To(Node),
    From(Node),
}

/// The edge that one label means, if any.
fn edge(key: &str, value: &str) -> Option<Edge> {
    if key == ROOT {
        return Some(Edge::From(Node::root()));
    }
    if let Some(kind) = key.strip_prefix(REF) {
        return named(kind, value).map(Edge::To);
    }
    let kind = key.strip_prefix(BACK)?;
    named(kind, value).map(Edge::From)
}

/// The node that `kind[.NAME]` or `snapshot.SNAPSHOTTER[/NAME]` and a label's value name.
fn named(kind: &str, value: &str) -> Option<Node> {
    let (sort, rest) = match kind.find(['.', '/']) {
        Some(at) => (&kind[..at], &kind[at + 1..]),
        None => (kind, ""),
    };
    match sort {
        "content" => Some(Node::content(value)),
        "image" => Some(Node::image(value)),
        "container" => Some(Node::container(value)),
        "snapshot" => {
            let snapshotter = rest.split('/').next().unwrap_or_default();
            (!snapshotter.is_empty()).then(|| Node::snapshot(snapshotter, value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_containerd_s_clients_are_understood() {
        let digest = "sha256:abc";
        for (key, value, want) in [
            ("containerd.io/gc.ref.content", digest, Some(Edge::To(Node::content(digest)))),
            ("containerd.io/gc.ref.content.l.0", digest, Some(Edge::To(Node::content(digest)))),
            ("containerd.io/gc.ref.content.config", digest, Some(Edge::To(Node::content(digest)))),
            (
                "containerd.io/gc.ref.snapshot.overlayfs",
                "k",
                Some(Edge::To(Node::snapshot("overlayfs", "k"))),
            ),
            (
                "containerd.io/gc.ref.snapshot.native/second",
                "k",
                Some(Edge::To(Node::snapshot("native", "k"))),
            ),
            ("containerd.io/gc.bref.container", "c", Some(Edge::From(Node::container("c")))),
            ("containerd.io/gc.root", "2026-01-01", Some(Edge::From(Node::root()))),
            ("containerd.io/gc.ref.snapshot", "k", None),
            ("containerd.io/uncompressed", digest, None),
        ] {
            assert_eq!(edge(key, value), want, "{key}");
        }
    }
}
