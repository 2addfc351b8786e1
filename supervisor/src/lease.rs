//! Leases: they keep what is being worked on from garbage collection.
//!
//! A lease holds resources (blobs, ingests, snapshots) and, unless it is flat, what they refer
//! to. It ends when it is deleted or when its expiration, a label, has passed. A request that
//! names a lease in its header adds to it whatever it creates, in the same transaction.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use crate::metadata::filter::{self, Fields, Filters};
use crate::metadata::reference::{self, Node};
use crate::metadata::{
    self, Database, Labels, Namespace, RecordError, from_nanos, label_column, labels, now_nanos,
    to_nanos,
};
use crate::namespace;

const WHAT: &str = "lease";
/// When the lease ends, in RFC 3339.
const EXPIRE: &str = "containerd.io/gc.expire";
/// Present: the lease does not keep what its resources refer to.
const FLAT: &str = "containerd.io/gc.flat";

/// Names a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(String);

impl LeaseId {
    /// A lease of that name.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its name.
    pub(crate) id: LeaseId,
    /// Its labels.
    pub(crate) labels: Labels,
    /// When it was made.
    pub(crate) created: SystemTime,
}

impl Fields for Lease {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["id"] => Some(self.id.as_str().into()),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// Something that a lease holds, in containerd's terms: `content`, `ingests` or
/// `snapshots/SNAPSHOTTER`, and the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// The sort of thing.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) id: String,
}

impl Resource {
    fn node(&self) -> Result<Node, RecordError> {
        let invalid = |reason: String| RecordError::Invalid {
            what: "lease resource",
            id: self.id.clone(),
            reason,
        };
        match self.kind.split_once('/') {
            None if self.kind == "content" => {
                crate::content::Digest::parse(self.id.as_str())
                    .map_err(|cause| invalid(cause.to_string()))?;
                Ok(Node::content(&self.id))
            }
            None if self.kind == "ingests" => Ok(Node::ingest(&self.id)),
            None if self.kind == "images" => Ok(Node::image(&self.id)),
            Some(("snapshots", snapshotter)) if !snapshotter.is_empty() => {
                Ok(Node::snapshot(snapshotter, &self.id))
            }
            _ => Err(invalid(format!("resource type {:?} is not supported", self.kind))),
        }
    }

    fn of(node: &str) -> Option<Self> {
        let (sort, id) = node.trim_start_matches('=').split_once('/')?;
        let (kind, id) = match sort {
            "content" => ("content".to_owned(), id),
            "ingest" => ("ingests".to_owned(), id),
            "image" => ("images".to_owned(), id),
            "snapshot" => {
                let (snapshotter, key) = id.split_once('/')?;
                (format!("snapshots/{snapshotter}"), key)
            }
            _ => return None,
        };
        Some(Self { kind, id: id.to_owned() })
    }
}

/// All leases of all namespaces.
#[derive(Clone)]
pub(crate) struct Leases {
    database: Database,
}

/// Adds `node`, just created, to the request's lease.
pub(crate) fn hold(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&LeaseId>,
    node: &Node,
) -> Result<(), RecordError> {
    let Some(lease) = lease else { return Ok(()) };
    let found = find(transaction, namespace, lease)?;
    let target = if found.labels.contains_key(FLAT) { node.flat() } else { node.clone() };
    reference::add(transaction, namespace, &Node::lease(lease.as_str()), &target)?;
    Ok(())
}

/// Takes `node` from the request's lease, as when it is renamed or removed.
pub(crate) fn release(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&LeaseId>,
    node: &Node,
) -> Result<(), RecordError> {
    let Some(lease) = lease else { return Ok(()) };
    let source = Node::lease(lease.as_str());
    reference::remove(transaction, namespace, &source, node)?;
    reference::remove(transaction, namespace, &source, &node.flat())?;
    Ok(())
}

impl Leases {
    /// The leases in `database`.
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    /// Ends the leases with the label `key`, in all namespaces, and forgets ingests that bear the
    /// name of one: for the daemon's start, when their holders are gone. Blocks.
    pub(crate) fn end_labelled(&self, key: &'static str) -> Result<(), RecordError> {
        self.database.remove_blocking(move |transaction| {
            let leases = {
                let mut statement =
                    transaction.prepare("SELECT namespace, id, labels FROM leases")?;
                let mut rows = statement.query([])?;
                let mut leases = Vec::new();
                while let Some(row) = rows.next()? {
                    if label_column::decode(&row.get::<_, String>(2)?)?.contains_key(key) {
                        leases.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
                    }
                }
                leases
            };
            for (namespace, id) in leases {
                let lease = (namespace.as_str(), id.as_str());
                transaction
                    .execute("DELETE FROM leases WHERE namespace = ?1 AND id = ?2", lease)?;
                let node = Node::lease(&id);
                transaction.execute(
                    "DELETE FROM edges WHERE namespace = ?1 AND source = ?2",
                    (&namespace, node.as_str()),
                )?;
                transaction.execute(
                    "DELETE FROM ingests \
                     WHERE namespace = ?1 AND substr(ref, 1, length(?2) + 1) = ?2 || '-'",
                    lease,
                )?;
            }
            Ok(())
        })
    }

    /// Creates a lease.
    pub(crate) async fn create(
        &self,
        namespace: &Namespace,
        id: LeaseId,
        labels: Labels,
    ) -> Result<Lease, RecordError> {
        labels::validate(&labels)?;
        let invalid = |reason: &str| RecordError::Invalid {
            what: WHAT,
            id: id.to_string(),
            reason: reason.to_owned(),
        };
        if id.as_str().is_empty() {
            return Err(invalid("id must be provided"));
        }
        let expires = match labels.get(EXPIRE) {
            None => None,
            Some(text) => {
                let time = rfc3339(text).ok_or_else(|| invalid("expiration is not RFC 3339"))?;
                Some(time)
            }
        };
        let namespace = namespace.clone();
        self.database
            .write(move |transaction| {
                namespace::ensure(transaction, &namespace)?;
                let lease = Lease { id, labels, created: from_nanos(now_nanos()) };
                let made = transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO leases (namespace, id, labels, expires, created) \
                         VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute((
                        namespace.as_str(),
                        lease.id.as_str(),
                        label_column::encode(&lease.labels)?,
                        expires,
                        to_nanos(lease.created),
                    ))?;
                if made == 0 {
                    let id = lease.id.to_string();
                    return Err(RecordError::AlreadyExists { what: WHAT, id });
                }
                Ok(lease)
            })
            .await
    }

    /// Deletes a lease; what only it held is garbage from then on.
    pub(crate) async fn delete(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
    ) -> Result<(), RecordError> {
        let (namespace, id) = (namespace.clone(), id.clone());
        self.database
            .remove(move |transaction| {
                find(transaction, &namespace, &id)?;
                transaction
                    .prepare_cached("DELETE FROM leases WHERE namespace = ?1 AND id = ?2")?
                    .execute((namespace.as_str(), id.as_str()))?;
                reference::clear(transaction, &namespace, &Node::lease(id.as_str()))?;
                Ok(())
            })
            .await
    }

    /// The leases that pass `filters`, by name.
    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Lease>, RecordError> {
        let filters = Filters::parse(filters)?;
        let namespace = namespace.clone();
        self.database
            .read(move |connection| {
                let query =
                    "SELECT id, labels, created FROM leases WHERE namespace = ?1 ORDER BY id";
                let read = |row: &Row<'_>| {
                    Ok(Lease {
                        id: LeaseId(row.get(0)?),
                        labels: label_column::decode(&row.get::<_, String>(1)?)?,
                        created: from_nanos(row.get(2)?),
                    })
                };
                Ok(metadata::list(connection, query, &namespace, read, &filters)?)
            })
            .await
    }

    /// Adds a resource, which need not exist yet.
    pub(crate) async fn add(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: Resource,
    ) -> Result<(), RecordError> {
        let node = resource.node()?;
        let (namespace, id) = (namespace.clone(), id.clone());
        self.database
            .write(move |transaction| hold(transaction, &namespace, Some(&id), &node))
            .await
    }

    /// Takes a resource out; one that is not in it is fine.
    pub(crate) async fn remove(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: Resource,
    ) -> Result<(), RecordError> {
        let node = resource.node()?;
        let (namespace, id) = (namespace.clone(), id.clone());
        self.database
            .remove(move |transaction| {
                find(transaction, &namespace, &id)?;
                release(transaction, &namespace, Some(&id), &node)
            })
            .await
    }

    /// What a lease holds.
    pub(crate) async fn resources(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
    ) -> Result<Vec<Resource>, RecordError> {
        let (namespace, id) = (namespace.clone(), id.clone());
        self.database
            .read(move |connection| {
                find(connection, &namespace, &id)?;
                let mut statement = connection.prepare_cached(
                    "SELECT target FROM edges WHERE namespace = ?1 AND source = ?2",
                )?;
                let source = Node::lease(id.as_str());
                let targets = statement
                    .query_map((namespace.as_str(), source.as_str()), |row| {
                        row.get::<_, String>(0)
                    })?
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(targets.iter().filter_map(|target| Resource::of(target)).collect())
            })
            .await
    }
}

fn find(
    connection: &Connection,
    namespace: &Namespace,
    id: &LeaseId,
) -> Result<Lease, RecordError> {
    let found: Option<(String, i64)> = connection
        .prepare_cached("SELECT labels, created FROM leases WHERE namespace = ?1 AND id = ?2")?
        .query_row((namespace.as_str(), id.as_str()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (stored, created) =
        found.ok_or_else(|| RecordError::NotFound { what: WHAT, id: id.to_string() })?;
    Ok(Lease {
        id: id.clone(),
        labels: label_column::decode(&stored)?,
        created: from_nanos(created),
    })
}

/// RFC 3339 as stored time.
fn rfc3339(text: &str) -> Option<i64> {
    let time: prost_types::Timestamp = text.parse().ok()?;
    time.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Leases, Namespace) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        (folder, Leases::new(database), Namespace::new("a").unwrap())
    }

    fn resource(kind: &str, id: &str) -> Resource {
        Resource { kind: kind.to_owned(), id: id.to_owned() }
    }

    #[tokio::test]
    async fn a_lease_holds_what_is_added_and_not_what_is_taken_out() {
        let (_folder, leases, namespace) = open();
        let id = LeaseId::new("l");
        leases.create(&namespace, id.clone(), Labels::new()).await.unwrap();
        let digest = crate::content::Digest::of(b"x");
        let (blob, snapshot) =
            (resource("content", digest.as_str()), resource("snapshots/overlayfs", "a/b"));
        leases.add(&namespace, &id, blob.clone()).await.unwrap();
        leases.add(&namespace, &id, snapshot.clone()).await.unwrap();
        assert_eq!(
            leases.resources(&namespace, &id).await.unwrap(),
            [blob.clone(), snapshot.clone()]
        );
        leases.remove(&namespace, &id, blob).await.unwrap();
        assert_eq!(leases.resources(&namespace, &id).await.unwrap(), [snapshot]);
        leases.delete(&namespace, &id).await.unwrap();
        let gone = leases.resources(&namespace, &id).await.unwrap_err();
        assert_eq!(gone.kind(), shim_sdk::Kind::NotFound);
    }

    #[tokio::test]
    async fn a_flat_lease_lists_its_resources_as_they_were_added() {
        let (_folder, leases, namespace) = open();
        let id = LeaseId::new("l");
        let labels = Labels::from([(FLAT.to_owned(), "true".to_owned())]);
        leases.create(&namespace, id.clone(), labels).await.unwrap();
        let snapshot = resource("snapshots/overlayfs", "k");
        leases.add(&namespace, &id, snapshot.clone()).await.unwrap();
        assert_eq!(leases.resources(&namespace, &id).await.unwrap(), [snapshot]);
    }

    #[tokio::test]
    async fn odd_expirations_and_resources_are_refused() {
        let (_folder, leases, namespace) = open();
        let labels = |text: &str| Labels::from([(EXPIRE.to_owned(), text.to_owned())]);
        let id = LeaseId::new("l");
        let refused = leases.create(&namespace, id.clone(), labels("tomorrow")).await.unwrap_err();
        assert_eq!(refused.kind(), shim_sdk::Kind::InvalidArgument);
        leases.create(&namespace, id.clone(), labels("2026-01-02T03:04:05Z")).await.unwrap();
        for odd in [resource("content", "abc"), resource("snapshots", "x"), resource("y", "x")] {
            let refused = leases.add(&namespace, &id, odd).await.unwrap_err();
            assert_eq!(refused.kind(), shim_sdk::Kind::InvalidArgument);
        }
    }
}
