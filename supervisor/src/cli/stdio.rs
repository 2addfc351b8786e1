//! A process's standard streams: copies between fifos and this process's own streams.
//!
//! The fifos of a process are in a directory of their own, which is locked (flock, shared) as long as
//! this process lives. The daemon removes a directory that it can lock. Promise: output is read to its
//! end, also after this process's own reader has gone, so that the container is not blocked.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use tokio::sync::oneshot;

use super::error::CliError;

const BUFFER: usize = 64 * 1024;

/// Which streams a process has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    /// One stream for both outputs.
    pub(crate) terminal: bool,
}

/// The fifos of one process. Dropping removes them.
pub(crate) struct Fifos {
    directory: PathBuf,
    streams: Streams,
    _lock: Flock<File>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Copies that run.
pub(crate) struct Copies {
    outputs: Vec<oneshot::Receiver<()>>,
    /// Completes at the end of this process's standard input.
    pub(crate) stdin: Option<oneshot::Receiver<()>>,
}

impl Fifos {
    /// Makes the fifos below `parent`, and opens the reading ends of the outputs.
    pub(crate) fn make(parent: &Path, id: &str, streams: Streams) -> Result<Self, CliError> {
        let failed = |path: &Path| {
            let what = format!("make {}", path.display());
            move |cause: io::Error| CliError::io(what, cause)
        };
        let make = |path: &Path, recursive| {
            std::fs::DirBuilder::new().recursive(recursive).mode(0o700).create(path)
        };
        make(parent, true).map_err(failed(parent))?;
        let directory = parent.join(format!("{id}-{}", super::random_hex(4)?));
        make(&directory, false).map_err(failed(&directory))?;
        let lock = File::open(&directory)
            .and_then(|file| {
                Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, errno)| errno.into())
            })
            .map_err(failed(&directory))?;
        let mut fifos = Self { directory, streams, _lock: lock, stdout: None, stderr: None };
        fifos.open_outputs().map_err(failed(&fifos.directory))?;
        Ok(fifos)
    }

    fn open_outputs(&mut self) -> io::Result<()> {
        // A blocking open would wait for a writer.
        let open_end = |path: &Path| -> io::Result<OwnedFd> {
            nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            Ok(open(path, flags, Mode::empty())?)
        };
        if self.streams.stdin {
            let path = self.directory.join("stdin");
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        self.stdout = Some(open_end(&self.directory.join("stdout"))?);
        if !self.streams.terminal {
            self.stderr = Some(open_end(&self.directory.join("stderr"))?);
        }
        Ok(())
    }

    /// The paths for the Tasks service. The path of a stream that the process does not have is empty.
    pub(crate) fn paths(&self) -> [String; 3] {
        let path = |name: &str, wanted: bool| {
            let path = if wanted { self.directory.join(name) } else { PathBuf::new() };
            path.to_string_lossy().into_owned()
        };
        [
            path("stdin", self.streams.stdin),
            path("stdout", true),
            path("stderr", !self.streams.terminal),
        ]
    }

    /// Starts the copies. The shim may open its ends before or after.
    pub(crate) fn copy(&mut self) -> Result<Copies, CliError> {
        let failed = |cause| CliError::io("copy standard streams", cause);
        let mut outputs = Vec::new();
        if let Some(from) = self.stdout.take() {
            outputs.push(
                in_thread("stdout", move || drain(&from, io::stdout().as_fd())).map_err(failed)?,
            );
        }
        if let Some(from) = self.stderr.take() {
            outputs.push(
                in_thread("stderr", move || drain(&from, io::stderr().as_fd())).map_err(failed)?,
            );
        }
        let stdin = if self.streams.stdin {
            let path = self.directory.join("stdin");
            // Also for reading: the open does not wait for the shim, and the fifo keeps what is
            // written before the shim opens it.
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            let to = open(&path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
            Some(in_thread("stdin", move || feed(to)).map_err(failed)?)
        } else {
            None
        };
        Ok(Copies { outputs, stdin })
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // The daemon removes what stays, at its next start.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Copies {
    /// Copies of outputs that end as these receivers do.
    #[cfg(test)]
    pub(crate) fn of(outputs: Vec<oneshot::Receiver<()>>) -> Self {
        Self { outputs, stdin: None }
    }

    /// Waits until all output has arrived.
    ///
    /// # Cancel safety
    ///
    /// A stream that has ended is not waited for again.
    pub(crate) async fn outputs_end(&mut self) {
        while let Some(output) = self.outputs.last_mut() {
            let _ = output.await; // an error: the thread has ended as well
            self.outputs.pop();
        }
    }
}

fn in_thread(
    name: &str,
    copy: impl FnOnce() + Send + 'static,
) -> io::Result<oneshot::Receiver<()>> {
    let (done, end) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(move || {
        copy();
        let _ = done.send(());
    })?;
    Ok(end)
}

/// Copies a fifo to its end.
fn drain(from: &OwnedFd, to: BorrowedFd<'_>) {
    let mut buffer = vec![0; BUFFER];
    let mut wanted = true;
    loop {
        // poll(2) reports nothing before the first writer, so that the first read is after it and a
        // result of 0 is the end.
        if wait_for(from.as_fd(), PollFlags::POLLIN).is_err() {
            return;
        }
        match nix::unistd::read(from, &mut buffer) {
            Ok(0) => return,
            Ok(n) => wanted = wanted && write_all(to, &buffer[..n]).is_ok(),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Copies this process's standard input to the fifo, until one of them ends.
fn feed(to: OwnedFd) {
    let mut buffer = vec![0; BUFFER];
    let mut to = File::from(to);
    let mut from = io::stdin().lock();
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if wait_for(io::stdin().as_fd(), PollFlags::POLLIN).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Writes everything, also to a non-blocking descriptor: another process may have made it so.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) -> Result<(), Errno> {
    loop {
        match poll(&mut [PollFd::new(fd, what)], PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    fn streams() -> Streams {
        Streams { stdin: false, terminal: false }
    }

    #[test]
    fn output_written_just_before_the_end_arrives_whole() {
        let parent = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::make(parent.path(), "c", streams()).unwrap();
        let path = fifos.paths()[1].clone();
        let from = fifos.stdout.take().unwrap();
        let mut target = tempfile::tempfile().unwrap();
        let into = target.try_clone().unwrap();
        let (id, started) = mpsc::channel();
        let reader = thread::spawn(move || {
            id.send(nix::unistd::gettid()).unwrap();
            drain(&from, into.as_fd());
        });
        // The reader sleeps in poll(2) before there is a writer.
        let stat = format!("/proc/self/task/{}/stat", started.recv().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
            assert!(Instant::now() < deadline, "the reader does not wait");
            thread::yield_now();
        }
        let mut writer = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        writer.write_all(&vec![7; 8 << 20]).unwrap();
        drop(writer);
        reader.join().unwrap();
        io::Seek::rewind(&mut target).unwrap();
        let mut got = Vec::new();
        target.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 8 << 20);
    }

    #[test]
    fn a_reader_that_is_gone_does_not_hold_the_writer_up() {
        let parent = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::make(parent.path(), "c", streams()).unwrap();
        let path = fifos.paths()[2].clone();
        let from = fifos.stderr.take().unwrap();
        let (gone, into) = nix::unistd::pipe().unwrap();
        drop(gone);
        let reader = thread::spawn(move || drain(&from, into.as_fd()));
        let mut writer = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        writer.write_all(&vec![7; 1 << 20]).unwrap();
        drop(writer);
        reader.join().unwrap();
    }

    #[test]
    fn nothing_remains_and_the_lock_is_held_while_the_client_lives() {
        let parent = tempfile::tempdir().unwrap();
        let fifos = Fifos::make(parent.path(), "c", streams()).unwrap();
        assert!(fifos.stdout.as_ref().unwrap().as_raw_fd() >= 0);
        let other = || {
            let file = File::open(&fifos.directory).unwrap();
            Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
        };
        assert!(!other());
        drop(fifos);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
