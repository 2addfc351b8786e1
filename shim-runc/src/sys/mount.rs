//! Attributes and propagation of mounts. See mount_setattr(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Changes the mount whose root `mount` is with mount_setattr(2), and with `recursive` all mounts
/// below. `propagation` is one of MS_PRIVATE and the like, or 0.
pub(crate) fn set_mount_attributes(
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

/// Clears MOUNT_ATTR_RDONLY with mount_setattr(2), as an attacker in a container would.
#[cfg(test)]
pub(crate) fn make_mount_writable(mount: impl AsFd) -> io::Result<()> {
    set_mount_attributes(mount, false, 0, libc::MOUNT_ATTR_RDONLY, 0)
}
