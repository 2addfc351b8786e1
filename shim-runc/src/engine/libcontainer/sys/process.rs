//! Calls of a process that becomes a container's, between clone and execve.
//!
//! They go straight to the kernel: what a libc would do besides may follow paths of the container.
#![allow(unsafe_code)] // system calls that neither nix nor rustix wraps

use std::ffi::{CStr, c_int, c_long, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libcontainer::oci_spec::runtime::{LinuxSchedulerFlag, LinuxSchedulerPolicy, Scheduler};

/// The highest signal.
const SIGNALS: c_int = 64;

/// The kernel's size of a set of signals.
const SIGNAL_SET_BYTES: usize = 8;

/// A path that getcwd(2) tells is at most a page.
const PAGE_BYTES: usize = 4096;

/// clone3(2) with CLONE_INTO_CGROUP, which does not fit the type that libc gives it.
const INTO_GROUP: u64 = 0x2_0000_0000;

/// Numbers of keyctl(2).
const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
const KEYCTL_SETPERM: c_long = 5;

fn answer(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// clone3(2) of the calling process, as fork(2) would, with the caller's parent as its parent and, if
/// wanted, in a new pid namespace and in a control group of version 2. `None` in the clone; its pid
/// and a pidfd in the caller.
///
/// For a process with one thread.
pub(in super::super) fn clone_sibling(
    in_new_pid_namespace: bool,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(i32, OwnedFd)>> {
    let namespace = if in_new_pid_namespace { libc::CLONE_NEWPID } else { 0 };
    clone(libc::CLONE_PARENT | namespace, 0, group)
}

/// The same with the caller as its parent.
pub(in super::super) fn clone_child() -> io::Result<Option<(i32, OwnedFd)>> {
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
    match i32::try_from(answer(result)?) {
        Ok(0) => Ok(None),
        // SAFETY: the call succeeded with CLONE_PIDFD, so this is a new descriptor, close-on-exec,
        // that nobody else owns.
        Ok(pid) => Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Ends the calling clone at once. Nothing is dropped or flushed: all of that is its parent's.
pub(in super::super) fn exit(status: i32) -> ! {
    // SAFETY: the call does not return and runs nothing of this process.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor but the standard streams and these.
///
/// To be called in a clone that ends by [`exit`] or execve: owners of the closed ones are in its
/// memory and must not be dropped.
pub(in super::super) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
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
    // SAFETY: the call touches no memory; by the contract of the caller, nobody uses the descriptors
    // any more.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// getcwd(2) itself. libc's goes on with a search by device and inode where the kernel says that the
/// directory is out of reach, and finds a path for what is not there.
pub(in super::super) fn current_directory() -> io::Result<Vec<u8>> {
    let mut path = vec![0_u8; PAGE_BYTES];
    // SAFETY: the buffer outlives the call and its length is the one given.
    let length = answer(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    // It counts the NUL at the end.
    path.truncate(usize::try_from(length).unwrap_or(0).saturating_sub(1));
    Ok(path)
}

/// faccessat2(2) of an open file: whether the caller may execute it.
pub(in super::super) fn may_execute(file: impl AsFd) -> io::Result<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the path is a NUL-terminated literal.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::X_OK,
            flags,
        )
    };
    answer(result).map(drop)
}

/// Gives every signal its default action, but for one, and blocks none.
///
/// By the kernel's own call: libc keeps 32 and 33 to itself, and its posix_spawn leaves them ignored
/// in what it starts.
pub(in super::super) fn reset_signals(but: c_int) -> io::Result<()> {
    /// The kernel's sigaction: a handler, flags, a restorer, and a set. Zeroes are the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in (1..=SIGNALS).filter(|one| ![libc::SIGKILL, libc::SIGSTOP, but].contains(one)) {
        // SAFETY: the action is as large as the kernel's own on every 64-bit system, and runs no
        // handler of ours.
        answer(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        })?;
    }
    let none = 0_u64;
    // SAFETY: the set has the size given and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
    answer(result).map(drop)
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING; returns the keyring.
pub(in super::super) fn join_session_keyring(name: &CStr) -> io::Result<c_long> {
    // SAFETY: the name is NUL-terminated and outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// keyctl(2) KEYCTL_SETPERM.
pub(in super::super) fn set_key_permissions(key: c_long, permissions: u32) -> io::Result<()> {
    let permissions = c_ulong::from(permissions);
    // SAFETY: the call takes numbers.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) }).map(drop)
}

/// prlimit(2) of the calling process, for a limit that is no lower than the present one.
pub(in super::super) fn raise_limit(kind: u32, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the structure that is written outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_prlimit64, 0, kind, none, &raw mut now) })?;
    let wanted = libc::rlimit64 {
        rlim_cur: soft.max(now.rlim_cur),
        rlim_max: hard.max(now.rlim_max).max(soft),
    };
    // SAFETY: the structure that is read outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_prlimit64, 0, kind, &raw const wanted, none) })
        .map(drop)
}

/// sched_setattr(2) of the calling thread.
pub(in super::super) fn set_scheduler(wanted: &Scheduler) -> io::Result<()> {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01_u64,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    // SAFETY: all zeroes is a valid sched_attr.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    attributes.sched_policy = policy;
    attributes.sched_flags =
        wanted.flags().iter().flatten().map(flag).fold(0, |flags, one| flags | one);
    attributes.sched_nice = wanted.nice().unwrap_or(0);
    attributes.sched_priority = wanted.priority().unwrap_or(0).cast_unsigned();
    attributes.sched_runtime = wanted.runtime().unwrap_or(0);
    attributes.sched_deadline = wanted.deadline().unwrap_or(0);
    attributes.sched_period = wanted.period().unwrap_or(0);
    // SAFETY: the structure outlives the call and tells its size.
    answer(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_about_the_directory_has_no_nul() {
        let path = current_directory().unwrap();
        assert!(path.starts_with(b"/") && !path.contains(&0), "{path:?}");
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_told_from_one_that_can() {
        let may = |path: &str| may_execute(std::fs::File::open(path).unwrap());
        may("/bin/true").unwrap();
        assert_eq!(may("/etc/passwd").unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}
