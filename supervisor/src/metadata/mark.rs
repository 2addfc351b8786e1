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

/// The file's size. It is always overwritten whole and in place: one write within one block can be
/// neither cut in half nor refused for want of a free block, as a new file beside it could.
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
        let is_new = !path.exists();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        if is_new {
            File::open(root)?.sync_all()?;
        }
        Ok(())
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
    fn a_mark_of_a_later_release_and_one_that_is_none_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        fs::write(path(root.path()), r#"{"version":2,"other":1}"#).unwrap();
        assert_eq!(Mark::read(root.path()).unwrap(), Found::Newer(2));
        fs::write(path(root.path()), "").unwrap();
        assert!(matches!(Mark::read(root.path()).unwrap(), Found::Unreadable(_)));
    }
}
