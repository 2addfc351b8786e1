//! Inherited descriptors, and descriptors that must be closed before execve(2).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Takes ownership of a descriptor that the parent left at a fixed number, and marks it
/// close-on-exec.
///
/// Call it once for each number, at the start of the process, before anything else can open a
/// descriptor there.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number has no effect on memory; it fails where nothing is open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (just checked) and by this function's contract nothing
    // else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes all descriptors from `first` on with close_range(2).
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller is a process that has just started and owns nothing at these numbers;
    // the call touches no memory.
    match unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor except the standard streams and `kept`.
///
/// Call it only in a clone that ends with `exit` or execve(2). Its memory still has owners of the
/// closed descriptors, and these must not be dropped.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for one in kept {
        if first < one {
            close_range(first, one - 1)?;
        }
        first = first.max(one + 1);
    }
    close_range(first, c_int::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the call touches no memory; by the contract of the caller, the descriptors are
    // not used again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}
