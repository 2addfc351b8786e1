//! The shim's log: lines to the fifo that the daemon reads.
//!
//! Promise: logging never blocks; the fifo is opened with O_NONBLOCK. Bytes that a full fifo does
//! not take are kept, up to a limit. Lines beyond the limit are dropped and counted, and the count
//! is logged when there is room again.
//!
//! The fifo is opened for reading as well, so its content stays while a daemon restarts.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The most bytes that are kept for a daemon that does not read.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// The longest line.
const MAX_LINE_BYTES: usize = 4 << 10;

struct Fifo(Mutex<State>);

struct State {
    fifo: Option<File>,
    kept: VecDeque<u8>,
    dropped: u64,
}

/// Sends this process's log to the fifo. Without a fifo, the log is dropped.
pub(crate) fn install(fifo: Option<File>, debug: bool) {
    let state = State { fifo, kept: VecDeque::new(), dropped: 0 };
    let logger = Box::new(Fifo(Mutex::new(state)));
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

impl Log for Fifo {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of the libraries only warnings and errors are logged.
        metadata.target().starts_with("shim") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(record, SystemTime::now());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line.as_bytes());
        }
    }

    fn flush(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(b"");
    }
}

impl State {
    fn write(&mut self, line: &[u8]) {
        let Some(fifo) = &mut self.fifo else { return };
        if !self.kept.is_empty() {
            self.kept.make_contiguous();
            let written = fifo.write(self.kept.as_slices().0).unwrap_or(0);
            self.kept.drain(..written);
        }
        if self.kept.is_empty() {
            if self.dropped > 0 {
                let note = format!("level=warning msg=\"{} lines of log dropped\"\n", self.dropped);
                if fifo.write(note.as_bytes()).is_ok_and(|written| written == note.len()) {
                    self.dropped = 0;
                }
            }
            let written = fifo.write(line).unwrap_or(0);
            self.kept.extend(&line[written..]);
        } else if self.kept.len() + line.len() <= MAX_KEPT_BYTES {
            self.kept.extend(line);
        } else {
            self.dropped += 1;
        }
    }
}

/// A line in the format of containerd's own log.
fn line(record: &Record<'_>, now: SystemTime) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut message = record.args().to_string();
    if message.len() > MAX_LINE_BYTES {
        let end = (0..=MAX_LINE_BYTES).rev().find(|&at| message.is_char_boundary(at));
        message.truncate(end.unwrap_or(0));
    }
    let mut line = String::with_capacity(message.len() + 64);
    // Writing to a string cannot fail. {:?} quotes and escapes as logfmt needs it.
    let _ = writeln!(line, "time=\"{}\" level={level} msg={message:?}", rfc3339(now));
    line
}

/// A time in UTC, in the format of RFC 3339.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date. Years begin in March here, so that a leap day is the last day of a year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_nanos(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn without_a_reader_lines_are_dropped_and_counted_and_nothing_waits() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).custom_flags(libc::O_NONBLOCK).open(&path)
        };
        let mut state =
            State { fifo: Some(open().expect("open")), kept: VecDeque::new(), dropped: 0 };
        let line = [b'x'; 1000];
        for _ in 0..1000 {
            state.write(&line);
        }
        assert!(state.dropped > 800 && state.kept.len() <= MAX_KEPT_BYTES);
        let mut reader = open().expect("open");
        let mut buffer = vec![0; 1 << 20];
        assert!(reader.read(&mut buffer).expect("what was written") > 60_000);
        for _ in 0..4 {
            state.write(b"after\n");
            let _ = reader.read(&mut buffer);
        }
        assert_eq!(state.dropped, 0, "counted in the log once there was room");
    }
}
