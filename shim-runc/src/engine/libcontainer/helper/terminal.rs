//! The terminal of a process, in its container.
//!
//! Promise: what the console socket gets is the master of a terminal of the container's own devpts,
//! reached by no link that a container could have put there; the process has it as its controlling
//! terminal and as its standard streams.
//! See pts(4), ioctl_tty(2), CVE-2025-52565.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::super::sys::process as sys;
use super::super::wire::{self, Failure, Reason};
use super::inside;

/// The file system of terminals (DEVPTS_SUPER_MAGIC).
const DEVPTS: i64 = 0x1cd1;

/// The inode and the device of each devpts's own ptmx.
const PTMX: (u64, u32, u32) = (2, 5, 2);

/// What goes with the master; any text will do.
const WORD: &[u8] = b"/dev/ptmx";

/// Both sides of a terminal.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// Opens one in the container whose root is the calling process's.
    pub(super) fn open() -> Result<Self, Failure> {
        let open = || {
            let master = inside::open(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)?;
            let (file, system) = (fstat(&master)?, fstatfs(&master)?);
            let (inode, major, minor) = PTMX;
            let is_ptmx = system.f_type == DEVPTS
                && file.st_ino == inode
                && FileType::from_raw_mode(file.st_mode) == FileType::CharacterDevice
                && file.st_rdev == rustix::fs::makedev(major, minor);
            if !is_ptmx {
                return Err(io::Error::other("/dev/pts/ptmx is not that of a devpts"));
            }
            let slave = sys::open_other_side(&master)?;
            Ok(Self { master, slave })
        };
        open().map_err(|error| failed("make a terminal", &error))
    }

    /// Sends the master away and makes the slave the calling session's terminal and streams.
    pub(super) fn attach(self, console: &UnixStream) -> Result<(), Failure> {
        wire::send(console, WORD, &[self.master.as_fd()])
            .map_err(|error| failed("send the terminal to the console socket", &error))?;
        let slave = &self.slave;
        ioctl_tiocsctty(slave)
            .and_then(|()| dup2_stdin(slave))
            .and_then(|()| dup2_stdout(slave))
            .and_then(|()| dup2_stderr(slave))
            .map_err(|error| failed("take the terminal", &error))
    }
}

/// Connects with a console socket, on the host.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Failure> {
    let connect = || {
        let socket = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // By its descriptor: the name may be longer than an address.
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
    };
    connect().map_err(|error: io::Error| {
        failed(&format!("connect with the console socket {}", path.display()), &error)
    })
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::Other, format!("{what}: {error}"))
}
