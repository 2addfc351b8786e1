//! Room that a full file system still has for what makes room.
//!
//! A deletion must write before it can free: its record goes first, its files after it, or a crash
//! between the two would leave a record of files that are gone. So two things are allocated while
//! there is room:
//!
//! - the write-ahead log, kept at [`LOG_BYTES`] when it is not in use, so that a transaction
//!   overwrites blocks that it already has;
//! - a file beside the database, `metadata.reserve`. It is removed when a deletion, or the opening
//!   of the database, finds the file system full all the same (the log is in use, the shared
//!   memory file is made anew at each start), and made again once there is room.
//!
//! Another program can take the blocks of the reserve first. Then the deletion fails as before and
//! can be tried again once that program is stopped, for which no block is needed.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The write-ahead log's size on disk: about 500 pages.
const LOG_BYTES: u64 = 2 << 20;
/// The log is emptied into the database once it holds this many pages, well within [`LOG_BYTES`].
pub(super) const LOG_PAGES: i64 = 400;
/// The size of the reserve: the shared memory file takes 32 KiB, the log of a large collection
/// rarely more than the rest.
const RESERVE_BYTES: u64 = 2 << 20;
/// A reserve that is missing is not made more often than this.
const AGAIN: Duration = Duration::from_secs(1);
/// SQLITE_IOERR_SHMSIZE: the shared memory file could not be enlarged.
const SHARED_MEMORY_SIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// Whether `error`, or what caused it, is a file system (or quota) without room.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = error.downcast_ref()
            && (failure.code == rusqlite::ErrorCode::DiskFull
                || failure.extended_code == SHARED_MEMORY_SIZE)
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// When the reserve was last found missing; `None` while it is there.
    missing: Mutex<Option<Instant>>,
}

impl Reserve {
    /// The reserve of the database at `database`, not made yet.
    pub(super) fn of(database: &Path) -> Self {
        Self { path: database.with_extension("reserve"), missing: Mutex::new(None) }
    }

    /// Gives the reserve's blocks back to the file system; `false` when there were none.
    pub(super) fn release(&self) -> bool {
        let released = fs::remove_file(&self.path).is_ok();
        self.set(Some(Instant::now()));
        if released {
            log::warn!(
                "the file system of {} is full: using the reserve to make room",
                self.path.display()
            );
        }
        released
    }

    /// Makes the reserve unless it is there, or there is too little room to take some away.
    pub(super) fn keep(&self) {
        let kept = self.allocate();
        if let Err(error) = &kept {
            log::debug!("allocate {}: {error}", self.path.display());
            // A part of it is of no use.
            let _ = fs::remove_file(&self.path);
        }
        self.set((!matches!(kept, Ok(true))).then(Instant::now));
    }

    /// [`Reserve::keep`] when it has been missing for a moment.
    pub(super) fn keep_again(&self) {
        let since = *self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_some_and(|since| since.elapsed() >= AGAIN) {
            self.keep();
        }
    }

    fn allocate(&self) -> io::Result<bool> {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() >= RESERVE_BYTES) {
            return Ok(true);
        }
        if !has_room(&self.path, 2 * RESERVE_BYTES) {
            return Ok(false);
        }
        allocate(&self.path, RESERVE_BYTES)?;
        Ok(true)
    }

    fn set(&self, missing: Option<Instant>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }
}

/// Enlarges the write-ahead log of `database`, which must be open, to [`LOG_BYTES`]. What is added
/// is zeros, which are no frames of the log.
pub(super) fn enlarge_log(database: &Path) {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let path = PathBuf::from(path);
    let enlarged = || -> io::Result<()> {
        if fs::metadata(&path)?.len() < LOG_BYTES && has_room(&path, 2 * LOG_BYTES) {
            allocate(&path, LOG_BYTES)?;
        }
        Ok(())
    };
    if let Err(error) = enlarged() {
        // It is only needed once the file system is full, and the reserve is there then.
        log::debug!("enlarge {}: {error}", path.display());
    }
}

fn has_room(path: &Path, bytes: u64) -> bool {
    let folder = path.parent().unwrap_or(Path::new("."));
    statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= bytes)
}

/// Allocates the blocks of a file up to `bytes`; what it holds stays.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            use std::os::unix::fs::FileExt as _;
            let zeros = vec![0; 64 << 10];
            let mut at = file.metadata()?.len();
            while at < bytes {
                let count = zeros.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                file.write_all_at(&zeros[..count], at)?;
                at += count as u64;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{MetadataError, RecordError};

    #[test]
    fn a_full_file_system_is_recognized_through_every_layer_of_errors() {
        let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let cause = rusqlite::Error::SqliteFailure(failure, None);
        assert!(is_full(&RecordError::from(MetadataError::Statement(cause))));
        let failure = rusqlite::ffi::Error::new(SHARED_MEMORY_SIZE);
        assert!(is_full(&MetadataError::from(rusqlite::Error::SqliteFailure(failure, None))));
        let cause = io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
        assert!(is_full(&MetadataError::Thread(cause)));
        assert!(!is_full(&MetadataError::Closed));
    }

    #[test]
    fn a_reserve_is_allocated_released_once_and_made_again() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&folder.path().join("metadata.db"));
        reserve.keep();
        let path = folder.path().join("metadata.reserve");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= RESERVE_BYTES);
        assert!(reserve.release());
        assert!(!path.exists() && !reserve.release());
        reserve.keep();
        assert!(path.exists());
    }
}
