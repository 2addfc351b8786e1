//! The calls about mounts and terminals that need `unsafe`.
#![allow(unsafe_code)] // system calls that neither nix nor rustix wraps

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// mount_setattr(2) of the mount that a descriptor is the root of, or of all below it too.
/// `propagation` is one of MS_PRIVATE and the like, or 0.
pub(super) fn set_mount_attributes(
    mount: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, the structure outlives the call and its size
    // is the one given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens the other side of a pseudoterminal by its master, without a path (ioctl_tty(2),
/// TIOCSPTLCK and TIOCGPTPEER).
pub(super) fn terminal_peer(master: impl AsFd) -> io::Result<OwnedFd> {
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
    // SAFETY: the call answered with a descriptor that is new.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}
