//! The *report*: a pipe on which clones send their errors, until they execute the user's command.
//!
//! Without it, an error in a clone would reach the caller as an exit status only, and libcontainer logs the
//! causes of its errors to `tracing` only. So each container and each exec has a report. Clones write
//! their failures to it. This module also subscribes to libcontainer's error events, in the helper and in
//! its clones, and writes them to it. The pipe closes when the user's command is executed, which tells
//! the shim that the start succeeded.
//!
//! Promise: a write never blocks and never fails for its caller; a line is written whole or not at all.
//! See pipe(7) on PIPE_BUF.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::wire::{Failure, Reason};

/// The longest line. The kernel writes so many bytes to a pipe at once (PIPE_BUF).
const LINE_BYTES: usize = 4096;

/// The longest text of an event. Its line still fits after quoting.
const EVENT_BYTES: usize = 1024;

/// The longest report that is read. A process with CAP_SYS_PTRACE may write to it without end.
const REPORT_BYTES: usize = 256 * 1024;

/// The greatest number of events that are kept.
const EVENTS: usize = 4;

thread_local! {
    /// The report of this process and of its clones. A clone inherits it with its one thread.
    static REPORT: RefCell<Option<Rc<OwnedFd>>> = const { RefCell::new(None) };
}

/// Both ends of one report, in the helper.
pub(super) struct Report {
    read: OwnedFd,
    write: Rc<OwnedFd>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum ReportLine {
    Failure(Failure),
    Event(String),
}

impl Report {
    /// Makes the pipe. Error events go there until the report is finished.
    pub(super) fn open() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let write = Rc::new(write);
        REPORT.set(Some(Rc::clone(&write)));
        Ok(Self { read, write })
    }

    /// The end that a clone takes into the container.
    pub(super) fn writer(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.write)
    }

    /// Ends the helper's part and drops what was written so far. The returned end has the errors of the
    /// start.
    pub(super) fn hand_over(self) -> OwnedFd {
        let mut nothing_fatal = Findings::default();
        let _ = nothing_fatal.read(&self.read);
        REPORT.set(None);
        self.read
    }

    /// Ends the helper's part. The returned end has everything that was written.
    pub(super) fn pass_on(self) -> OwnedFd {
        REPORT.set(None);
        self.read
    }

    /// Ends the report of a call that failed with `message`. Returns the failure with the report's cause.
    pub(super) fn explain(self, reason: Reason, message: String) -> Failure {
        let mut findings = Findings::default();
        let _ = findings.read(&self.read);
        REPORT.set(None);
        findings.explain(reason, message)
    }
}

/// The lines read from a report.
#[derive(Debug, Default)]
pub(super) struct Findings {
    bytes: usize,
    partial: Vec<u8>,
    failure: Option<Failure>,
    events: Vec<String>,
}

impl Findings {
    /// Reads without waiting. Returns true at the end of the pipe. A report that is too long is an error.
    pub(super) fn read(&mut self, pipe: impl AsFd) -> io::Result<bool> {
        let mut chunk = [0; LINE_BYTES];
        loop {
            match rustix::io::read(pipe.as_fd(), &mut chunk) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    self.bytes += count;
                    if self.bytes > REPORT_BYTES {
                        let why = format!("a report of more than {REPORT_BYTES} bytes");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                    self.add(&chunk[..count]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            match serde_json::from_slice(&self.partial) {
                Ok(ReportLine::Failure(failure)) if self.failure.is_none() => {
                    self.failure = Some(failure)
                }
                Ok(ReportLine::Event(event)) if self.events.len() < EVENTS => {
                    self.events.push(event)
                }
                Ok(_) | Err(_) => {}
            }
            self.partial.clear();
        }
    }

    /// The failure of a start. `None` if it succeeded.
    pub(super) fn start_failure(self) -> Option<Failure> {
        if self.failure.is_none() && self.events.is_empty() {
            return None;
        }
        Some(self.explain(Reason::Library, "unable to start container process".to_owned()))
    }

    /// A failure from a clone is the most exact. Without one, the events are the causes.
    fn explain(self, reason: Reason, message: String) -> Failure {
        if let Some(failure) = self.failure {
            return failure;
        }
        let mut text = message;
        for event in self.events {
            if !text.contains(&event) {
                let _ = write!(text, ": {event}");
            }
        }
        Failure::new(reason, text)
    }
}

/// Writes the failure of a clone.
pub(super) fn tell(report: BorrowedFd<'_>, failure: &Failure) {
    write(report, &ReportLine::Failure(failure.clone()));
}

fn write(report: BorrowedFd<'_>, line: &ReportLine) {
    let Ok(mut bytes) = serde_json::to_vec(line) else { return };
    bytes.push(b'\n');
    if bytes.len() <= LINE_BYTES {
        // Harmless: the reader has gone, or the pipe is full, and there is no other reader.
        let _ = rustix::io::write(report, &bytes);
    }
}

/// Starts listening to libcontainer's error events.
pub(super) fn listen() {
    // Fails only if it was called before; then the subscriber is set already.
    let _ = tracing::subscriber::set_global_default(Errors);
}

/// Takes events of level ERROR only. Spans and other events are not formatted.
struct Errors;

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        REPORT.with_borrow(|report| {
            let Some(report) = report else { return };
            let mut text = Text::default();
            event.record(&mut text);
            write(report.as_fd(), &ReportLine::Event(text.finish()));
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// One event on one line: the message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let separator = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{separator}{}: {value:?}", field.name())
        };
    }
}

impl Text {
    fn finish(mut self) -> String {
        if !self.fields.is_empty() {
            let _ = write!(self.message, " ({})", self.fields);
        }
        if self.message.len() > EVENT_BYTES {
            let end = self.message.floor_char_boundary(EVENT_BYTES);
            self.message.truncate(end);
        }
        self.message.replace('\n', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clone_tells_wins_over_events() {
        let report = Report::open().unwrap();
        write(report.write.as_fd(), &ReportLine::Event("failed to mount (err: EPERM)".into()));
        let failure = Failure::new(Reason::CommandNotFound, "exec: \"x\": not found");
        tell(report.writer().as_fd(), &failure);
        assert_eq!(report.explain(Reason::Library, "failed".into()), failure);
    }

    #[test]
    fn events_give_the_cause_of_a_bare_error() {
        let report = Report::open().unwrap();
        write(report.write.as_fd(), &ReportLine::Event("mount /proc (err: EPERM)".into()));
        let failure = report.explain(Reason::Library, "failed syscall".into());
        assert_eq!(failure.message, "failed syscall: mount /proc (err: EPERM)");
    }

    #[test]
    fn an_empty_report_is_a_start_that_worked() {
        let report = Report::open().unwrap();
        let read = report.hand_over();
        let mut findings = Findings::default();
        assert!(findings.read(&read).unwrap());
        assert_eq!(findings.start_failure(), None);
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_read_whole() {
        let mut findings = Findings::default();
        findings.add(br#"{"Event":"fai"#);
        findings.add(b"led\"}\n{\"Ev");
        assert_eq!(findings.events, ["failed"]);
    }

    #[test]
    fn a_report_that_is_written_for_ever_is_read_to_a_bound() {
        // The one thread of the shim read on for as long as something came, and kept all of it.
        let report = Report::open().unwrap();
        let write = report.writer();
        let flood = [b'x'; LINE_BYTES];
        let mut findings = Findings::default();
        let error = std::iter::repeat_with(|| {
            while rustix::io::write(&*write, &flood).is_ok() {}
            findings.read(&report.read)
        })
        .take(1000)
        .find_map(Result::err);
        assert_eq!(error.unwrap().kind(), io::ErrorKind::InvalidData);
        assert!(findings.partial.len() <= REPORT_BYTES);
    }

    /// The writing end is in the container's init.
    #[test]
    fn a_fuzzed_report_gives_one_bounded_failure() {
        let words =
            &["{\"Event\":\"", "{\"Failure\":{\"reason\":\"System\",\"message\":\"", "\"}\n", "\n"];
        ::fuzz::Target::new("report").words(words).run(|bytes| {
            let mut findings = Findings::default();
            for piece in bytes.chunks(7) {
                findings.add(piece);
            }
            let _ = findings.start_failure();
        });
    }
}
