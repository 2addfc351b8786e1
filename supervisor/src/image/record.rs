//! Images as records: a name and the descriptor it points to.
//!
//! Promise: a record is there whole or not at all; what it points to is kept from garbage
//! collection as long as it is. Events go out after the record is durable.
//! Not here: what is inside an image (`transfer`).

use std::borrow::Cow;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use crate::content::{Descriptor, Digest};
use crate::events::{Bus, Event};
use crate::metadata::filter::{self, Fields, Filters};
use crate::metadata::reference::{self, Node};
use crate::metadata::{
    self, Database, Labels, MetadataError, Namespace, RecordError, from_nanos, label_column,
    labels, mask, to_nanos,
};
use crate::namespace;

const WHAT: &str = "image";
const COLUMNS: &str = "name, labels, media_type, digest, size_bytes, annotations, created, updated";

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its name, usually a reference such as `docker.io/library/busybox:latest`.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// The manifest or index it points to.
    pub(crate) target: Descriptor,
    /// When the record was made.
    pub(crate) created: SystemTime,
    /// When the record last changed.
    pub(crate) updated: SystemTime,
}

impl Image {
    /// A record of now.
    pub(crate) fn new(name: impl Into<String>, labels: Labels, target: Descriptor) -> Self {
        let now = SystemTime::now();
        Self { name: name.into(), labels, target, created: now, updated: now }
    }
}

impl Fields for Image {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["name"] => Some(self.name.as_str().into()),
            ["target", "digest"] => Some(self.target.digest.as_str().into()),
            ["target", "mediatype"] => Some(self.target.media_type.as_str().into()),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            ["annotations", key @ ..] => filter::label(&self.target.annotations, key),
            _ => None,
        }
    }
}

/// All images of all namespaces.
#[derive(Clone)]
pub(crate) struct Images {
    database: Database,
    events: Bus,
}

impl Images {
    /// The images in `database`, whose changes are published on `events`.
    pub(crate) fn new(database: Database, events: Bus) -> Self {
        Self { database, events }
    }

    /// One image.
    pub(crate) async fn get(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Image, RecordError> {
        let (namespace, name) = (namespace.clone(), name.to_owned());
        self.database.read(move |connection| find(connection, &namespace, &name)).await
    }

    /// The images that pass `filters`, by name.
    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Image>, RecordError> {
        let filters = Filters::parse(filters)?;
        let namespace = namespace.clone();
        self.database
            .read(move |connection| {
                let query =
                    format!("SELECT {COLUMNS} FROM images WHERE namespace = ?1 ORDER BY name");
                Ok(metadata::list(connection, &query, &namespace, read, &filters)?)
            })
            .await
    }

    /// Creates a record.
    pub(crate) async fn create(
        &self,
        namespace: &Namespace,
        image: Image,
    ) -> Result<Image, RecordError> {
        validate(&image)?;
        let inside = namespace.clone();
        let image = self
            .database
            .write(move |transaction| {
                namespace::ensure(transaction, &inside)?;
                if exists(transaction, &inside, &image.name)? {
                    return Err(RecordError::AlreadyExists { what: WHAT, id: image.name });
                }
                store(transaction, &inside, &image)?;
                Ok(image)
            })
            .await?;
        let (name, labels) = (image.name.clone(), image.labels.clone());
        self.events.publish(namespace, Event::ImageCreated { name, labels });
        Ok(image)
    }

    /// Creates records, or points those that exist elsewhere: all of them or, on any error, none.
    pub(crate) async fn put(
        &self,
        namespace: &Namespace,
        images: Vec<Image>,
    ) -> Result<Vec<Image>, RecordError> {
        for image in &images {
            validate(image)?;
        }
        let inside = namespace.clone();
        let stored = self
            .database
            .write::<_, RecordError>(move |transaction| {
                namespace::ensure(transaction, &inside)?;
                let mut stored = Vec::with_capacity(images.len());
                for mut image in images {
                    let old = lookup(transaction, &inside, &image.name)?;
                    if let Some(old) = &old {
                        image.created = old.created;
                    }
                    store(transaction, &inside, &image)?;
                    stored.push((image, old.is_some()));
                }
                Ok(stored)
            })
            .await?;
        for (image, existed) in &stored {
            let (name, labels) = (image.name.clone(), image.labels.clone());
            let event = if *existed {
                Event::ImageUpdated { name, labels }
            } else {
                Event::ImageCreated { name, labels }
            };
            self.events.publish(namespace, event);
        }
        Ok(stored.into_iter().map(|(image, _)| image).collect())
    }

    /// Changes the fields that `paths` name; target and labels when it is empty.
    pub(crate) async fn update(
        &self,
        namespace: &Namespace,
        change: Image,
        paths: Vec<String>,
    ) -> Result<Image, RecordError> {
        let inside = namespace.clone();
        let image = self
            .database
            .write(move |transaction| {
                let mut image = find(transaction, &inside, &change.name)?;
                apply(&mut image, &change, &paths)?;
                image.updated = change.updated;
                validate(&image)?;
                store(transaction, &inside, &image)?;
                Ok::<_, RecordError>(image)
            })
            .await?;
        let (name, labels) = (image.name.clone(), image.labels.clone());
        self.events.publish(namespace, Event::ImageUpdated { name, labels });
        Ok(image)
    }

    /// Deletes a record, when `target` is given only if that is what it points to.
    pub(crate) async fn delete(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Option<Digest>,
    ) -> Result<(), RecordError> {
        let (inside, id) = (namespace.clone(), name.to_owned());
        self.database
            .remove(move |transaction| {
                let image = find(transaction, &inside, &id)?;
                if target.as_ref().is_some_and(|target| *target != image.target.digest) {
                    let (what, id) = ("image with that target", id.clone());
                    return Err(RecordError::NotFound { what, id });
                }
                transaction
                    .prepare_cached("DELETE FROM images WHERE namespace = ?1 AND name = ?2")?
                    .execute((inside.as_str(), &id))?;
                reference::clear(transaction, &inside, &Node::image(&id))?;
                Ok(())
            })
            .await?;
        self.events.publish(namespace, Event::ImageDeleted { name: name.to_owned() });
        Ok(())
    }
}

fn apply(image: &mut Image, change: &Image, paths: &[String]) -> Result<(), RecordError> {
    if paths.is_empty() {
        image.labels.clone_from(&change.labels);
        image.target = change.target.clone();
    }
    for path in paths {
        match mask::path(path, &["labels", "annotations"]) {
            mask::Path::Field("labels") => image.labels.clone_from(&change.labels),
            mask::Path::Field("target") => image.target = change.target.clone(),
            mask::Path::Field("annotations" | "target.annotations") => {
                image.target.annotations.clone_from(&change.target.annotations);
            }
            mask::Path::Key("labels", key) => {
                labels::set(&mut image.labels, key, change.labels.get(key));
            }
            mask::Path::Key(_, key) => {
                let value = change.target.annotations.get(key);
                labels::set(&mut image.target.annotations, key, value);
            }
            mask::Path::Field(_) => {
                let id = image.name.clone();
                return Err(RecordError::Field { what: WHAT, id, field: path.clone() });
            }
        }
    }
    Ok(())
}

fn validate(image: &Image) -> Result<(), RecordError> {
    let reason = if image.name.is_empty() {
        "name must not be empty"
    } else if image.target.media_type.is_empty() {
        "target media type must not be empty"
    } else {
        return Ok(labels::validate(&image.labels)?);
    };
    Err(RecordError::Invalid { what: WHAT, id: image.name.clone(), reason: reason.to_owned() })
}

fn exists(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    name: &str,
) -> Result<bool, RecordError> {
    let exists = transaction
        .prepare_cached("SELECT 1 FROM images WHERE namespace = ?1 AND name = ?2")?
        .exists((namespace.as_str(), name))?;
    Ok(exists)
}

fn store(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    image: &Image,
) -> Result<(), RecordError> {
    let size = i64::try_from(image.target.size_bytes).map_err(|_| RecordError::Invalid {
        what: WHAT,
        id: image.name.clone(),
        reason: "target size is out of range".to_owned(),
    })?;
    transaction
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO images (namespace, {COLUMNS}) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        ))?
        .execute((
            namespace.as_str(),
            &image.name,
            label_column::encode(&image.labels)?,
            &image.target.media_type,
            image.target.digest.as_str(),
            size,
            label_column::encode(&image.target.annotations)?,
            to_nanos(image.created),
            to_nanos(image.updated),
        ))?;
    let target = Node::content(&image.target.digest);
    let node = Node::image(&image.name);
    reference::replace(transaction, namespace, &node, &[target], &image.labels)?;
    Ok(())
}

fn find(connection: &Connection, namespace: &Namespace, name: &str) -> Result<Image, RecordError> {
    lookup(connection, namespace, name)?
        .ok_or_else(|| RecordError::NotFound { what: WHAT, id: name.to_owned() })
}

fn lookup(
    connection: &Connection,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<Image>, RecordError> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM images WHERE namespace = ?1 AND name = ?2"
        ))?
        .query_row((namespace.as_str(), name), |row| Ok(read(row)))
        .optional()?;
    Ok(found.transpose()?)
}

fn read(row: &Row<'_>) -> Result<Image, MetadataError> {
    let digest = Digest::parse(row.get::<_, String>(3)?)
        .map_err(|cause| MetadataError::Damaged { what: "digest", cause: cause.into() })?;
    Ok(Image {
        name: row.get(0)?,
        labels: label_column::decode(row.get_ref(1)?.as_str().map_err(damaged)?)?,
        target: Descriptor {
            media_type: row.get(2)?,
            digest,
            size_bytes: row.get::<_, i64>(4)?.unsigned_abs(),
            annotations: label_column::decode(row.get_ref(5)?.as_str().map_err(damaged)?)?,
        },
        created: from_nanos(row.get(6)?),
        updated: from_nanos(row.get(7)?),
    })
}

fn damaged(cause: rusqlite::types::FromSqlError) -> MetadataError {
    MetadataError::Damaged { what: "image", cause: cause.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_sdk::Kind;

    fn open() -> (tempfile::TempDir, Bus, Images, Namespace) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        let bus = Bus::new();
        (folder, bus.clone(), Images::new(database, bus), Namespace::new("a").unwrap())
    }

    fn image(name: &str, content: &[u8]) -> Image {
        let target = Descriptor {
            media_type: "m".into(),
            digest: Digest::of(content),
            size_bytes: content.len() as u64,
            annotations: Labels::from([("k".into(), "v".into())]),
        };
        Image::new(name, Labels::from([("l".into(), "1".into())]), target)
    }

    #[tokio::test]
    async fn what_is_created_is_found_listed_and_told() {
        let (_folder, bus, images, namespace) = open();
        let mut events = bus.subscribe(|_| true);
        let made = images.create(&namespace, image("x:1", b"one")).await.unwrap();
        let found = images.get(&namespace, "x:1").await.unwrap();
        assert_eq!((&found.labels, &found.target), (&made.labels, &made.target));
        let taken = images.create(&namespace, image("x:1", b"two")).await.unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
        let by_digest = format!("target.digest~=^{}.*$", &made.target.digest.as_str()[..20]);
        for (filter, count) in
            [(by_digest, 1), ("labels.l==1".to_owned(), 1), ("name==y".to_owned(), 0)]
        {
            let found = images.list(&namespace, std::slice::from_ref(&filter)).await.unwrap();
            assert_eq!(found.len(), count, "{filter}");
        }
        let other = Namespace::new("b").unwrap();
        assert_eq!(images.get(&other, "x:1").await.unwrap_err().kind(), Kind::NotFound);
        images.delete(&namespace, "x:1", None).await.unwrap();
        bus.close();
        let mut topics = Vec::new();
        while let Some(event) = events.next().await {
            topics.push(event.topic().to_owned());
        }
        assert_eq!(topics, ["/images/create", "/images/delete"]);
    }

    #[tokio::test]
    async fn an_update_touches_what_its_mask_names() {
        let (_folder, _, images, namespace) = open();
        images.create(&namespace, image("x:1", b"one")).await.unwrap();
        let mut change = image("x:1", b"two");
        change.labels = Labels::from([("new".into(), "2".into())]);
        let updated =
            images.update(&namespace, change.clone(), vec!["labels.new".into()]).await.unwrap();
        assert_eq!(updated.labels.len(), 2);
        assert_eq!(updated.target.digest, Digest::of(b"one"));
        let updated =
            images.update(&namespace, change.clone(), vec!["target".into()]).await.unwrap();
        assert_eq!((updated.labels.len(), updated.target.digest), (2, Digest::of(b"two")));
        let updated = images.update(&namespace, change.clone(), Vec::new()).await.unwrap();
        assert_eq!(updated.labels, change.labels);
        let refused = images.update(&namespace, change, vec!["name".into()]).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
    }

    #[tokio::test]
    async fn a_deletion_that_names_a_target_spares_another() {
        let (_folder, _, images, namespace) = open();
        images.create(&namespace, image("x:1", b"one")).await.unwrap();
        let other = images.delete(&namespace, "x:1", Some(Digest::of(b"two"))).await;
        assert_eq!(other.unwrap_err().kind(), Kind::NotFound);
        images.delete(&namespace, "x:1", Some(Digest::of(b"one"))).await.unwrap();
    }

    #[tokio::test]
    async fn several_are_put_together_or_not_at_all() {
        let (_folder, _, images, namespace) = open();
        let good = image("x:1", b"one");
        images.put(&namespace, vec![good.clone(), image("", b"two")]).await.unwrap_err();
        assert!(images.list(&namespace, &[]).await.unwrap().is_empty());
        images.put(&namespace, vec![good.clone(), image("x:2", b"two")]).await.unwrap();
        images.put(&namespace, vec![image("x:1", b"three")]).await.unwrap();
        let found = images.list(&namespace, &[]).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].target.digest, Digest::of(b"three"));
    }
}
