//! Copies from one descriptor to another without a thread, and without memory while idle.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Error, Result, sys};

/// The most that one read(2) takes.
const CHUNK_BYTES: usize = 32 << 10;

/// A descriptor that is waited on, shared by those who read it and those who write it.
pub(crate) type Polled = Rc<AsyncFd<OwnedFd>>;

/// Where copied bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A fifo, pipe or terminal.
    Polled(Polled),
    /// A regular file, which the kernel cannot poll: written on a blocking thread.
    File(Arc<File>),
}

/// A descriptor made non-blocking and registered with the poller.
pub(crate) fn polled(fd: OwnedFd, interest: Interest) -> io::Result<Polled> {
    rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    sys::async_fd(fd, interest).map(Rc::new)
}

/// [`polled`] for a stream, with an error that says so.
pub(super) fn register(fd: OwnedFd, interest: Interest) -> Result<Polled> {
    polled(fd, interest).map_err(|cause| Error::io("poll a stream", cause))
}

/// A pipe, as its reading and its writing end.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|cause| Error::io("pipe2(O_CLOEXEC)", cause.into()))
}

/// Copies until the end of the source, or until the sink takes no more.
pub(crate) async fn copy(source: &AsyncFd<OwnedFd>, sink: &Sink) -> io::Result<()> {
    loop {
        let mut ready = source.readable().await?;
        // Allocated only now, so that an idle stream has no buffer.
        let mut buffer = vec![0; CHUNK_BYTES];
        let read = ready.try_io(|source| Ok(rustix::io::read(source.get_ref(), &mut buffer[..])?));
        match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(read)) => {
                buffer.truncate(read);
                sink.write_all(buffer).await?;
            }
            Ok(Err(cause)) if cause.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(cause)) => return Err(cause),
            Err(_would_block) => {}
        }
    }
}

/// Copies a file, which the kernel cannot poll, to its end. It is read on a blocking thread.
pub(crate) async fn copy_file(file: File, sink: &Sink) -> io::Result<()> {
    let file = Arc::new(file);
    loop {
        let source = Arc::clone(&file);
        let read = move || -> io::Result<Vec<u8>> {
            let mut buffer = vec![0; CHUNK_BYTES];
            let read = io::Read::read(&mut &*source, &mut buffer)?;
            buffer.truncate(read);
            Ok(buffer)
        };
        let chunk = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        if chunk.is_empty() {
            return Ok(());
        }
        sink.write_all(chunk).await?;
    }
}

/// Reads to the end and drops the bytes, so that the writer does not block.
pub(crate) async fn discard(source: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let mut ready = source.readable().await?;
        match ready.try_io(|source| Ok(rustix::io::read(source.get_ref(), &mut buffer[..])?)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(cause)) => return Err(cause),
        }
    }
}

impl Sink {
    /// Writes everything.
    pub(crate) async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Polled(sink) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let mut ready = sink.writable().await?;
                    match ready.try_io(|sink| Ok(rustix::io::write(sink.get_ref(), rest)?)) {
                        Ok(Ok(written)) => rest = &rest[written..],
                        Ok(Err(cause)) if cause.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(cause)) => return Err(cause),
                        Err(_would_block) => {}
                    }
                }
                Ok(())
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                let work = move || io::Write::write_all(&mut &*file, &bytes);
                tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
            }
        }
    }
}

/// Whether an error of a terminal's controlling side means that no process has the other side open.
pub(crate) fn is_hang_up(cause: &io::Error) -> bool {
    cause.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::time::{Duration, Instant};

    /// Waits until a pipe takes no more, then closes this end of it.
    fn wait_until_full(pipe: OwnedFd) {
        let begin = Instant::now();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        while poll(&mut [PollFd::new(&pipe, PollFlags::OUT)], Some(&now)).expect("poll") > 0 {
            assert!(begin.elapsed() < Duration::from_secs(10), "it never fills");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn everything_written_before_the_end_arrives_however_slow_the_reader() {
        let (from, into) = pipe().expect("pipe");
        let (out, sink_writer) = pipe().expect("pipe");
        let source = polled(from, Interest::READABLE).expect("register");
        let sink = sink_writer.try_clone().expect("dup");
        let sink = Sink::Polled(polled(sink, Interest::WRITABLE).expect("register"));
        let written: Vec<u8> = (0..1_000_000_u32).map(|byte| byte as u8).collect();
        let expected = written.clone();
        let writer = std::thread::spawn(move || {
            io::Write::write_all(&mut File::from(into), &written).expect("write");
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            wait_until_full(sink_writer);
            io::Read::read_to_end(&mut File::from(out), &mut all).expect("read");
            all
        });
        copy(&source, &sink).await.expect("copy");
        drop(sink);
        writer.join().expect("writer");
        assert!(reader.join().expect("reader") == expected);
    }
}
