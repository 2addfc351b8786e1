//! The ends of the standard streams that a runtime passes to the process it makes.

use std::path::{Path, PathBuf};
#[cfg(windows)]
use std::process::Stdio;

/// The standard streams of a process.
///
/// A runtime drops the ends that it does not pass on. The SDK sees the end of a stream when the
/// process, and every process that inherited it, has closed it.
#[derive(Debug)]
pub enum Io {
    /// Plain streams.
    Streams(Streams),
    /// A terminal.
    Terminal(Terminal),
}

impl Io {
    /// The null device for every stream.
    pub fn null() -> Self {
        Self::Streams(Streams::default())
    }
}

/// Plain streams; `None` is the null device.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: Option<Stream>,
    /// Standard output.
    pub stdout: Option<Stream>,
    /// Standard error.
    pub stderr: Option<Stream>,
}

/// A terminal. The runtime makes it and sends its controlling side to the SDK.
#[derive(Debug)]
pub struct Terminal {
    console_socket: PathBuf,
}

impl Terminal {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))] // there are no terminals elsewhere yet
    pub(crate) fn new(console_socket: PathBuf) -> Self {
        Self { console_socket }
    }

    /// The socket on which the SDK waits for the terminal's controlling side, as
    /// `runc --console-socket` sends it.
    pub fn console_socket(&self) -> &Path {
        &self.console_socket
    }
}

/// The process that the streams belong to. A logger gets both in its environment.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(windows, allow(dead_code))] // there are no loggers on Windows yet
pub(crate) struct Owner<'a> {
    pub(crate) namespace: &'a str,
    /// The container's identifier, or the exec's.
    pub(crate) id: &'a str,
}

/// One end of a pipe, or a file.
#[derive(Debug)]
pub struct Stream(Inner);

#[cfg(unix)]
type Inner = std::os::fd::OwnedFd;
#[cfg(windows)]
type Inner = std::os::windows::io::OwnedHandle;

impl From<Inner> for Stream {
    fn from(inner: Inner) -> Self {
        Self(inner)
    }
}

impl From<Stream> for Inner {
    fn from(stream: Stream) -> Self {
        stream.0
    }
}

#[cfg(windows)]
impl From<Stream> for Stdio {
    fn from(stream: Stream) -> Self {
        Self::from(stream.0)
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
