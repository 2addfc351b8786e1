//! A database that takes the place of one that cannot be used: from what it is made, and how it gets there.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{OpenFlags, OptionalExtension};

use super::connection::connect;
use super::mark::{Found, Mark};
use super::schema::STEPS;
use super::verify::{CHECK, RootFiles, RootId, forget_log, header, highest, missing_table, pages};
use super::{Database, MetadataError, copy};

/// The generation of a database of the root whose id is `id`, if it is whole and can be the base of
/// a new one.
pub(crate) fn usable(path: &Path, id: &RootId) -> Option<i64> {
    if fs::metadata(path).map_or(0, |metadata| metadata.len()) == 0 || header(path).is_some() {
        return None;
    }
    let look = || -> Result<Option<i64>, MetadataError> {
        let connection = connect(path, OpenFlags::default())?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found != known
            || missing_table(&connection, found)?.is_some()
            || pages(&connection, CHECK)?.is_some()
        {
            return Ok(None);
        }
        let identity: Option<(String, i64)> = connection
            .query_row("SELECT root, generation FROM identity WHERE one = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        Ok(identity
            .filter(|(root, _)| match id {
                RootId::Known(id) => id == root,
                RootId::New(_) => true,
            })
            .map(|(_, generation)| generation))
    };
    look().unwrap_or_else(|error| {
        log::info!("{} is of no use: {}", path.display(), shim_sdk::error::report(&error));
        None
    })
}

/// Gives a database that is being rebuilt the root's id and a generation above every one before, and
/// has it give no number that already names a directory. Blocks.
pub(crate) fn adopt(database: &Database, files: &RootFiles, id: &str) -> Result<(), MetadataError> {
    let last = match Mark::read(&files.root) {
        Ok(Found::Mark(mark)) => mark.generation,
        _ => 0,
    };
    let numbers =
        [("snapshots", highest(&files.snapshots())), ("ingests", highest(&files.ingests()))];
    let root = id.to_owned();
    database.write_blocking(move |transaction| {
        transaction.execute(
            "INSERT INTO identity (one, root, generation) VALUES (1, ?1, ?2 + 1) \
             ON CONFLICT (one) DO UPDATE SET root = ?1, generation = max(generation, ?2) + 1",
            (&root, last),
        )?;
        for (table, highest) in numbers {
            let changed = transaction.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1",
                (table, highest.unwrap_or(0)),
            )?;
            if changed == 0 {
                transaction.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)",
                    (table, highest.unwrap_or(0)),
                )?;
            }
        }
        Ok::<_, MetadataError>(())
    })
}

/// Puts `rebuilt` in place of the root's database, which is set aside, and writes the mark. Blocks.
pub(crate) fn install(
    rebuilt: &Database,
    files: &RootFiles,
    id: &str,
) -> Result<(), MetadataError> {
    let generation = rebuilt.read_blocking::<i64, MetadataError>(|connection| {
        let query = "SELECT generation FROM identity WHERE one = 1";
        Ok(connection.query_row(query, [], |row| row.get(0))?)
    })?;
    let path = files.database();
    // Copied first, then renamed: the rebuilt database has a write-ahead log, which SQLite finds by the
    // database's name. The copy is whole before the old database goes: a full file system must not
    // leave the root without either.
    let new = files.rebuilt();
    copy::keep(rebuilt.path(), &new)?;
    for suffix in ["", "-wal"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        if fs::symlink_metadata(&name).is_ok() {
            let to = crate::quarantine::moved(&files.root, Path::new(&name))
                .map_err(|cause| MetadataError::Copy { path: name.clone().into(), cause })?;
            log::warn!("{}: it was rebuilt: moved to {}", name.display(), to.display());
        }
    }
    forget_log(&path);
    let put = || -> io::Result<()> {
        fs::rename(&new, &path)?;
        File::open(&files.root)?.sync_all()
    };
    put().map_err(|cause| MetadataError::Copy { path, cause })?;
    forget_log(&new);
    Mark::new(id, generation, false)
        .write(&files.root)
        .map_err(|cause| MetadataError::Mark { root: files.root.clone(), cause })
}
