//! The kept copy of a database, for the day on which the database itself is lost or damaged.
//!
//! Promise: what bears the copy's name is a whole database of one moment, synced.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::MetadataError;
use super::connection::{connect, read_only};

/// Copies the database at `database` to `to`, replacing it. Neither writers nor readers wait.
pub(crate) fn keep(database: &Path, to: &Path) -> Result<(), MetadataError> {
    copied(database, to, |_| Ok(()))
}

/// [`keep`] of a database that goes on to change. The copy has the generation before, so that it is
/// told from the database itself: put in its place by hand, it would have what it lacks swept.
pub(super) fn keep_earlier(database: &Path, to: &Path) -> Result<(), MetadataError> {
    copied(database, to, |new| {
        // Not `connect`: a copy has no log beside it.
        let connection = Connection::open(new)?;
        connection.execute("UPDATE identity SET generation = generation - 1", [])?;
        Ok(())
    })
}

/// Copies a database; `change` gets it before it bears its name.
fn copied(
    database: &Path,
    to: &Path,
    change: impl FnOnce(&Path) -> Result<(), MetadataError>,
) -> Result<(), MetadataError> {
    let failed = |cause| MetadataError::Copy { path: to.to_owned(), cause };
    let new = to.with_extension("new");
    // Made beforehand for its mode; SQLite fills a file that is empty.
    let make = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map(drop)
    };
    make().map_err(failed)?;
    let copied = || -> Result<(), MetadataError> {
        let connection = connect(database, read_only())?;
        let name = new.to_str().ok_or_else(|| {
            failed(io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8"))
        })?;
        connection.execute("VACUUM INTO ?1", [name])?;
        change(&new)?;
        // SQLite does not sync what it makes so.
        let named = File::open(&new)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&new, to))
            .and_then(|()| File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all());
        named.map_err(failed)
    };
    copied().inspect_err(|_| drop(fs::remove_file(&new)))
}
