//! The target of an output, and when a copy to it is done.
//!
//! A client may open its end of a fifo before or after the process begins to write. Bytes in a fifo
//! are lost when no process has it open. So the SDK waits until there is a reader (here, not in
//! Create), and then opens a reading end itself, so that a client can reconnect. If bytes are
//! unread when the output has ended, the fifo is kept open until they are read or the process is
//! deleted. Delete waits a little for that. Some clients (containerd's own is one) stop opening
//! their end when they get the event that an exec was deleted, and the SDK sees that an end is open
//! only when the client reads.
//!
//! See fifo(7), and poll(2): POLLERR at a writing end means that there is no reader.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::copy::{self, Sink};
use super::uri::StdioUri;
use crate::{Error, Kind, Result};

/// How long Delete waits if the client has never opened its end.
const NEVER_READ: Duration = Duration::from_secs(2);
/// How long Delete waits if the client has closed its end.
const AWAY: Duration = Duration::from_millis(100);
/// How long Delete waits for a connected client to read the rest.
const THERE: Duration = Duration::from_secs(1);
/// The time between two checks for a reader: the first, and the longest.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// The target of output. It is checked; a fifo is not open yet.
#[derive(Debug)]
pub(super) enum OutputTarget {
    /// A file, or a logger's pipe.
    Sink(Sink),
    /// A fifo that the client may open later.
    Fifo(PathBuf),
}

/// The stage of a copy of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyStage {
    /// The client has not opened its end yet.
    Unread,
    Copying,
    /// All bytes are in the fifo, and a connected client has not read them yet.
    Arriving,
    /// All bytes are in the fifo, and no client is connected.
    Lingering,
}

/// The stage, and its beginning. The copy and the code that waits for it share this.
#[derive(Debug, Clone)]
pub(super) struct CopyProgress(Rc<Cell<(CopyStage, Instant)>>);

impl CopyProgress {
    pub(super) fn new() -> Self {
        Self(Rc::new(Cell::new((CopyStage::Copying, Instant::now()))))
    }

    fn enter(&self, stage: CopyStage) {
        self.0.set((stage, Instant::now()));
    }
}

/// A copy of output in progress.
#[derive(Debug)]
pub(super) struct OutputCopy {
    pub(super) task: JoinHandle<()>,
    pub(super) progress: CopyProgress,
}

impl OutputCopy {
    /// Waits for the end of the copy, for a time that depends on its stage, and at most for the
    /// limit. Then aborts it. Returns whether it ended by itself.
    pub(super) async fn finish(mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            // In short steps, because the stage may change, and the time with it.
            let step = Duration::from_millis(20).min(limit);
            if tokio::time::timeout(step, &mut self.task).await.is_ok() {
                return true;
            }
            let (stage, since) = self.progress.0.get();
            let patience = match stage {
                CopyStage::Unread => NEVER_READ.min(limit),
                CopyStage::Copying => limit,
                CopyStage::Arriving => THERE.min(limit),
                CopyStage::Lingering => AWAY.min(limit),
            };
            if begin.elapsed() >= limit || since.max(begin).elapsed() >= patience {
                self.task.abort();
                return false;
            }
        }
    }
}

impl Drop for OutputCopy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An opened target.
pub(super) struct OpenTarget {
    pub(super) sink: Sink,
    /// Both ends of a fifo: the writer to check its state, the reader to keep its content.
    fifo: Option<(File, File)>,
}

impl OutputTarget {
    /// Checks the target. Files are opened.
    pub(super) fn new(uri: &StdioUri) -> Result<Self> {
        match uri {
            StdioUri::Fifo(path) if is_fifo(path)? => Ok(Self::Fifo(path.clone())),
            StdioUri::Fifo(path) => append(path, false).map(Self::Sink),
            StdioUri::File(path) => append(path, true).map(Self::Sink),
            StdioUri::Null | StdioUri::Logger(_) => {
                Err(Error::new(Kind::Internal, "output is neither a fifo nor a file"))
            }
        }
    }

    /// Waits until the target has a reader, and opens it.
    pub(super) async fn open(self, progress: &CopyProgress) -> Result<OpenTarget> {
        let path = match self {
            Self::Sink(sink) => return Ok(OpenTarget { sink, fifo: None }),
            Self::Fifo(path) => path,
        };
        progress.enter(CopyStage::Unread);
        let attempt = |cause| Error::io(format!("open {}", path.display()), cause);
        let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(&path);
        let mut wait = FIRST_LOOK;
        let writer = loop {
            match open(OpenOptions::new().write(true)) {
                Ok(writer) => break writer,
                // ENXIO: the fifo has no reader.
                Err(cause) if cause.raw_os_error() == Some(libc::ENXIO) => {}
                Err(cause) => return Err(attempt(cause)),
            }
            tokio::time::sleep(wait).await;
            wait = LAST_LOOK.min(wait * 2);
        };
        let reader = open(OpenOptions::new().read(true)).map_err(attempt)?;
        let polled = writer.try_clone().map(OwnedFd::from);
        let polled = polled.and_then(|writer| copy::polled(writer, Interest::WRITABLE));
        progress.enter(CopyStage::Copying);
        Ok(OpenTarget {
            sink: Sink::Polled(polled.map_err(attempt)?),
            fifo: Some((writer, reader)),
        })
    }
}

impl OpenTarget {
    /// Closes the target after a client has read everything.
    pub(super) async fn close(self, progress: &CopyProgress) {
        let Some((writer, reader)) = self.fifo else { return };
        drop(reader);
        let mut stage = None;
        let mut wait = FIRST_LOOK;
        while unread_bytes(&writer) > 0 {
            let now = if has_reader(&writer) { CopyStage::Arriving } else { CopyStage::Lingering };
            if stage.replace(now) != Some(now) {
                progress.enter(now);
            }
            tokio::time::sleep(wait).await;
            wait = LAST_LOOK.min(wait * 2);
        }
    }
}

fn has_reader(writer: &File) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

fn unread_bytes(writer: &File) -> u64 {
    rustix::io::ioctl_fionread(writer.as_fd()).unwrap_or(0)
}

fn append(path: &Path, create: bool) -> Result<Sink> {
    let attempt = |cause| Error::io(format!("open {}", path.display()), cause);
    if create && let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(attempt)?;
    }
    let mut options = OpenOptions::new();
    // O_NOCTTY: a terminal must not become the shim's own.
    options.append(true).create(create).mode(0o644).custom_flags(libc::O_NOCTTY);
    let file = options.open(path);
    Ok(Sink::File(Arc::new(file.map_err(attempt)?)))
}

pub(super) fn is_fifo(path: &Path) -> Result<bool> {
    let metadata = fs::metadata(path);
    let metadata =
        metadata.map_err(|cause| Error::io(format!("stat {}", path.display()), cause))?;
    Ok(metadata.file_type().is_fifo())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Runs a test as the shim runs: on one thread. A paused clock advances by itself to the next
    /// timer when all tasks wait.
    fn in_shim(paused: bool, test: impl AsyncFnOnce(PathBuf)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(paused)
            .build()
            .expect("a runtime");
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        tokio::task::LocalSet::new().block_on(&runtime, test(path));
    }

    async fn open_target(path: &Path, progress: &CopyProgress) -> OpenTarget {
        let target = OutputTarget::new(&StdioUri::Fifo(path.to_owned())).expect("a fifo");
        target.open(progress).await.expect("open")
    }

    fn open_reader(path: &Path) -> File {
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        reader.expect("open")
    }

    fn write(path: &Path, text: &'static str) -> OutputCopy {
        let path = path.to_owned();
        let progress = CopyProgress::new();
        let told = progress.clone();
        let task = tokio::task::spawn_local(async move {
            let open = open_target(&path, &progress).await;
            open.sink.write_all(text.as_bytes().to_vec()).await.expect("write");
            open.close(&progress).await;
        });
        OutputCopy { task, progress: told }
    }

    /// Waits until the copy has reached a stage.
    async fn reached(progress: &CopyProgress, stage: CopyStage) {
        let reached = async {
            while progress.0.get().0 != stage {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, reached).await.unwrap_or_else(|_| panic!("never {stage:?}"));
    }

    fn read_all(path: &Path) -> std::thread::JoinHandle<String> {
        let path = path.to_owned();
        std::thread::spawn(move || {
            let mut text = String::new();
            File::open(path).expect("open").read_to_string(&mut text).expect("read");
            text
        })
    }

    #[test]
    fn a_client_that_opens_its_end_late_gets_what_was_written_before() {
        in_shim(false, async |path| {
            let output = write(&path, "early");
            reached(&output.progress, CopyStage::Unread).await;
            let reader = read_all(&path);
            assert!(output.finish(Duration::from_secs(10)).await);
            assert_eq!(reader.join().expect("reader"), "early");
        });
    }

    #[test]
    fn a_client_that_was_away_when_the_output_ended_still_gets_it() {
        in_shim(false, async |path| {
            let first = open_reader(&path);
            let progress = CopyProgress::new();
            let open = open_target(&path, &progress).await;
            drop(first); // the client closes its end
            open.sink.write_all(b"kept".to_vec()).await.expect("our own end keeps it open");
            let told = progress.clone();
            let close = tokio::task::spawn_local(async move { open.close(&told).await });
            reached(&progress, CopyStage::Lingering).await;
            let reader = read_all(&path);
            close.await.expect("close");
            assert_eq!(
                tokio::task::spawn_blocking(|| reader.join()).await.expect("join").expect("reader"),
                "kept"
            );
        });
    }

    #[test]
    fn the_end_is_told_when_a_client_that_is_there_has_read_all() {
        in_shim(true, async |path| {
            let mut here = open_reader(&path);
            let mut output = write(&path, "last");
            reached(&output.progress, CopyStage::Arriving).await;
            tokio::time::sleep(100 * LAST_LOOK).await;
            assert!(!output.task.is_finished(), "it has read nothing");
            let mut text = [0; 4];
            here.read_exact(&mut text).expect("it is there");
            assert_eq!(&text, b"last");
            assert!((&mut output.task).await.is_ok());

            let begin = Instant::now();
            assert!(!write(&path, "unread").finish(Duration::from_secs(20)).await);
            assert!(begin.elapsed() < 2 * THERE, "not all that it might have");
        });
    }

    #[test]
    fn a_delete_does_not_wait_long_for_a_client_that_is_away() {
        in_shim(true, async |path| {
            let begin = Instant::now();
            assert!(!write(&path, "x").finish(Duration::from_secs(10)).await, "never read");
            let waited = begin.elapsed();
            assert!((NEVER_READ..2 * NEVER_READ).contains(&waited), "{waited:?}");

            let here = open_reader(&path);
            let progress = CopyProgress::new();
            let open = open_target(&path, &progress).await;
            drop(here);
            open.sink.write_all(b"unread".to_vec()).await.expect("write");
            let told = progress.clone();
            let task = tokio::task::spawn_local(async move { open.close(&progress).await });
            let begin = Instant::now();
            assert!(!OutputCopy { task, progress: told }.finish(Duration::from_secs(10)).await);
            assert!(begin.elapsed() < NEVER_READ, "less than for one who never came");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_does_not_end_is_ended_after_the_time_that_its_stage_allows() {
        let limit = Duration::from_secs(60);
        for (stage, allowed) in [
            (CopyStage::Unread, NEVER_READ),
            (CopyStage::Copying, limit),
            (CopyStage::Arriving, THERE),
            (CopyStage::Lingering, AWAY),
        ] {
            let progress = CopyProgress::new();
            progress.enter(stage);
            let task = tokio::spawn(std::future::pending());
            let begin = Instant::now();
            assert!(!OutputCopy { task, progress }.finish(limit).await);
            let waited = begin.elapsed();
            assert!(waited >= allowed, "{stage:?}: {waited:?}");
            assert!(waited <= allowed + Duration::from_millis(40), "{stage:?}: {waited:?}");
        }
    }
}
