//! Settings of this process and thread, of the kernel and of the C library.

use std::io;

/// The calling thread's niceness. See getpriority(2).
pub(crate) fn nice() -> io::Result<libc::c_int> {
    // SAFETY: the thread's own errno. It distinguishes an error from a niceness of -1.
    unsafe { *libc::__errno_location() = 0 };
    // SAFETY: plain integers; process 0 is, on Linux, the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(0) { Ok(nice) } else { Err(error) }
}

/// Sets the calling thread's niceness. Async-signal-safe. See setpriority(2).
pub(crate) fn set_nice(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: plain integers; process 0 is, on Linux, the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns free memory to the kernel. See malloc_trim(3).
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain integer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes a new core-scheduling cookie for this process and its children.
/// See PR_SCHED_CORE in prctl(2).
pub(crate) fn sched_core_create() -> io::Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
    const SCOPE_THREAD_GROUP: libc::c_ulong = 1;
    // SAFETY: plain integers; pid 0 is the caller.
    let result = unsafe {
        libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0_u64, SCOPE_THREAD_GROUP, 0_u64)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Limits the C library to one malloc arena. Otherwise each of the shim's short-lived threads would
/// leave its own arena. See M_ARENA_MAX in mallopt(3).
pub(crate) fn one_malloc_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
