//! What a process asks the kernel and the C library for itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel kill the command's process when the thread that spawns it ends.
/// See PR_SET_PDEATHSIG in prctl(2).
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // Between fork and exec: no allocation, no locks. Two system calls, and errors as numbers.
    let before_exec = move || {
        // SAFETY: plain integers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes nothing. The parent may have died before the request was in force.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure is async-signal-safe, as argued above.
    unsafe { command.pre_exec(before_exec) };
}

/// Gives memory that is free back to the kernel. See malloc_trim(3).
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain integer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives this process, and what it spawns, a core-scheduling cookie of their own.
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

/// Keeps the C library from giving every thread a heap of its own: a shim's few short-lived
/// blocking threads would each leave one behind. See M_ARENA_MAX in mallopt(3).
pub(crate) fn one_malloc_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
