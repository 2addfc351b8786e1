//! `metadata.mark`: what a root's database must be, written down outside of it.
//!
//! The mark and the database hold the root's id and a generation, which rises at each start and at
//! each orderly exit. So a database of another root, and an older copy of this root's own, are told
//! from the one that was served last. The database's generation is written first: it may be ahead
//! of the mark's, never behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file's size. One that is there is always overwritten whole and in place: one write within one
/// block can be neither cut in half nor refused for want of a free block, as a new file beside it
/// could. The first is made beside and renamed: a crash or a full disk leaves it whole or not there.
const BYTES: usize = 256;
/// The newest form of the file that is known here.
const VERSION: u32 = 1;

/// What is known of the database that was served last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    version: u32,
    /// The root's id.
    pub(super) root: String,
    pub(super) generation: i64,
    /// The last daemon ended in order.
    pub(super) clean: bool,
}

/// What is in the mark's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Mark(Mark),
    /// Written by a later release.
    Newer(u32),
    /// It is not a mark.
    Unreadable(String),
}

impl Mark {
    pub(super) fn new(root: impl Into<String>, generation: i64, clean: bool) -> Self {
        Self { version: VERSION, root: root.into(), generation, clean }
    }

    /// The mark of the root directory `root`.
    pub(super) fn read(root: &Path) -> io::Result<Found> {
        let bytes = match fs::read(path(root)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            other => other?,
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        Ok(match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version }) if version > VERSION => Found::Newer(version),
            _ => match serde_json::from_slice(&bytes) {
                Ok(mark) => Found::Mark(mark),
                Err(error) => Found::Unreadable(error.to_string()),
            },
        })
    }

    /// Writes the mark of the root directory `root`, synced.
    pub(super) fn write(&self, root: &Path) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(self)?;
        if bytes.len() >= BYTES {
            return Err(io::Error::other("the root's id is too long"));
        }
        bytes.resize(BYTES - 1, b' ');
        bytes.push(b'\n');
        let path = path(root);
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => {
                let mut file = file?;
                file.write_all(&bytes)?;
                return file.sync_all();
            }
        }
        let new = path.with_extension("mark.new");
        let made = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(root)?.sync_all()
        };
        made().inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

fn path(root: &Path) -> std::path::PathBuf {
    root.join("metadata.mark")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_overwritten_in_place() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(root.path()).unwrap(), Found::Absent);
        for generation in [100_000, 7] {
            let mark = Mark::new("id", generation, false);
            mark.write(root.path()).unwrap();
            assert_eq!(Mark::read(root.path()).unwrap(), Found::Mark(mark));
            assert_eq!(fs::metadata(path(root.path())).unwrap().len(), 256);
        }
    }

    #[test]
    fn the_first_mark_of_a_full_file_system_is_whole_or_not_there() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=16k")).unwrap();
        drop(fs::write(at.join("all"), vec![1; 1 << 20]));
        let written = Mark::new("id", 1, false).write(at);
        let found = Mark::read(at);
        let left = fs::read_dir(at).unwrap().count();
        fs::remove_file(at.join("all")).unwrap();
        let again = Mark::new("id", 1, false).write(at);
        unmount(at, UnmountFlags::DETACH).unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        // A start would take a mark that is empty for one that is damaged, and serve no records.
        assert_eq!((found.unwrap(), left), (Found::Absent, 1));
        again.unwrap();
    }

    #[test]
    fn a_mark_of_a_later_release_and_one_that_is_none_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        fs::write(path(root.path()), r#"{"version":2,"other":1}"#).unwrap();
        assert_eq!(Mark::read(root.path()).unwrap(), Found::Newer(2));
        fs::write(path(root.path()), "").unwrap();
        assert!(matches!(Mark::read(root.path()).unwrap(), Found::Unreadable(_)));
    }
}
