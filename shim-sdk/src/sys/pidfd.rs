//! Signals by pidfd, and waiting for children.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends a signal by number. rustix has no real-time signals.
/// See pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the borrow's life; a null siginfo is what kill(2) sends.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A reaped child: its pid, and its status as a shell reports it.
#[cfg(feature = "serve")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) pid: u32,
    pub(crate) status: u32,
}

/// Reaps one child if it has exited. ECHILD: it is no child of this process. See waitid(2).
#[cfg(feature = "serve")]
pub(crate) fn waitid_pid(pid: u32) -> io::Result<Option<Waited>> {
    waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOHANG | libc::__WALL)
}

/// Whether the child of a pidfd has been reaped. See waitid(2), WNOWAIT.
#[cfg(feature = "serve")]
pub(crate) fn is_reaped(pidfd: BorrowedFd<'_>) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    waitid(libc::P_PIDFD, pidfd.as_raw_fd().cast_unsigned(), flags)
        .is_err_and(|cause| cause.raw_os_error() == Some(libc::ECHILD))
}

/// Reaps any child that has exited. ECHILD: there are no children.
#[cfg(feature = "serve")]
pub(crate) fn waitid_any() -> io::Result<Option<Waited>> {
    waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::__WALL)
}

#[cfg(feature = "serve")]
fn waitid(which: libc::idtype_t, id: u32, flags: libc::c_int) -> io::Result<Option<Waited>> {
    loop {
        // SAFETY: siginfo_t is plain data for which zeroes are valid; waitid only writes to it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` outlives the call.
        let result = unsafe { libc::waitid(which, id, &mut info, flags) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: waitid has filled the SIGCHLD half of the union, or left it zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let status = match info.si_code {
            libc::CLD_EXITED => status as u32 & 0xff,
            _ => 128 + status as u32,
        };
        return Ok(Some(Waited { pid: pid as u32, status }));
    }
}
