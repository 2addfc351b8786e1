//! Calls of a process between clone and execve: its limits, its scheduling, its working directory.
//!
//! They go to the kernel directly: a libc function may also follow paths of the container.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libcontainer::oci_spec::runtime::{LinuxSchedulerFlag, LinuxSchedulerPolicy, Scheduler};

use super::check;

/// getcwd(2) returns at most a page.
const PAGE_BYTES: usize = 4096;

/// Calls getcwd(2) without libc. Where the kernel reports an unreachable directory, libc searches by
/// device and inode, and can return a path of another directory.
pub(crate) fn current_directory() -> io::Result<Vec<u8>> {
    let mut path = vec![0_u8; PAGE_BYTES];
    // SAFETY: the buffer outlives the call and its length is the one given.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    // It counts the NUL at the end.
    path.truncate(usize::try_from(length).unwrap_or(0).saturating_sub(1));
    Ok(path)
}

/// Checks with faccessat2(2) whether the caller may execute an open file.
pub(crate) fn may_execute(file: impl AsFd) -> io::Result<()> {
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
    check(result).map(drop)
}

/// Raises a limit of the calling process with prlimit(2). A lower value than the present one leaves
/// the limit as it is.
pub(crate) fn raise_limit(kind: u32, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the structure that is written outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, kind, none, &raw mut now) })?;
    let wanted = libc::rlimit64 {
        rlim_cur: soft.max(now.rlim_cur),
        rlim_max: hard.max(now.rlim_max).max(soft),
    };
    // SAFETY: the structure that is read outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, kind, &raw const wanted, none) }).map(drop)
}

/// Sets the scheduler of the calling thread with sched_setattr(2).
pub(crate) fn set_scheduler(wanted: &Scheduler) -> io::Result<()> {
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
    // SAFETY: the structure outlives the call and holds its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
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
    fn an_executable_file_is_distinguished_from_another() {
        let may = |path: &str| may_execute(std::fs::File::open(path).unwrap());
        may("/bin/true").unwrap();
        assert_eq!(may("/etc/passwd").unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}
