//! Containers as records: what is to run, before and after anything runs.
//!
//! Promise: a record is there whole or not at all, and keeps the snapshot it names from garbage
//! collection. Events go out after the record is durable.
//! Not here: anything that runs (`task`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use crate::any::Any;
use crate::creator;
use crate::events::{Bus, Event};
use crate::metadata::filter::{self, Fields, Filters};
use crate::metadata::reference::{self, Node};
use crate::metadata::{
    self, Database, Labels, MetadataError, Namespace, RecordError, from_nanos, label_column,
    labels, mask, now_nanos, to_nanos, validate_identifier,
};
use crate::namespace;

const WHAT: &str = "container";
const COLUMNS: &str = "id, labels, image, runtime, options_type, options, spec_type, spec, \
                       snapshotter, snapshot_key, sandbox, extensions, created, updated";
/// What an update without a mask may change.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

/// What is to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// The name of the image it came from, if any.
    pub(crate) image: String,
    /// The runtime, by name: `io.containerd.runc.v2`.
    pub(crate) runtime: String,
    /// Options for that runtime.
    pub(crate) options: Option<Any>,
    /// The OCI runtime spec.
    pub(crate) spec: Option<Any>,
    /// The snapshotter of its root file system, if it has one of its own.
    pub(crate) snapshotter: String,
    /// The key of that snapshot.
    pub(crate) snapshot_key: String,
    /// The sandbox it belongs to, if any.
    pub(crate) sandbox: String,
    /// What clients keep with it.
    pub(crate) extensions: BTreeMap<String, Any>,
    /// When the record was made.
    pub(crate) created: SystemTime,
    /// When the record last changed.
    pub(crate) updated: SystemTime,
}

impl Fields for Container {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["id"] => Some(self.id.as_str().into()),
            ["image"] => (!self.image.is_empty()).then(|| self.image.as_str().into()),
            ["runtime", "name"] => Some(self.runtime.as_str().into()),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// Extensions as they are stored.
#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(btree_map = "string, message", tag = "1")]
    by_name: BTreeMap<String, Any>,
}

/// All containers of all namespaces.
#[derive(Clone)]
pub(crate) struct Containers {
    database: Database,
    events: Bus,
}

impl Containers {
    /// The containers in `database`, whose changes are published on `events`.
    pub(crate) fn new(database: Database, events: Bus) -> Self {
        Self { database, events }
    }

    /// One container.
    pub(crate) async fn get(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> Result<Container, RecordError> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.database.read(move |connection| find(connection, &namespace, &id)).await
    }

    /// The containers that pass `filters`, by id.
    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Container>, RecordError> {
        let filters = Filters::parse(filters)?;
        let namespace = namespace.clone();
        self.database
            .read(move |connection| {
                let query =
                    format!("SELECT {COLUMNS} FROM containers WHERE namespace = ?1 ORDER BY id");
                Ok(metadata::list(connection, &query, &namespace, read, &filters)?)
            })
            .await
    }

    /// The containers of all namespaces that have a label `key`.
    pub(crate) async fn labelled(
        &self,
        key: &'static str,
    ) -> Result<Vec<(Namespace, Container)>, RecordError> {
        self.database
            .read(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {COLUMNS}, namespace FROM containers WHERE instr(labels, ?1) > 0"
                ))?;
                let mut rows = statement.query([key])?;
                let mut containers = Vec::new();
                while let Some(row) = rows.next()? {
                    let container = read(row)?;
                    if container.labels.contains_key(key)
                        && let Ok(namespace) = Namespace::new(row.get::<_, String>(14)?)
                    {
                        containers.push((namespace, container));
                    }
                }
                Ok(containers)
            })
            .await
    }

    /// Takes note that a container is started: its creator may end without it from now on.
    pub(crate) async fn started(&self, namespace: &Namespace, id: &str) -> Result<(), RecordError> {
        let labels = self.get(namespace, id).await?.labels;
        if !labels.contains_key(creator::LABEL) || labels.contains_key(creator::GOES_TOO) {
            return Ok(());
        }
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.database
            // A container that runs while the disk is full must not be taken for one that never did.
            .remove(move |transaction| {
                let mut container = find(transaction, &namespace, &id)?;
                container.labels.remove(creator::LABEL);
                replace(transaction, &namespace, &container)
            })
            .await
    }

    /// Creates a record.
    pub(crate) async fn create(
        &self,
        namespace: &Namespace,
        mut container: Container,
    ) -> Result<Container, RecordError> {
        validate(&container)?;
        container.created = from_nanos(now_nanos());
        container.updated = container.created;
        let inside = namespace.clone();
        let container = self
            .database
            .write(move |transaction| {
                namespace::ensure(transaction, &inside)?;
                if !insert(transaction, &inside, &container)? {
                    return Err(RecordError::AlreadyExists { what: WHAT, id: container.id });
                }
                Ok(container)
            })
            .await?;
        let event = Event::ContainerCreated {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: container.runtime.clone(),
            options: container.options.clone(),
        };
        self.events.publish(namespace, event);
        Ok(container)
    }

    /// Writes the record of a container that another source tells of, unless there is one. No event
    /// goes out: nothing happened to the container. Blocks.
    pub(crate) fn restore(
        &self,
        (namespace, container): (Namespace, Container),
    ) -> Result<bool, RecordError> {
        validate(&container)?;
        self.database.write_blocking(move |transaction| {
            namespace::ensure(transaction, &namespace)?;
            insert(transaction, &namespace, &container)
        })
    }

    /// Changes the fields that `paths` name; all that can change when it is empty.
    pub(crate) async fn update(
        &self,
        namespace: &Namespace,
        change: Container,
        paths: Vec<String>,
    ) -> Result<Container, RecordError> {
        let inside = namespace.clone();
        let container = self
            .database
            .write(move |transaction| {
                let mut container = find(transaction, &inside, &change.id)?;
                apply(&mut container, &change, &paths)?;
                container.updated = from_nanos(now_nanos());
                validate(&container)?;
                replace(transaction, &inside, &container)?;
                Ok::<_, RecordError>(container)
            })
            .await?;
        let event = Event::ContainerUpdated {
            id: container.id.clone(),
            image: container.image.clone(),
            labels: container.labels.clone(),
            snapshot_key: container.snapshot_key.clone(),
        };
        self.events.publish(namespace, event);
        Ok(container)
    }

    /// Deletes a record.
    pub(crate) async fn delete(&self, namespace: &Namespace, id: &str) -> Result<(), RecordError> {
        let (inside, key) = (namespace.clone(), id.to_owned());
        self.database
            .remove(move |transaction| {
                let deleted = transaction
                    .prepare_cached("DELETE FROM containers WHERE namespace = ?1 AND id = ?2")?
                    .execute((inside.as_str(), &key))?;
                if deleted == 0 {
                    return Err(RecordError::NotFound { what: WHAT, id: key.clone() });
                }
                reference::clear(transaction, &inside, &Node::container(&key))?;
                Ok(())
            })
            .await?;
        self.events.publish(namespace, Event::ContainerDeleted { id: id.to_owned() });
        Ok(())
    }
}

fn apply(
    container: &mut Container,
    change: &Container,
    paths: &[String],
) -> Result<(), RecordError> {
    let invalid = |reason: &str| RecordError::Invalid {
        what: WHAT,
        id: change.id.clone(),
        reason: reason.to_owned(),
    };
    let all: Vec<String>;
    let paths = if paths.is_empty() {
        if change.snapshotter != container.snapshotter {
            return Err(invalid("container.Snapshotter field is immutable"));
        }
        if change.runtime != container.runtime {
            return Err(invalid("container.Runtime.Name field is immutable"));
        }
        all = MUTABLE.map(str::to_owned).to_vec();
        &all
    } else {
        paths
    };
    for path in paths {
        match mask::path(path, &["labels", "extensions"]) {
            mask::Path::Field("labels") => container.labels.clone_from(&change.labels),
            mask::Path::Field("spec") => container.spec.clone_from(&change.spec),
            mask::Path::Field("image") => container.image.clone_from(&change.image),
            mask::Path::Field("snapshotkey" | "snapshot_key") => {
                container.snapshot_key.clone_from(&change.snapshot_key);
            }
            mask::Path::Field("extensions") => {
                container.extensions.clone_from(&change.extensions);
            }
            mask::Path::Key("labels", key) => {
                labels::set(&mut container.labels, key, change.labels.get(key));
            }
            mask::Path::Key(_, key) => {
                match change.extensions.get(key) {
                    Some(value) => container.extensions.insert(key.to_owned(), value.clone()),
                    None => container.extensions.remove(key),
                };
            }
            mask::Path::Field(_) => {
                let id = change.id.clone();
                return Err(RecordError::Field { what: WHAT, id, field: path.clone() });
            }
        }
    }
    Ok(())
}

fn validate(container: &Container) -> Result<(), RecordError> {
    let reason = match validate_identifier(&container.id) {
        Err(cause) => cause.to_string(),
        Ok(()) if container.extensions.keys().any(String::is_empty) => {
            "extension keys must not be empty".to_owned()
        }
        Ok(()) if container.runtime.is_empty() => "container.Runtime.Name must be set".to_owned(),
        Ok(()) if container.spec.is_none() => "container.Spec must be set".to_owned(),
        Ok(()) if container.snapshotter.is_empty() && !container.snapshot_key.is_empty() => {
            "container.Snapshotter must be set if container.SnapshotKey is set".to_owned()
        }
        Ok(()) => return Ok(labels::validate(&container.labels)?),
    };
    Err(RecordError::Invalid { what: WHAT, id: container.id.clone(), reason })
}

/// Writes a new record, or answers `false` when the id is taken.
fn insert(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    container: &Container,
) -> Result<bool, RecordError> {
    if write(transaction, "INSERT OR IGNORE", namespace, container)? == 0 {
        return Ok(false);
    }
    let node = Node::container(&container.id);
    reference::record(transaction, namespace, &node, &kept(container), &container.labels)?;
    Ok(true)
}

fn replace(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    container: &Container,
) -> Result<(), RecordError> {
    write(transaction, "INSERT OR REPLACE", namespace, container)?;
    let node = Node::container(&container.id);
    reference::replace(transaction, namespace, &node, &kept(container), &container.labels)?;
    Ok(())
}

fn kept(container: &Container) -> Vec<Node> {
    if container.snapshot_key.is_empty() {
        return Vec::new();
    }
    vec![Node::snapshot(&container.snapshotter, &container.snapshot_key)]
}

fn write(
    transaction: &Transaction<'_>,
    verb: &str,
    namespace: &Namespace,
    container: &Container,
) -> Result<usize, RecordError> {
    let extensions = Extensions { by_name: container.extensions.clone() }.encode_to_vec();
    let (options, spec) = (container.options.as_ref(), container.spec.as_ref());
    let written = transaction
        .prepare_cached(&format!(
            "{verb} INTO containers (namespace, {COLUMNS}) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
        ))?
        .execute((
            namespace.as_str(),
            &container.id,
            label_column::encode(&container.labels)?,
            &container.image,
            &container.runtime,
            options.map(|any| &any.type_url),
            options.map(|any| &any.value),
            spec.map(|any| &any.type_url),
            spec.map(|any| &any.value),
            &container.snapshotter,
            &container.snapshot_key,
            &container.sandbox,
            extensions,
            to_nanos(container.created),
            to_nanos(container.updated),
        ))?;
    Ok(written)
}

fn find(
    connection: &Connection,
    namespace: &Namespace,
    id: &str,
) -> Result<Container, RecordError> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM containers WHERE namespace = ?1 AND id = ?2"
        ))?
        .query_row((namespace.as_str(), id), |row| Ok(read(row)))
        .optional()?
        .transpose()?
        .ok_or_else(|| RecordError::NotFound { what: WHAT, id: id.to_owned() })
}

fn read(row: &Row<'_>) -> Result<Container, MetadataError> {
    let damaged = |cause: Box<dyn std::error::Error + Send + Sync>| MetadataError::Damaged {
        what: "container",
        cause,
    };
    let stored = row.get_ref(1)?.as_str().map_err(|cause| damaged(cause.into()))?;
    let extensions = row.get_ref(11)?.as_blob().map_err(|cause| damaged(cause.into()))?;
    let extensions = Extensions::decode(extensions).map_err(|cause| damaged(cause.into()))?;
    Ok(Container {
        id: row.get(0)?,
        labels: label_column::decode(stored)?,
        image: row.get(2)?,
        runtime: row.get(3)?,
        options: any(row.get(4)?, row.get(5)?),
        spec: any(row.get(6)?, row.get(7)?),
        snapshotter: row.get(8)?,
        snapshot_key: row.get(9)?,
        sandbox: row.get(10)?,
        extensions: extensions.by_name,
        created: from_nanos(row.get(12)?),
        updated: from_nanos(row.get(13)?),
    })
}

fn any(type_url: Option<String>, value: Option<Vec<u8>>) -> Option<Any> {
    Some(Any { type_url: type_url?, value: value.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_sdk::Kind;

    fn open() -> (tempfile::TempDir, Containers, Namespace) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        (folder, Containers::new(database, Bus::new()), Namespace::new("a").unwrap())
    }

    fn container(id: &str) -> Container {
        let any = |text: &str| Any { type_url: text.into(), value: text.as_bytes().to_vec() };
        Container {
            id: id.into(),
            labels: Labels::from([("l".into(), "1".into())]),
            image: "busy:1".into(),
            runtime: "io.containerd.runc.v2".into(),
            options: Some(any("options")),
            spec: Some(any("spec")),
            snapshotter: "overlayfs".into(),
            snapshot_key: id.into(),
            sandbox: String::new(),
            extensions: BTreeMap::from([("e".into(), any("extension"))]),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn what_is_created_is_found_whole() {
        let (_folder, containers, namespace) = open();
        let made = containers.create(&namespace, container("c1")).await.unwrap();
        assert_eq!(containers.get(&namespace, "c1").await.unwrap(), made);
        let taken = containers.create(&namespace, container("c1")).await.unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
        for (filter, count) in [("id~=^c", 1), ("runtime.name==other", 0)] {
            let found = containers.list(&namespace, &[filter.to_owned()]).await.unwrap();
            assert_eq!(found.len(), count, "{filter}");
        }
        containers.delete(&namespace, "c1").await.unwrap();
        let gone = containers.delete(&namespace, "c1").await.unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn what_a_container_cannot_be_without_is_asked_for() {
        let (_folder, containers, namespace) = open();
        let broken: [fn(&mut Container); 5] = [
            |container| container.id = "../x".into(),
            |container| container.runtime.clear(),
            |container| container.spec = None,
            |container| container.snapshotter.clear(),
            |container| drop(container.extensions.insert(String::new(), Any::default())),
        ];
        for spoil in broken {
            let mut container = container("c1");
            spoil(&mut container);
            let refused = containers.create(&namespace, container).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::InvalidArgument, "{refused}");
        }
        assert!(containers.list(&namespace, &[]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_update_without_a_mask_leaves_runtime_and_snapshotter_alone() {
        let (_folder, containers, namespace) = open();
        containers.create(&namespace, container("c1")).await.unwrap();
        let mut change = container("c1");
        change.image = "other".into();
        change.extensions.clear();
        let updated = containers.update(&namespace, change.clone(), Vec::new()).await.unwrap();
        assert_eq!((updated.image.as_str(), updated.extensions.len()), ("other", 0));
        change.runtime = "another".into();
        let refused = containers.update(&namespace, change.clone(), Vec::new()).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::InvalidArgument);
        let paths = vec!["labels.l".to_owned(), "snapshotkey".to_owned()];
        change.labels.clear();
        change.snapshot_key = "k2".into();
        let updated = containers.update(&namespace, change, paths).await.unwrap();
        assert!(updated.labels.is_empty());
        assert_eq!(updated.snapshot_key, "k2");
        assert_eq!(updated.runtime, "io.containerd.runc.v2");
    }
}
