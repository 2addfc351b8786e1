//! The daemon's log: a line a record, with its time, on standard error.
//!
//! Promise: a log file of ours and the one before it are bounded, however long the daemon lives: both
//! are in the state directory, which is memory on most hosts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::text::escaped;

/// As much as one record shows.
const RECORD_BYTES: usize = 16 << 10;

/// The log starts anew when it has grown past this.
const LOG_BYTES: u64 = 4 << 20;

/// The file that standard error is, where it is one of ours.
static OWN: OnceLock<LogFile> = OnceLock::new();

/// A log file that is being written.
struct LogFile {
    path: PathBuf,
    written: AtomicU64,
}

impl LogFile {
    fn new(path: &Path) -> Self {
        let written = fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), written: written.into() }
    }

    /// Counts what is about to be written; the file to go on with, when the present one is full.
    fn count(&self, bytes: usize) -> Option<File> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if written <= LOG_BYTES {
            return None;
        }
        // Also where it fails: then it is tried again after as much.
        self.written.store(bytes, Ordering::Relaxed);
        anew(&self.path).ok()
    }
}

/// Opens a log for appending, and begins another when it is large.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        return anew(path);
    }
    appended(path)
}

/// Gives the log its second name, and begins another.
fn anew(path: &Path) -> io::Result<File> {
    match fs::rename(path, path.with_extension("log.1")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => appended(path),
    }
}

fn appended(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Says that standard error is the log at `path`, which a client opened for this daemon.
pub(super) fn own(path: &Path) {
    // Only tests say it twice.
    let _ = OWN.set(LogFile::new(path));
}

/// Begins to log; what is logged is set by `RUST_LOG`, `info` and above when it is not.
pub(crate) fn log_to_stderr() {
    let level = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(level);
    // The journal has a time of its own for each line.
    let timed = std::env::var_os("JOURNAL_STREAM").is_none();
    builder.format(move |line, record| {
        if timed {
            write!(line, "{} ", Utc(SystemTime::now()))?;
        }
        // Names from outside must not forge lines, nor reach the terminal that shows them.
        let text = record.args().to_string();
        let text = escaped(&text, RECORD_BYTES).to_string();
        // The time, the level and the target are about 60 bytes.
        if let Some(next) = OWN.get().and_then(|own| own.count(text.len() + 60)) {
            let _ = nix::unistd::dup2_stderr(&next); // the old one is as good
        }
        writeln!(line, "{:<5} {}: {text}", record.level(), record.target())
    });
    // Only tests begin twice, and the first is as good.
    let _ = builder.try_init();
}

/// A time as RFC 3339 writes it, to the millisecond.
struct Utc(SystemTime);

impl std::fmt::Display for Utc {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let millis = since.subsec_millis();
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// The Gregorian date a number of days after 1970 began.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_goes_on_in_another_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("supervisor.log");
        fs::write(&path, "old").unwrap();
        let log = LogFile::new(&path);
        let record = vec![b'x'; 64 << 10];
        let (mut file, mut largest) = (open(&path).unwrap(), 0);
        for _ in 0..200 {
            if let Some(next) = log.count(record.len()) {
                file = next;
            }
            file.write_all(&record).unwrap();
            let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            largest = largest.max(size(&path) + size(&path.with_extension("log.1")));
        }
        assert!(largest <= 2 * LOG_BYTES, "{largest}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        let at = |seconds| Utc(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }
}
