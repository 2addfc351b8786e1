//! The one writer thread and the readers beside it.
//!
//! Writes queue up to one thread that owns the only writing connection, so they never meet a
//! busy database and happen in the order asked. Reads run on blocking threads with connections
//! of their own and, thanks to WAL, neither wait for the writer nor make it wait.
//!
//! Promise: a removal ([`Database::remove`]) that meets a full file system is tried once more with
//! the blocks of the reserve (`reserve`).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, thread};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::connection::{connect, read_only};
use super::reserve::{self, Reserve, is_full};
use super::upgrade::upgrade;
use super::{MetadataError, copy};

/// Idle read connections kept for the next reader.
const READERS_KEPT: usize = 2;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The metadata file, open. Clones share it.
#[derive(Clone)]
pub(crate) struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    reserve: Arc<Reserve>,
    /// Changes since the database was last copied.
    changes: AtomicU64,
}

impl Database {
    /// Opens the file at `path`, making or upgrading it as needed.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, MetadataError> {
        let path = path.as_ref();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .map_err(|cause| MetadataError::Folder { path: folder.to_owned(), cause })?;
        }
        let reserve = Arc::new(Reserve::of(path));
        let open = || -> Result<Connection, MetadataError> {
            let mut connection = connect(path, OpenFlags::default())?;
            upgrade(&mut connection)?;
            Ok(connection)
        };
        let mut connection = match open() {
            Err(error) if is_full(&error) && reserve.release() => open()?,
            other => other?,
        };
        reserve::enlarge_log(path);
        reserve.keep();
        let (writer, jobs) = channel::<Job>();
        let kept = reserve.clone();
        thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || {
                for job in jobs {
                    job(&mut connection);
                    kept.keep_again();
                }
            })
            .map_err(MetadataError::Thread)?;
        let (path, readers, changes) = (path.to_owned(), Mutex::new(Vec::new()), 0.into());
        Ok(Self { shared: Arc::new(Shared { path, writer, readers, reserve, changes }) })
    }

    /// Where the database is.
    pub(super) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Empties the log into the database's file, as far as no reader is in the way. Blocks.
    pub(super) fn checkpoint(&self) -> Result<(), MetadataError> {
        let (answer, answered) = channel();
        self.ask(Box::new(move |connection| {
            let emptied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            drop(answer.send(emptied));
        }))?;
        Ok(answered.recv().map_err(|_| MetadataError::Closed)??)
    }

    /// How many changes were asked for since the last copy.
    pub(crate) fn changes_since_copy(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Copies the database to `to`, replacing what is there; a failure leaves that as it is. The
    /// copy is known to be an earlier one, unless it `is_last`. Blocks.
    pub(crate) fn keep_copy(&self, to: &Path, is_last: bool) {
        let changes = self.shared.changes.swap(0, Ordering::Relaxed);
        let keep = if is_last { copy::keep } else { copy::keep_earlier };
        if let Err(error) = keep(&self.shared.path, to) {
            self.shared.changes.fetch_add(changes, Ordering::Relaxed);
            log::warn!("{}", shim_sdk::error::report(&error));
        }
    }

    /// Runs `change` in one transaction, committed and synced when it returns `Ok` and rolled
    /// back when it returns `Err`.
    ///
    /// # Cancel safety
    ///
    /// A change that was asked for happens, whether its caller still waits or not.
    pub(crate) async fn write<T, E>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetadataError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The asker may have gone; its change stands.
        self.submit(change, move |outcome| drop(answer.send(outcome)))?;
        answered.await.map_err(|_| MetadataError::Closed)?
    }

    /// [`Database::write`] for blocking threads.
    pub(crate) fn write_blocking<T, E>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetadataError> + Send + 'static,
    {
        // Not tokio's channel, whose blocking end may not be used while the runtime is starting.
        let (answer, answered) = channel();
        self.submit(change, move |outcome| drop(answer.send(outcome)))?;
        answered.recv().map_err(|_| MetadataError::Closed)?
    }

    /// [`Database::write`] of something that makes room: where the file system has none, it is
    /// tried once more with the reserve. `change` is run from the start then.
    ///
    /// # Cancel safety
    ///
    /// As [`Database::write`].
    pub(crate) async fn remove<T, E>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Error + From<MetadataError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.submit_removal(change, move |outcome| drop(answer.send(outcome)))?;
        answered.await.map_err(|_| MetadataError::Closed)?
    }

    /// [`Database::remove`] for blocking threads.
    pub(crate) fn remove_blocking<T, E>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Error + From<MetadataError> + Send + 'static,
    {
        let (answer, answered) = channel();
        self.submit_removal(change, move |outcome| drop(answer.send(outcome)))?;
        answered.recv().map_err(|_| MetadataError::Closed)?
    }

    fn submit<T, E>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        answer: impl FnOnce(Result<T, E>) + Send + 'static,
    ) -> Result<(), MetadataError>
    where
        E: From<MetadataError>,
    {
        self.ask(Box::new(move |connection| answer(transact(connection, change))))
    }

    fn submit_removal<T, E>(
        &self,
        mut change: impl FnMut(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        answer: impl FnOnce(Result<T, E>) + Send + 'static,
    ) -> Result<(), MetadataError>
    where
        E: Error + From<MetadataError> + 'static,
    {
        let reserve = self.shared.reserve.clone();
        self.ask(Box::new(move |connection| {
            let mut outcome = transact(connection, &mut change);
            if outcome.as_ref().is_err_and(|error| is_full(error)) && reserve.release() {
                outcome = transact(connection, &mut change);
            }
            answer(outcome);
        }))
    }

    fn ask(&self, job: Job) -> Result<(), MetadataError> {
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
        self.shared.writer.send(job).map_err(|_| MetadataError::Closed)
    }

    /// Runs `look` on a consistent view of the file.
    pub(crate) async fn read<T, E>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetadataError> + Send + 'static,
    {
        let database = self.clone();
        match tokio::task::spawn_blocking(move || database.read_blocking(look)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(MetadataError::Closed.into()),
        }
    }

    /// [`Database::read`] for blocking threads.
    pub(crate) fn read_blocking<T, E>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<MetadataError>,
    {
        let idle = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(&self.shared.path, read_only())?,
        };
        let outcome = {
            let transaction = connection.transaction().map_err(MetadataError::Statement)?;
            look(&transaction)
        };
        let mut readers = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT {
            readers.push(connection);
        }
        outcome
    }
}

fn transact<T, E: From<MetadataError>>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(MetadataError::Statement)?;
    // Dropping the transaction on an error rolls it back.
    let value = change(&transaction)?;
    transaction.commit().map_err(MetadataError::Statement)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection) -> Result<i64, MetadataError> {
        Ok(connection.query_row("SELECT count(*) FROM namespaces", [], |row| row.get(0))?)
    }

    fn insert(transaction: &Transaction<'_>, name: &str) -> Result<(), MetadataError> {
        transaction.execute("INSERT INTO namespaces (name) VALUES (?1)", [name])?;
        Ok(())
    }

    #[tokio::test]
    async fn a_change_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        let refused: Result<(), MetadataError> = database
            .write(|transaction| {
                insert(transaction, "a")?;
                Err(MetadataError::Closed)
            })
            .await;
        assert!(refused.is_err());
        assert_eq!(database.read(count).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_acknowledged_change_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta.db");
        let database = Database::open(&path).unwrap();
        database.write(|transaction| insert(transaction, "a")).await.unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(database.read(count).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_blocking_forms_work_while_a_runtime_starts() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        database.write_blocking(|transaction| insert(transaction, "a")).unwrap();
        assert_eq!(database.read_blocking(count).unwrap(), 1);
    }

    #[tokio::test]
    async fn a_reader_does_not_wait_for_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("meta.db")).unwrap();
        let (release, released) = channel::<()>();
        let busy = database.clone();
        let writing = tokio::spawn(async move {
            busy.write(move |transaction| {
                insert(transaction, "a")?;
                released.recv().map_err(|_| MetadataError::Closed)
            })
            .await
        });
        tokio::task::yield_now().await;
        assert_eq!(database.read(count).await.unwrap(), 0);
        release.send(()).unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(database.read(count).await.unwrap(), 1);
    }
}
