//! Gives a process a terminal, and sends the master to the console socket.
//!
//! Promise: the console socket gets the master. The slave becomes the controlling terminal and the standard
//! streams of the process. Not here: opening a terminal in the container (`rootfs`).
//! See pts(4), ioctl_tty(2) TIOCSCTTY.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::super::wire::{self, Failure};
use super::failure::failed;
use super::rootfs::Terminal;

/// The bytes of the packet that carries the master. runc sends the name of the terminal.
const PAYLOAD: &[u8] = b"/dev/ptmx";

/// Sends the master to the console socket, and makes the slave the controlling terminal and the streams of
/// the calling process.
pub(super) fn attach(terminal: Terminal, console: &UnixStream) -> Result<(), Failure> {
    let Terminal { master, slave } = terminal;
    wire::send(console, PAYLOAD, &[master.as_fd()])
        .map_err(|error| failed("send the terminal to the console socket", &error))?;
    ioctl_tiocsctty(&slave)
        .and_then(|()| dup2_stdin(&slave))
        .and_then(|()| dup2_stdout(&slave))
        .and_then(|()| dup2_stderr(&slave))
        .map_err(|error| failed("take the terminal", &error))
}

/// Connects to a console socket on the host.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Failure> {
    let connect = || {
        let socket = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // By its descriptor: the path may be longer than a socket address.
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
    };
    connect().map_err(|error: io::Error| {
        failed(&format!("connect with the console socket {}", path.display()), &error)
    })
}
