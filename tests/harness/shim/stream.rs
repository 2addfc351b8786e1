//! A client's ends of a container's streams: fifos that a thread reads, or that stay unread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::Mode;

use super::ttrpc::hold;
use crate::wait;

/// A fifo that a thread reads to its end.
pub struct Stream {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
    reading: bool,
    leave: bool,
}

impl Stream {
    /// Makes a fifo without a reader.
    ///
    /// # Errors
    ///
    /// As mkfifo(3).
    pub fn make(path: &Path) -> io::Result<Self> {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(Self { path: path.to_owned(), shared: Arc::default() })
    }

    /// Makes a fifo and reads it.
    ///
    /// # Errors
    ///
    /// As mkfifo(3) and open(2).
    pub fn read(path: &Path) -> io::Result<Self> {
        let stream = Self::make(path)?;
        stream.resume()?;
        Ok(stream)
    }

    /// Its path, as a request names it.
    #[must_use]
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens the fifo for reading, as a client that connects again does.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub fn resume(&self) -> io::Result<()> {
        self.open(false)
    }

    /// Opens it for both, as a daemon opens a shim's log: it never ends.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub fn follow(&self) -> io::Result<()> {
        self.open(true)
    }

    fn open(&self, write: bool) -> io::Result<()> {
        let fifo = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.path)?;
        {
            let mut state = hold(&self.shared.state);
            state.leave = false;
            state.reading = true;
        }
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            collect(fifo, &shared);
            hold(&shared.state).reading = false;
            shared.news.notify_all();
        });
        Ok(())
    }

    /// Closes the client's end, as a client that dies does. What was read stays known.
    pub fn leave(&self) {
        let mut state = hold(&self.shared.state);
        state.leave = true;
        while state.reading {
            state = self
                .shared
                .news
                .wait_timeout(state, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until what was read satisfies `enough`; whether it did in time.
    pub fn wait(&self, limit: Duration, mut enough: impl FnMut(&[u8], bool) -> bool) -> bool {
        let state = hold(&self.shared.state);
        let late = |now: &mut State| !enough(&now.bytes, now.ended);
        let waited = self.shared.news.wait_timeout_while(state, limit, late);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits for some text.
    pub fn wait_for(&self, limit: Duration, text: &str) -> bool {
        self.wait(limit, |bytes, _| {
            bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes())
        })
    }

    /// Waits for the end of the stream; whether it came.
    pub fn wait_end(&self, limit: Duration) -> bool {
        self.wait(limit, |_, ended| ended)
    }

    /// What was read so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        hold(&self.shared.state).bytes.clone()
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        hold(&self.shared.state).leave = true;
        let _ = std::fs::remove_file(&self.path);
    }
}

fn collect(mut fifo: File, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if hold(&shared.state).leave {
            return;
        }
        // A fifo without a writer so far is quiet; one whose last writer closed it hangs up.
        let mut ready = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut ready, PollTimeout::from(20_u8)) {
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match fifo.read(&mut buffer) {
            Ok(0) => {
                hold(&shared.state).ended = true;
                shared.news.notify_all();
                return;
            }
            Ok(count) => {
                hold(&shared.state).bytes.extend_from_slice(&buffer[..count]);
                shared.news.notify_all();
            }
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A client's end of standard input.
pub struct Input {
    path: PathBuf,
    fifo: Option<File>,
}

impl Input {
    /// Makes the fifo.
    ///
    /// # Errors
    ///
    /// As mkfifo(3).
    pub fn make(path: &Path) -> io::Result<Self> {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(Self { path: path.to_owned(), fifo: None })
    }

    /// Its path, as a request names it.
    #[must_use]
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens it for writing, waiting for a reader.
    ///
    /// # Errors
    ///
    /// As open(2); `TimedOut` without a reader within `limit`.
    pub fn open(&mut self, limit: Duration) -> io::Result<()> {
        let opened = super::until(limit, || {
            OpenOptions::new()
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&self.path)
                .ok()
        });
        let Some(fifo) = opened else {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} has no reader", self.path.display()),
            ));
        };
        self.fifo = Some(fifo);
        Ok(())
    }

    /// Writes, within `limit`.
    ///
    /// # Errors
    ///
    /// As write(2); `TimedOut` when the fifo stays full.
    pub fn write(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let Some(fifo) = &mut self.fifo else {
            return Err(io::Error::other("the fifo is not open"));
        };
        let deadline = Instant::now() + limit;
        let mut rest = bytes;
        while !rest.is_empty() {
            match fifo.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    wait::pass(Duration::from_millis(1));
                }
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// Closes the client's end.
    pub fn close(&mut self) {
        self.fifo = None;
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_reader_that_leaves_and_comes_back_reads_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        let stream = Stream::read(&path).expect("make and read");
        // Both ends, as a shim holds them.
        let mut shim =
            OpenOptions::new().read(true).write(true).open(&path).expect("open both ends");
        shim.write_all(b"one ").expect("write");
        assert!(stream.wait_for(SOON, "one "));
        stream.leave();
        shim.write_all(b"two ").expect("write without a reader");
        stream.resume().expect("come back");
        assert!(stream.wait_for(SOON, "one two "));
        assert!(!stream.wait_end(Duration::from_millis(50)));
        drop(shim);
        assert!(stream.wait_end(SOON), "the last writer has gone");
    }

    #[test]
    fn input_waits_for_a_reader_for_a_bounded_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut input = Input::make(&directory.path().join("in")).expect("make");
        let refused = input.open(Duration::from_millis(50)).expect_err("it has no reader");
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }
}
