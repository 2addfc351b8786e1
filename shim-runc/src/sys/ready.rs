//! Waits for descriptors in the shim's event loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor, to be told when it is readable. See epoll(7).
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor for as long as it lives, and AsyncFd hands out no
    // mutable access that could put another one in its place here.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
