//! The record of a container on disk, so that no exit is lost when the shim is killed.
//!
//! It is a small versioned file in the bundle. It is written under another name and renamed, before
//! the event that it is about is published. `delete` on the command line, a repeated Delete and a
//! restarted daemon read it.
//!
//! Promise: a reader sees the last complete record. It is not synced to disk: after a crash of the
//! host the processes in it do not exist any more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Bundle, ContainerId, ExecId, Exit, Pid, file};

/// The journal's name in a bundle.
pub const FILE_NAME: &str = "journal.json";

/// The version that this code writes, and the newest that it reads.
pub const VERSION: u32 = 1;

const MAX_BYTES: u64 = 8 << 20;

/// The stage of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The runtime makes it.
    Creating,
    /// Init waits to be started.
    Created,
    /// Init runs.
    Running,
    /// Init has exited.
    Stopped,
    /// The container was deleted.
    Deleted,
}

/// A process in the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its pid, if it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// When the kernel started it, in clock ticks since boot. A later process with the same pid has
    /// another start time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// The journal of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The format's version.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its namespace.
    pub namespace: String,
    /// The shim that wrote this.
    pub shim: Record,
    /// The stage of the container.
    pub stage: Stage,
    /// Its init.
    pub init: Record,
    /// Its execs that are not deleted.
    #[serde(default)]
    pub execs: BTreeMap<ExecId, Record>,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("{attempt} {path}")]
    Io {
        /// "read" or "write".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It cannot be parsed.
    #[error("parse {path}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// It was written by a newer shim.
    #[error("{path} has version {version}; versions to {VERSION} are understood")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl JournalError {
    /// The kind, which decides the status code.
    pub fn kind(&self) -> crate::Kind {
        match self {
            Self::Io { cause, .. } => crate::Kind::from_io(cause),
            Self::Damaged { .. } => crate::Kind::DataLoss,
            Self::TooNew { .. } => crate::Kind::FailedPrecondition,
        }
    }
}

impl Journal {
    /// The first record of a container.
    pub fn new(id: ContainerId, namespace: impl Into<String>, shim: Record) -> Self {
        Self {
            version: VERSION,
            id,
            namespace: namespace.into(),
            shim,
            stage: Stage::Creating,
            init: Record::default(),
            execs: BTreeMap::new(),
        }
    }

    /// Reads a bundle's journal; `None` when the bundle has none.
    pub fn read(bundle: &Bundle) -> Result<Option<Self>, JournalError> {
        let path = bundle.file(FILE_NAME);
        let bytes = match file::read_regular(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(JournalError::Io { attempt: "read", path, cause }),
        };
        // The version is parsed first: a newer format may not parse as this one.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |cause| JournalError::Damaged { path: path.clone(), cause };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(JournalError::TooNew { path, version });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Writes the journal to its bundle atomically.
    pub fn write(&self, bundle: &Bundle) -> Result<(), JournalError> {
        let path = bundle.file(FILE_NAME);
        let beside = bundle.file(concat!(".", "journal.json", ".new"));
        let failed = |cause| JournalError::Io { attempt: "write", path: path.clone(), cause };
        let json = serde_json::to_vec(self).map_err(|cause| failed(cause.into()))?;
        write_private(&beside, &json).and_then(|()| fs::rename(&beside, &path)).map_err(failed)
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bundle = Bundle::new(folder.path());
        (folder, bundle)
    }

    fn journal() -> Journal {
        let id = ContainerId::new("c1").expect("valid");
        let mut journal = Journal::new(id, "default", Record::default());
        journal.init = Record { pid: Pid::new(7), start_time: Some(99), exit: Some(Exit::now(3)) };
        journal.execs.insert(ExecId::new("e1").expect("valid"), Record::default());
        journal
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, bundle) = bundle();
        assert!(Journal::read(&bundle).expect("no file is no error").is_none());
        journal().write(&bundle).expect("writable");
        assert_eq!(Journal::read(&bundle).expect("readable"), Some(journal_as_read(&bundle)));
    }

    fn journal_as_read(bundle: &Bundle) -> Journal {
        let json = fs::read(bundle.file(FILE_NAME)).expect("written");
        serde_json::from_slice(&json).expect("valid")
    }

    #[test]
    fn crash_before_rename_keeps_the_old_record() {
        let (_folder, bundle) = bundle();
        let old = journal();
        old.write(&bundle).expect("writable");
        fs::write(bundle.file(".journal.json.new"), b"{\"version\":1,\"id").expect("writable");
        assert_eq!(Journal::read(&bundle).expect("readable"), Some(old));
    }

    #[test]
    fn a_journal_of_a_newer_shim_is_refused_by_its_version() {
        let (_folder, bundle) = bundle();
        fs::write(bundle.file(FILE_NAME), b"{\"version\":9,\"other\":1}").expect("writable");
        let error = Journal::read(&bundle).expect_err("too new");
        assert!(matches!(error, JournalError::TooNew { version: 9, .. }), "{error}");
    }

    #[test]
    fn a_damaged_journal_is_data_loss() {
        let (_folder, bundle) = bundle();
        fs::write(bundle.file(FILE_NAME), b"{").expect("writable");
        assert_eq!(Journal::read(&bundle).expect_err("damaged").kind(), crate::Kind::DataLoss);
    }
}
