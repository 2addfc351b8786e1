//! clone3(2) without a new program.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// clone3(2) with CLONE_INTO_CGROUP, which does not fit the type that libc gives it.
const INTO_GROUP: u64 = 0x2_0000_0000;

/// Clones the calling process with clone3(2) and CLONE_PARENT: the clone's parent is the caller's
/// parent. The clone can get a new pid namespace, and can start in a cgroup of version 2. Returns
/// `None` in the clone, and the clone's pid and a pidfd in the caller.
///
/// The calling process must have one thread.
pub(crate) fn clone_sibling(
    in_new_pid_namespace: bool,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(i32, OwnedFd)>> {
    let namespace = if in_new_pid_namespace { libc::CLONE_NEWPID } else { 0 };
    clone(libc::CLONE_PARENT | namespace, 0, group)
}

/// The same with the caller as the clone's parent.
pub(crate) fn clone_child() -> io::Result<Option<(i32, OwnedFd)>> {
    clone(0, libc::SIGCHLD, None)
}

fn clone(
    flags: c_int,
    at_exit: c_int,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: c_int = -1;
    // SAFETY: all zeroes is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    arguments.exit_signal = u64::from(at_exit.cast_unsigned());
    arguments.pidfd = (&raw mut pidfd).addr() as u64;
    if let Some(group) = group {
        arguments.flags |= INTO_GROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no memory is shared with the clone and no stack given, so both go on with a copy each
    // of the only thread's memory, in which no lock is held by another; the arguments and the
    // pidfd's place outlive the call, and the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    match i32::try_from(check(result)?) {
        Ok(0) => Ok(None),
        // SAFETY: the call succeeded with CLONE_PIDFD, so this is a new descriptor, close-on-exec,
        // that nothing else owns.
        Ok(pid) => Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Ends the calling clone with _exit(2). Nothing is dropped or flushed: buffers and resources belong
/// to its parent.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: the call does not return and runs nothing of this process.
    unsafe { libc::_exit(status) }
}
