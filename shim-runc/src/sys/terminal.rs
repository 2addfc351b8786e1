//! Pseudoterminals without paths. See ioctl_tty(2).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Opens the slave of a pseudoterminal by its master, without a path (TIOCSPTLCK, TIOCGPTPEER).
pub(crate) fn terminal_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let master = master.as_fd().as_raw_fd();
    let unlocked: c_int = 0;
    // SAFETY: the call reads one number, which outlives it.
    if unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the call takes flags and touches no memory.
    let peer = unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) };
    if peer == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}
