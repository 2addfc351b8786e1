//! Whether the database that is found in a root is the one that belongs to it.
//!
//! Promise: a database is served, and the stores are compared with it, only when it is whole, of a
//! schema that is known, of this root, and not older than the one that was served last. Any other
//! is left as it is, and what was found is the answer ([`Unusable`]).

use std::fmt;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::connection::connect;
use super::mark::{Found, Mark};
use super::reserve::{Reserve, is_full};
use super::schema::{STEPS, TABLES};
use super::upgrade::upgrade;
use super::{Database, MetadataError, copy};

/// How long the check of a database's pages may take after an orderly exit, and after any other.
/// A database that takes longer is checked as far as that.
const CHECK_CLEAN: Duration = Duration::from_millis(250);
pub(super) const CHECK: Duration = Duration::from_secs(5);

/// What a database file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why a root's database is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is missing or empty, and the stores are not.
    Lost { blobs: usize, snapshots: usize },
    /// A later release wrote it.
    Newer { found: i64, known: i64 },
    /// It is from before it was served last.
    Older { reason: String },
    /// It is another root's.
    Foreign { found: String, root: String },
    /// It cannot be read as what it should be.
    Damaged { reason: String },
}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { blobs, snapshots } => write!(
                formatter,
                "it is missing or empty, but there are {blobs} blobs and {snapshots} snapshots"
            ),
            Self::Newer { found, known } => write!(
                formatter,
                "a later release wrote it (schema {found}; this release knows {known})"
            ),
            Self::Older { reason } => {
                write!(formatter, "it is older than the one that was served last: {reason}")
            }
            Self::Foreign { found, root } => {
                write!(formatter, "it belongs to root {found}, and this is root {root}")
            }
            Self::Damaged { reason } => write!(formatter, "it is damaged: {reason}"),
        }
    }
}

impl Unusable {
    /// How to go on.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "install that release, or a later one, again",
            _ => {
                "`supervisor check` tells what is there, `supervisor check --repair` rebuilds the \
                 database from its kept copy and from what is stored"
            }
        }
    }
}

/// Where the parts of a root directory are that have to do with its database.
#[derive(Debug, Clone)]
pub(crate) struct RootFiles {
    /// The root directory.
    pub(crate) root: PathBuf,
}

impl RootFiles {
    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("metadata.db")
    }

    /// The kept copy of the database.
    pub(crate) fn copy(&self) -> PathBuf {
        self.root.join("metadata.copy.db")
    }

    /// A rebuilt database on its way to the database's place.
    pub(crate) fn rebuilt(&self) -> PathBuf {
        self.root.join("metadata.rebuilt.db")
    }

    /// The directory of snapshots' directories.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The directory of blobs.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("content/blobs/sha256")
    }

    /// The directory of ingests.
    pub(super) fn ingests(&self) -> PathBuf {
        self.root.join("content/ingests")
    }
}

/// A root's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootId {
    /// As it was written down when the root was first served.
    Known(String),
    /// Nothing says it; this one was made up.
    New(String),
}

impl RootId {
    /// The id.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Known(id) | Self::New(id) => id,
        }
    }
}

/// The id that the mark of a root says, if it says one.
pub(crate) fn marked_id(root: &Path) -> Option<String> {
    match Mark::read(root) {
        Ok(Found::Mark(mark)) => Some(mark.root),
        _ => None,
    }
}

/// Opens the database of the root whose id is `id`, or says why it is not used. The id that the
/// database gives the root is part of the answer.
pub(crate) fn verify_and_open(
    files: &RootFiles,
    id: &RootId,
) -> Result<Result<(Database, String), Unusable>, MetadataError> {
    let unreadable = |cause| MetadataError::Mark { root: files.root.clone(), cause };
    let mark = match Mark::read(&files.root).map_err(unreadable)? {
        Found::Absent => None,
        Found::Mark(mark) => Some(mark),
        Found::Newer(found) => return Ok(Err(Unusable::Newer { found: found.into(), known: 1 })),
        Found::Unreadable(reason) => {
            let reason = format!("metadata.mark beside it cannot be read: {reason}");
            return Ok(Err(Unusable::Damaged { reason }));
        }
    };
    let path = files.database();
    if fs::metadata(&path).map_or(0, |metadata| metadata.len()) == 0 {
        let (blobs, snapshots) = (entries(&files.blobs()), entries(&files.snapshots()));
        if blobs + snapshots + entries(&files.ingests()) > 0 {
            return Ok(Err(Unusable::Lost { blobs, snapshots }));
        }
        if mark.is_some() {
            log::warn!("{} is lost; nothing is stored, so a new one is made", path.display());
        }
        // The log of a database that is gone would be taken for the new one's.
        forget_log(&path);
        private(&path)?;
    } else if let Some(unusable) = header(&path) {
        return Ok(Err(unusable));
    }
    let inspected = match inspect(files, id, mark.as_ref()) {
        Err(error) if is_full(&error) && Reserve::of(&path).release() => {
            inspect(files, id, mark.as_ref())
        }
        other => other,
    };
    match inspected {
        Ok(Ok((id, generation))) => {
            let database = Database::open(&path)?;
            begin(&database, files, &id, generation)?;
            Ok(Ok((database, id)))
        }
        Ok(Err(unusable)) => Ok(Err(unusable)),
        Err(error) if is_full(&error) => Err(error),
        Err(error) => Ok(Err(Unusable::Damaged { reason: shim_sdk::error::report(&error) })),
    }
}

/// Writes down that the database of `files` is in order and not in use, and keeps a copy of it.
/// For the daemon's orderly exit. Blocks.
pub(crate) fn leave(database: &Database, files: &RootFiles, id: &str) {
    let left = || -> Result<(), MetadataError> {
        let generation = raise(database, id)?;
        database.keep_copy(&files.copy(), true);
        // The database's file is whole by itself then.
        database.checkpoint()?;
        Mark::new(id, generation, true)
            .write(&files.root)
            .map_err(|cause| MetadataError::Mark { root: files.root.clone(), cause })
    };
    if let Err(error) = left() {
        // The next start takes it for an exit that was not in order, and looks closer.
        log::warn!("mark the database as left in order: {}", shim_sdk::error::report(&error));
    }
}

/// Begins a new generation, which an older copy does not have.
fn begin(
    database: &Database,
    files: &RootFiles,
    id: &str,
    generation: i64,
) -> Result<(), MetadataError> {
    let raised = raise(database, id);
    let generation = match &raised {
        Ok(generation) => *generation,
        // The daemon serves what it can. The generation stays as it was.
        Err(error) if is_full(error) => generation,
        Err(_) => return raised.map(drop),
    };
    if let Err(cause) = Mark::new(id, generation, false).write(&files.root) {
        let error = MetadataError::Mark { root: files.root.clone(), cause };
        if !is_full(&error) {
            return Err(error);
        }
    }
    Ok(())
}

/// Raises the generation; the new one is the answer. It is a removal as far as a full file system
/// is concerned: what makes room comes after it.
fn raise(database: &Database, id: &str) -> Result<i64, MetadataError> {
    let id = id.to_owned();
    database.remove_blocking(move |transaction| {
        transaction.execute(
            "INSERT INTO identity (one, root, generation) VALUES (1, ?1, 1) \
             ON CONFLICT (one) DO UPDATE SET root = ?1, generation = generation + 1",
            [&id],
        )?;
        Ok(transaction
            .query_row("SELECT generation FROM identity WHERE one = 1", [], |row| row.get(0))?)
    })
}

/// Looks at a database without changing it, but for the steps to the present schema; the root it
/// belongs to and its generation are the answer.
fn inspect(
    files: &RootFiles,
    id: &RootId,
    mark: Option<&Mark>,
) -> Result<Result<(String, i64), Unusable>, MetadataError> {
    let path = files.database();
    let mut connection = connect(&path, OpenFlags::default())?;
    // A database that is left alone keeps its log as it is, too.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Ok(Err(Unusable::Newer { found, known }));
    }
    let limit = if mark.is_some_and(|mark| mark.clean) { CHECK_CLEAN } else { CHECK };
    if let Some(reason) = pages(&connection, limit)? {
        return Ok(Err(Unusable::Damaged { reason }));
    }
    let (blobs, snapshots) = (entries(&files.blobs()), entries(&files.snapshots()));
    if found == 0 {
        if blobs + snapshots > 0 {
            return Ok(Err(Unusable::Lost { blobs, snapshots }));
        }
    } else if let Some(table) = missing_table(&connection, found)? {
        let reason = format!("it has no table {table}");
        return Ok(Err(Unusable::Damaged { reason }));
    }
    if found > 0 && found < known {
        if let Some(mark) = mark {
            let reason = format!("it has schema {found}, the last had {known}");
            return Ok(Err(Unusable::Older { reason: format!("{reason} ({})", mark.root) }));
        }
        let records: i64 = connection.query_row(
            "SELECT (SELECT count(*) FROM blobs) + (SELECT count(*) FROM snapshots)",
            [],
            |row| row.get(0),
        )?;
        if records == 0 && blobs + snapshots > 0 {
            return Ok(Err(Unusable::Lost { blobs, snapshots }));
        }
        let before = files.root.join(format!("metadata.schema-{found}.db"));
        match copy::keep(&path, &before) {
            Ok(()) => log::info!("{} is the database as schema {found}", before.display()),
            Err(error) if is_full(&error) => log::warn!("{}", shim_sdk::error::report(&error)),
            Err(error) => return Err(error),
        }
    }
    upgrade(&mut connection)?;
    let identity: Option<(String, i64)> = connection
        .query_row("SELECT root, generation FROM identity WHERE one = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((root, generation)) = identity else {
        // Just made, or just brought here from schema 1.
        return Ok(numbers(&connection, files)?.map_or(Ok((id.as_str().to_owned(), 0)), Err));
    };
    if let RootId::Known(id) = id
        && root != *id
    {
        return Ok(Err(Unusable::Foreign { found: root, root: id.clone() }));
    }
    if let Some(mark) = mark.filter(|mark| generation < mark.generation) {
        let reason = format!("its generation is {generation}, the last was {}", mark.generation);
        return Ok(Err(Unusable::Older { reason }));
    }
    Ok(numbers(&connection, files)?.map_or(Ok((root, generation)), Err))
}

/// What a database file's first bytes say against it.
pub(super) fn header(path: &Path) -> Option<Unusable> {
    use std::io::Read as _;
    let mut bytes = [0; 100];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    let damaged = |reason: String| Some(Unusable::Damaged { reason });
    if let Err(error) = read {
        return damaged(format!("read its header: {error}"));
    }
    if &bytes[..16] != MAGIC {
        return damaged("it does not begin as a database does".to_owned());
    }
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let found = i64::from(u32::from_be_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]));
    (found > known).then_some(Unusable::Newer { found, known })
}

/// What is wrong with the database's pages, as far as can be seen within `limit`.
pub(crate) fn pages(
    connection: &Connection,
    limit: Duration,
) -> Result<Option<String>, MetadataError> {
    let handle = connection.get_interrupt_handle();
    let (done, waited) = channel::<()>();
    let timer = thread::spawn(move || {
        if waited.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            handle.interrupt();
        }
    });
    let checked = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    drop(done);
    let _ = timer.join();
    match checked {
        Ok(text) if text == "ok" => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => {
                log::info!("the check of the database was ended after {limit:?}");
                Ok(None)
            }
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Ok(Some(error.to_string()))
            }
            _ => Err(error.into()),
        },
    }
}

/// The first table of schema `version` that is not there.
pub(super) fn missing_table(
    connection: &Connection,
    version: i64,
) -> Result<Option<&'static str>, MetadataError> {
    for (since, table) in TABLES {
        let there = connection
            .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
            .exists([table])?;
        if !there && *since <= version {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Compares the highest number that a snapshot's directory or an ingest's file bears with the last
/// number that the database gave. One above it is a snapshot or an ingest whose record never became
/// durable. More than one above means that the database is older than the directories.
fn numbers(connection: &Connection, files: &RootFiles) -> Result<Option<Unusable>, MetadataError> {
    for (table, folder) in [("snapshots", files.snapshots()), ("ingests", files.ingests())] {
        let Some(highest) = highest(&folder) else { continue };
        let last: Option<i64> = connection
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table], |row| row.get(0))
            .optional()?;
        if highest > last.unwrap_or(0) + 1 {
            let reason = format!(
                "{} is there, and the database gave no number above {}",
                folder.join(highest.to_string()).display(),
                last.unwrap_or(0)
            );
            return Ok(Some(Unusable::Older { reason }));
        }
    }
    Ok(None)
}

/// The highest number that names a snapshot's directory or an ingest's file in `folder`.
pub(super) fn highest(folder: &Path) -> Option<i64> {
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let number: i64 = name.to_str()?.parse().ok()?;
        let is_ours = number.to_string().as_str() == name
            && (entry.path().join("fs").is_dir() || entry.path().is_file());
        is_ours.then_some(number)
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(number).max()
}

/// How many entries `folder` has; none if it is not there.
fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Makes a file that only root can read; SQLite gives the log the same mode.
fn private(path: &Path) -> Result<(), MetadataError> {
    let made = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let folder = || path.parent().unwrap_or(path).to_owned();
    made.map(drop).map_err(|cause| MetadataError::Folder { path: folder(), cause })
}

/// Removes the log and the shared memory file of a database that is not there.
pub(crate) fn forget_log(database: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        // A file that is not there needs no removal; one that stays makes the opening fail, which is
        // told.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rebuilt::{adopt, install, usable};
    use super::*;

    /// A root with a blob and, if `recorded`, a database of schema 1 that knows it.
    fn first_release(recorded: bool) -> (tempfile::TempDir, RootFiles) {
        let root = tempfile::tempdir().unwrap();
        let files = RootFiles { root: root.path().to_owned() };
        fs::create_dir_all(files.blobs()).unwrap();
        fs::write(files.blobs().join("a".repeat(64)), "bytes").unwrap();
        let connection = connect(&files.database(), OpenFlags::default()).unwrap();
        connection.execute_batch(STEPS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        if recorded {
            connection
                .execute_batch(
                    "INSERT INTO namespaces (name) VALUES ('a'); \
                     INSERT INTO blobs VALUES ('a', 'sha256:x', 5, '{}', 0, 0)",
                )
                .unwrap();
        }
        (root, files)
    }

    fn id() -> RootId {
        RootId::Known("this".to_owned())
    }

    #[test]
    fn a_database_of_the_first_release_is_copied_and_brought_to_the_present_schema() {
        let (root, files) = first_release(true);
        let (database, owner) = verify_and_open(&files, &id()).unwrap().unwrap();
        assert_eq!(owner, "this");
        assert!(root.path().join("metadata.schema-1.db").exists());
        leave(&database, &files, "this");
        assert!(usable(&files.copy(), &id()).is_some());
        drop(database);
        assert!(
            verify_and_open(&files, &id()).unwrap().is_ok(),
            "and is the root's own from then on"
        );
    }

    #[test]
    fn a_database_of_the_first_release_that_is_not_this_roots_last_is_left_alone() {
        let (_root, files) = first_release(false);
        let unusable = verify_and_open(&files, &id()).unwrap().err().unwrap();
        assert_eq!(unusable, Unusable::Lost { blobs: 1, snapshots: 0 });
        let (_root, files) = first_release(true);
        Mark::new("this", 7, true).write(&files.root).unwrap();
        let unusable = verify_and_open(&files, &id()).unwrap().err().unwrap();
        assert!(matches!(unusable, Unusable::Older { .. }), "{unusable}");
    }

    #[test]
    fn a_database_is_in_doubt_without_its_tables_or_when_a_snapshot_is_newer_than_it() {
        let (_root, files) = first_release(true);
        drop(verify_and_open(&files, &id()).unwrap().unwrap());
        let connection = connect(&files.database(), OpenFlags::default()).unwrap();
        fs::create_dir_all(files.snapshots().join("1/fs")).unwrap();
        assert!(verify_and_open(&files, &id()).unwrap().is_ok(), "one number further is a crash");
        fs::create_dir_all(files.snapshots().join("2/fs")).unwrap();
        let unusable = verify_and_open(&files, &id()).unwrap().err().unwrap();
        assert!(matches!(unusable, Unusable::Older { .. }), "{unusable}");
        fs::remove_dir_all(files.snapshots().join("2")).unwrap();
        connection.execute_batch("DROP TABLE leases").unwrap();
        let unusable = verify_and_open(&files, &id()).unwrap().err().unwrap();
        assert!(matches!(unusable, Unusable::Damaged { .. }), "{unusable}");
    }

    #[test]
    fn a_full_file_system_keeps_its_database_when_a_rebuilt_one_has_no_room() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let (elsewhere, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = RootFiles { root: place.path().to_owned() };
        let options = Some("size=8m");
        mount(Some("tmpfs"), &files.root, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        let (database, _) = verify_and_open(&files, &id()).unwrap().unwrap();
        leave(&database, &files, "this");
        drop(database);
        let before = fs::read(files.database()).unwrap();
        let rebuilt = Database::open(elsewhere.path().join("rebuilt.db")).unwrap();
        adopt(&rebuilt, &files, "this").unwrap();
        drop(fs::write(files.root.join("all"), vec![1; 9 << 20]));
        let refused = install(&rebuilt, &files, "this");
        let kept = fs::read(files.database());
        fs::remove_file(files.root.join("all")).unwrap();
        let again = install(&rebuilt, &files, "this");
        let opened = verify_and_open(&files, &id()).map(|opened| opened.map(drop));
        umount2(&files.root, MntFlags::MNT_DETACH).unwrap();
        assert!(is_full(&refused.unwrap_err()));
        assert!(kept.unwrap() == before, "the one that there was is still there");
        again.unwrap();
        assert!(opened.unwrap().is_ok());
    }

    #[test]
    fn a_copy_that_was_kept_meanwhile_is_older_and_the_last_one_is_not() {
        let (_root, files) = first_release(true);
        let (database, _) = verify_and_open(&files, &id()).unwrap().unwrap();
        let as_the_database = || {
            forget_log(&files.database());
            fs::copy(files.copy(), files.database()).unwrap();
            verify_and_open(&files, &id()).unwrap()
        };
        database.keep_copy(&files.copy(), false);
        drop(database);
        assert!(usable(&files.copy(), &id()).is_some());
        // Served, it would have what came after it swept.
        let unusable = as_the_database().err().unwrap();
        assert!(matches!(unusable, Unusable::Older { .. }), "{unusable}");
        let (_root, files) = first_release(true);
        let (database, _) = verify_and_open(&files, &id()).unwrap().unwrap();
        leave(&database, &files, "this");
        drop(database);
        forget_log(&files.database());
        fs::copy(files.copy(), files.database()).unwrap();
        assert!(verify_and_open(&files, &id()).unwrap().is_ok());
    }

    #[test]
    fn a_rebuilt_database_is_this_roots_and_gives_no_number_twice() {
        let (_root, files) = first_release(true);
        drop(verify_and_open(&files, &id()).unwrap().unwrap());
        fs::create_dir_all(files.snapshots().join("40/fs")).unwrap();
        let draft = files.root.join("draft.db");
        let rebuilt = Database::open(&draft).unwrap();
        adopt(&rebuilt, &files, "this").unwrap();
        install(&rebuilt, &files, "this").unwrap();
        let (database, _) = verify_and_open(&files, &id()).unwrap().unwrap();
        let last: i64 = database
            .read_blocking::<_, MetadataError>(|connection| {
                let query = "SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'";
                Ok(connection.query_row(query, [], |row| row.get(0))?)
            })
            .unwrap();
        assert_eq!(last, 40);
    }
}
