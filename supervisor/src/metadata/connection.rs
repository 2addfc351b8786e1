//! Connections to a database file, with the settings that every one of ours has.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, FileControl, OpenFlags};

use super::{MetadataError, reserve};

const STATEMENTS_KEPT: usize = 64;
/// No other process writes to the file; only a backup tool could make us wait.
const BUSY: Duration = Duration::from_secs(5);

/// The flags of a connection that only reads.
pub(super) fn read_only() -> OpenFlags {
    // Not SQLITE_OPEN_READ_ONLY: a reader of a WAL file must be able to write its index.
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens a database.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, MetadataError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "wal_autocheckpoint", reserve::LOG_PAGES)?;
        // Marking garbage fills a temporary table, which must not need a block of a full disk.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // The log's blocks stay its own when the last connection closes.
        connection.file_control(None::<&str>, FileControl::PersistWal(&mut 1))?;
        Ok(connection)
    };
    open().map_err(|cause| MetadataError::Open { path: path.to_owned(), cause })
}
