//! Reads the reason of a failed call from the log of a command-line runtime.
//!
//! Promise: only this module searches in a runtime's messages. It returns an error kind and a text.
//! Each call has its own log file, so that the error of an earlier call is never reported again.
//!
//! runc and crun write one JSON object per line with `--log-format json`; the message of the last
//! line of level `error`, `fatal` or `panic` is the reason. A runtime that fails before it opens its
//! log writes to stderr only.
//!
//! # The texts that are searched for
//!
//! A runtime has no error codes, so its texts decide. What has no match is UNKNOWN.
//!
//! | Text | Written by | Operation | Becomes |
//! |---|---|---|---|
//! | `container with given ID already exists`, also `id` | runc | create, restore | ALREADY_EXISTS |
//! | "container `ID` already exists" | crun | create, restore | ALREADY_EXISTS |
//! | `container does not exist` | runc | every | NOT_FOUND |
//! | `does not exist` | crun | all but create, restore, exec | NOT_FOUND |
//! | `process already finished`, `no such process`, `container not running` | runc | all but create, restore, exec | NOT_FOUND |
//! | `does not exist`, or `No such file or directory` with the state directory's path | runc, crun | delete | success |
//!
//! In a create, restore or exec, `does not exist` means a file of the container, for example its
//! working directory.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shim_sdk::Kind;
use shim_sdk::file::open_regular;

use crate::error::Operation;

/// The length of the log's end that is read, so that a long log does not use up memory.
const TAIL_BYTES: u64 = 64 * 1024;
/// The longest message that is reported.
const MESSAGE_BYTES: usize = 8 * 1024;

/// The log file of one call; it is removed when the value is dropped.
#[derive(Debug)]
pub(super) struct CallLog {
    path: PathBuf,
}

impl CallLog {
    /// A log at `path`. A log that an earlier call left there is removed.
    pub(super) fn new(path: PathBuf) -> Self {
        let log = Self { path };
        log.remove();
        log
    }

    /// The value for the option `--log`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The reason for a failure: from the log, else from stderr, else from the exit status.
    pub(super) fn reason(&self, stderr: &[u8], status: u32) -> String {
        if let Ok(tail) = tail(&self.path)
            && let Some(reason) = last_error(&tail)
        {
            return shorten(&reason);
        }
        let raw = String::from_utf8_lossy(stderr);
        match raw.trim() {
            "" if status > 128 => format!("killed by signal {}", status - 128),
            "" => format!("exit status {status}"),
            raw => shorten(raw),
        }
    }

    fn remove(&self) {
        if let Err(cause) = std::fs::remove_file(&self.path)
            && cause.kind() != io::ErrorKind::NotFound
        {
            // Harmless: the file is removed with the bundle.
            log::debug!("remove {}: {cause}", self.path.display());
        }
    }
}

impl Drop for CallLog {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The error kind for a reason; the module's documentation has the table.
pub(super) fn kind(operation: Operation, reason: &str) -> Kind {
    let gone = ["process already finished", "no such process", "container not running"];
    let missing = ["container does not exist", "does not exist"];
    match operation {
        Operation::Create | Operation::Restore
            if reason.contains("container with given ID already exists")
                || reason.contains("container with given id already exists")
                || (reason.starts_with("container `") && reason.ends_with("already exists")) =>
        {
            Kind::AlreadyExists
        }
        Operation::Create | Operation::Restore | Operation::Exec
            if !reason.contains("container does not exist") =>
        {
            Kind::Unknown
        }
        _ if gone.iter().chain(&missing).any(|text| reason.contains(text)) => Kind::NotFound,
        _ => Kind::Unknown,
    }
}

/// Whether a reason means that the container does not exist. `record` is its state directory: crun
/// says only that it cannot open that.
pub(super) fn is_missing_container(reason: &str, record: &Path) -> bool {
    reason.contains("does not exist")
        || (reason.contains("No such file or directory")
            && reason.contains(&format!("'{}'", record.display())))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The message of the last line of level `error`, `fatal` or `panic`.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct LogLine {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    log.lines().rev().find_map(|line| {
        let line: LogLine = serde_json::from_str(line).ok()?;
        let text = line.msg.trim();
        (matches!(line.level.as_str(), "error" | "fatal" | "panic") && !text.is_empty())
            .then(|| text.to_owned())
    })
}

fn shorten(text: &str) -> String {
    if text.len() <= MESSAGE_BYTES {
        return text.to_owned();
    }
    let mut start = text.len() - MESSAGE_BYTES;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("…{}", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> (tempfile::TempDir, CallLog) {
        let folder = tempfile::tempdir().unwrap();
        let log = CallLog::new(folder.path().join("log.json"));
        std::fs::write(log.path(), text).unwrap();
        (folder, log)
    }

    #[test]
    fn the_last_error_line_is_the_reason() {
        let (_folder, log) = log(concat!(
            r#"{"level":"error","msg":"first","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"runc create failed: exec: \"x\": not found","time":"t"}"#,
            "\n",
            r#"{"level":"warning","msg":"later","time":"t"}"#,
            "\nnot json\n",
        ));
        assert_eq!(log.reason(b"ignored", 1), "runc create failed: exec: \"x\": not found");
    }

    #[test]
    fn stderr_is_the_reason_where_the_log_has_none() {
        let (_folder, log) = log("garbage\n{\"level\":\"info\",\"msg\":\"fine\"}\n");
        assert_eq!(log.reason(b"No help topic for 'x'\n", 3), "No help topic for 'x'");
        assert_eq!(log.reason(b"", 3), "exit status 3");
        assert_eq!(log.reason(b"", 137), "killed by signal 9");
    }

    #[test]
    fn a_log_of_an_earlier_call_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        std::fs::write(&path, r#"{"level":"error","msg":"stale"}"#).unwrap();
        let log = CallLog::new(path.clone());
        assert_eq!(log.reason(b"", 1), "exit status 1");
        std::fs::write(&path, "x").unwrap();
        drop(log);
        assert!(!path.exists());
    }

    #[test]
    fn a_flooded_log_is_read_from_its_end() {
        let mut text = "x".repeat(3 * 1024 * 1024);
        text.push_str("\n{\"level\":\"error\",\"msg\":\"the reason\"}\n");
        let (_folder, log) = log(&text);
        assert_eq!(log.reason(b"", 1), "the reason");
        assert!(shorten(&"ä".repeat(20_000)).len() < MESSAGE_BYTES + 8);
    }

    #[test]
    fn gone_processes_and_containers_are_not_found() {
        for reason in [
            "os: process already finished",
            "container not running",
            "kill 1: no such process",
            "container does not exist",
            "container \"x\" does not exist",
            "container `x` does not exist: No such file or directory",
        ] {
            assert_eq!(kind(Operation::Signal, reason), Kind::NotFound, "{reason}");
        }
        let record = Path::new("/r/ns/c1");
        assert!(is_missing_container("container does not exist", record));
        let crun = "cannot open directory '/r/ns/c1': No such file or directory";
        assert!(is_missing_container(crun, record));
        assert!(!is_missing_container(crun, Path::new("/r/ns/c2")));
        assert_eq!(kind(Operation::Create, "cwd does not exist"), Kind::Unknown);
        assert_eq!(kind(Operation::Delete, "cgroup busy"), Kind::Unknown);
        let taken = "container with given ID already exists";
        assert_eq!(kind(Operation::Create, taken), Kind::AlreadyExists);
    }

    /// Parts of the log are written by the container.
    #[test]
    fn a_fuzzed_log_gives_a_short_reason() {
        let words =
            &["{\"level\":\"error\",\"msg\":\"", "\"}\n", "\\ud83d", "does not exist", "\u{2026}"];
        ::fuzz::Target::new("runtime-log").words(words).run(|bytes| {
            let folder = tempfile::tempdir().unwrap();
            let log = CallLog::new(folder.path().join("log"));
            std::fs::write(log.path(), bytes).unwrap();
            for reason in [log.reason(bytes, 1), log.reason(b"", 137)] {
                assert!(!reason.is_empty() && reason.len() <= MESSAGE_BYTES + 3);
                let _ = kind(Operation::Create, &reason);
            }
        });
    }
}
