//! Namespaces as records: the tenants that hold something, or that a client created.
//!
//! A namespace comes into being with its first record and stays until it is deleted, which it
//! can be once it holds nothing. Its labels carry defaults for its clients.

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::metadata::{Database, Labels, Namespace, RecordError, label_column, labels, mask};

const WHAT: &str = "namespace";

/// The record stores that keep a namespace from being deleted, as the refusal names them.
const HOLDERS: &[(&str, &str)] = &[
    ("images", "images"),
    ("containers", "containers"),
    ("blobs", "blobs"),
    ("snapshots", "snapshots"),
];

/// All namespaces.
#[derive(Clone)]
pub(crate) struct Namespaces {
    database: Database,
}

/// A namespace and its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name.
    pub(crate) name: Namespace,
    /// Its labels.
    pub(crate) labels: Labels,
}

/// Makes sure that `namespace` exists, as every record that is created in it does first.
pub(crate) fn ensure(transaction: &Transaction<'_>, namespace: &Namespace) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO namespaces (name) VALUES (?1)")?
        .execute([namespace.as_str()])?;
    Ok(())
}

impl Namespaces {
    /// The namespaces in `database`.
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    /// One namespace.
    pub(crate) async fn get(&self, name: &Namespace) -> Result<Record, RecordError> {
        let name = name.clone();
        self.database.read(move |connection| find(connection, &name)).await
    }

    /// Every namespace, by name.
    pub(crate) async fn list(&self) -> Result<Vec<Record>, RecordError> {
        self.database
            .read(|connection| {
                let mut statement = connection
                    .prepare_cached("SELECT name, labels FROM namespaces ORDER BY name")?;
                let rows = statement.query_map([], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                })?;
                rows.map(|row| {
                    let (name, stored) = row?;
                    let name = Namespace::new(name).map_err(|cause| invalid("", &cause))?;
                    Ok(Record { name, labels: label_column::decode(&stored)? })
                })
                .collect()
            })
            .await
    }

    /// Creates a namespace.
    pub(crate) async fn create(&self, record: Record) -> Result<Record, RecordError> {
        labels::validate(&record.labels)?;
        self.database
            .write(move |transaction| {
                let stored = label_column::encode(&record.labels)?;
                let name = record.name.as_str();
                let made = transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO namespaces (name, labels) VALUES (?1, ?2)",
                    )?
                    .execute((name, stored))?;
                if made == 0 {
                    return Err(RecordError::AlreadyExists { what: WHAT, id: name.to_owned() });
                }
                Ok(record)
            })
            .await
    }

    /// Changes labels: those that `paths` name (`labels` or `labels.KEY`), all when it is empty.
    pub(crate) async fn update(
        &self,
        change: Record,
        paths: Vec<String>,
    ) -> Result<Record, RecordError> {
        self.database
            .write(move |transaction| {
                let mut record = find(transaction, &change.name)?;
                if paths.is_empty() {
                    record.labels = change.labels.clone();
                }
                for path in &paths {
                    match mask::path(path, &["labels"]) {
                        mask::Path::Field("labels") => record.labels = change.labels.clone(),
                        mask::Path::Key(_, key) => {
                            labels::set(&mut record.labels, key, change.labels.get(key));
                        }
                        mask::Path::Field(_) => {
                            return Err(RecordError::Field {
                                what: WHAT,
                                id: change.name.to_string(),
                                field: path.clone(),
                            });
                        }
                    }
                }
                labels::validate(&record.labels)?;
                transaction
                    .prepare_cached("UPDATE namespaces SET labels = ?2 WHERE name = ?1")?
                    .execute((record.name.as_str(), label_column::encode(&record.labels)?))?;
                Ok(record)
            })
            .await
    }

    /// Deletes a namespace that holds nothing (leases and ingests go with it).
    pub(crate) async fn delete(&self, name: &Namespace) -> Result<(), RecordError> {
        let name = name.clone();
        self.database
            .remove(move |transaction| {
                find(transaction, &name)?;
                let mut held = Vec::new();
                for (table, word) in HOLDERS {
                    let query =
                        format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE namespace = ?1)");
                    if transaction.query_row(&query, [name.as_str()], |row| row.get(0))? {
                        held.push(*word);
                    }
                }
                if !held.is_empty() {
                    return Err(RecordError::Refused {
                        what: WHAT,
                        id: name.to_string(),
                        reason: format!("must be empty, but it still has {}", held.join(", ")),
                    });
                }
                for table in ["edges", "leases", "ingests"] {
                    transaction.execute(
                        &format!("DELETE FROM {table} WHERE namespace = ?1"),
                        [name.as_str()],
                    )?;
                }
                transaction.execute("DELETE FROM namespaces WHERE name = ?1", [name.as_str()])?;
                Ok(())
            })
            .await
    }
}

fn find(connection: &Connection, name: &Namespace) -> Result<Record, RecordError> {
    let stored: Option<String> = connection
        .prepare_cached("SELECT labels FROM namespaces WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    match stored {
        Some(stored) => Ok(Record { name: name.clone(), labels: label_column::decode(&stored)? }),
        None => Err(RecordError::NotFound { what: WHAT, id: name.to_string() }),
    }
}

fn invalid(id: &str, cause: &dyn std::error::Error) -> RecordError {
    RecordError::Invalid { what: WHAT, id: id.to_owned(), reason: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Database, Namespaces) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        (folder, database.clone(), Namespaces::new(database))
    }

    fn record(name: &str, pairs: &[(&str, &str)]) -> Record {
        let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Record { name: Namespace::new(name).unwrap(), labels }
    }

    #[tokio::test]
    async fn a_namespace_is_created_once_and_found() {
        let (_folder, _, namespaces) = open();
        let made = record("a", &[("k", "v")]);
        namespaces.create(made.clone()).await.unwrap();
        let again = namespaces.create(made.clone()).await.unwrap_err();
        assert_eq!(again.kind(), shim_sdk::Kind::AlreadyExists);
        assert_eq!(namespaces.get(&made.name).await.unwrap(), made);
        assert_eq!(namespaces.list().await.unwrap(), [made]);
    }

    #[tokio::test]
    async fn an_update_of_one_label_keeps_the_others() {
        let (_folder, _, namespaces) = open();
        namespaces.create(record("a", &[("k", "v"), ("l", "w")])).await.unwrap();
        let change = record("a", &[("k", "new")]);
        let updated = namespaces
            .update(change, vec!["labels.k".into(), "labels.absent".into()])
            .await
            .unwrap();
        assert_eq!(updated, record("a", &[("k", "new"), ("l", "w")]));
        let refused = namespaces.update(record("a", &[]), vec!["name".into()]).await.unwrap_err();
        assert_eq!(refused.kind(), shim_sdk::Kind::InvalidArgument);
    }

    #[tokio::test]
    async fn a_namespace_that_holds_a_snapshot_is_not_deleted() {
        let (_folder, database, namespaces) = open();
        let name = Namespace::new("a").unwrap();
        let inside = name.clone();
        database
            .write::<_, RecordError>(move |transaction| {
                ensure(transaction, &inside)?;
                transaction.execute(
                    "INSERT INTO snapshots (namespace, snapshotter, key, kind, labels, created, updated) \
                     VALUES ('a', 'overlayfs', 'k', 1, '{}', 0, 0)",
                    [],
                )?;
                Ok(())
            })
            .await
            .unwrap();
        let refused = namespaces.delete(&name).await.unwrap_err();
        assert_eq!(refused.kind(), shim_sdk::Kind::FailedPrecondition);
        assert!(refused.to_string().contains("snapshots"), "{refused}");
        database
            .write::<_, RecordError>(|transaction| {
                Ok(transaction.execute("DELETE FROM snapshots", [])?)
            })
            .await
            .unwrap();
        namespaces.delete(&name).await.unwrap();
        assert_eq!(namespaces.get(&name).await.unwrap_err().kind(), shim_sdk::Kind::NotFound);
    }
}
