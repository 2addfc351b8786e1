//! Dispositions and masks of signals. See sigaction(2), sigprocmask(2).

use std::ffi::c_int;
use std::io;

use super::check;

/// The highest signal.
const SIGNALS: c_int = 64;

/// The kernel's size of a set of signals.
const SIGNAL_SET_BYTES: usize = 8;

/// Sets every signal except `except` to its default action, and unblocks all.
///
/// It calls the kernel directly: libc reserves signals 32 and 33, and processes that its
/// posix_spawn(3) starts ignore them.
pub(crate) fn reset_signals(except: c_int) -> io::Result<()> {
    /// The kernel's sigaction: a handler, flags, a restorer, and a set. Zeroes are the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in (1..=SIGNALS).filter(|one| ![libc::SIGKILL, libc::SIGSTOP, except].contains(one))
    {
        // SAFETY: the action is as large as the kernel's own on every 64-bit system, and runs no
        // handler of ours.
        check(unsafe {
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
    check(result).map(drop)
}

/// Sets the disposition of a signal to the default.
pub(crate) fn reset_signal(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: the default disposition runs no handler of ours.
    unsafe { set(signal, SigHandler::SigDfl) }.map(|_| ())
}

/// Ignores SIGPIPE: a write without a reader fails instead of ending the process.
pub(crate) fn ignore_broken_pipes() -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal as set};
    // SAFETY: no handler of ours is run.
    unsafe { set(Signal::SIGPIPE, SigHandler::SigIgn) }.map(|_| ())
}
