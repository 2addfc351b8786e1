//! Opens a terminal in a container's devpts, and binds it at /dev/console.
//!
//! Promise: the multiplexer is opened in a directory whose descriptor is checked to be on a devpts. The
//! terminal is opened through its master and bound by its descriptor.
//! See pts(4), ioctl_tty(2) TIOCGPTPEER; runc's CVE-2025-52565.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, FsWord, Mode, OFlags, ResolveFlags, fstatfs, mknodat, openat, openat2};
use rustix::io::Errno;

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::{attach, clone_tree};
use super::tree::open_in;
use crate::sys;

/// The magic number of devpts (statfs(2)).
const DEVPTS: FsWord = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub(in super::super) struct Terminal {
    pub(in super::super) master: OwnedFd,
    pub(in super::super) slave: OwnedFd,
}

/// Opens a new terminal in the devpts of a container, given its root.
pub(in super::super) fn open_terminal(root: impl AsFd) -> Result<Terminal, Failure> {
    let of = |error: Errno| failed("open a terminal of the container's /dev/pts", &error);
    let directory =
        open_in(root, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY).map_err(of)?;
    if fstatfs(&directory).map_err(of)?.f_type != DEVPTS {
        let message = "a terminal is wanted and the container's /dev/pts is no devpts";
        return Err(Failure::new(Reason::RootFilesystem, message));
    }
    // Only the kernel makes files in the root of a devpts.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat2(&directory, "ptmx", flags, Mode::empty(), resolve).map_err(of)?;
    let slave = sys::terminal::terminal_peer(&master)
        .map_err(|error| failed("open the other side of a terminal", &error))?;
    Ok(Terminal { master, slave })
}

/// Binds a terminal at /dev/console. If /dev is not the container's own, only if /dev/console exists.
pub(super) fn bind(terminal: &Terminal, dev: &OwnedFd, is_own: bool) -> Result<(), Failure> {
    const NAME: &str = "console";
    let of = |error: Errno| failed("make /dev/console", &error);
    if is_own {
        match mknodat(dev, NAME, FileType::RegularFile, Mode::from_raw_mode(0o666), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(of(error)),
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match openat(dev, NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) if !is_own => return Ok(()),
        other => other.map_err(of)?,
    };
    clone_tree(&terminal.slave, Path::new(""), false)
        .and_then(|tree| attach(tree, place))
        .map_err(|error| failed("bind the terminal at /dev/console", &error))
}
