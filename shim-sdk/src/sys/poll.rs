//! Registers descriptors with tokio.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's poller. Regular files are refused with EPERM.
pub(crate) fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has the same descriptor for its whole life, and no code closes or
    // replaces that descriptor in that time.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
