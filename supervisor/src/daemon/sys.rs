//! The process-wide state that a daemon sets once, at its start, on its only thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

/// The first descriptor of sd_listen_fds(3).
const LISTEN_FDS_START: i32 = 3;

/// The listening socket that the service manager passed, if this process was started by one.
///
/// Call once, before anything else opens descriptors.
pub(super) fn inherited_listener() -> io::Result<Option<UnixListener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let is_socket = std::fs::read_link("/proc/self/fd/3")
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            if !is_socket {
                return Err(io::Error::other("descriptor 3 of socket activation is no socket"));
            }
            // SAFETY: it is open, as was just seen; the service manager passes this descriptor to this process, LISTEN_PID says
            // so, and nothing else here takes it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(LISTEN_FDS_START) };
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
            let listening = rustix::net::sockopt::socket_acceptconn(&descriptor)?;
            if !listening {
                return Err(io::Error::other("descriptor 3 of socket activation does not listen"));
            }
            Ok(Some(UnixListener::from(descriptor)))
        }
        Some(more) => {
            Err(io::Error::other(format!("socket activation passed {more} sockets, one is wanted")))
        }
    }
}

/// Gives every signal its default action, whatever the client that started this daemon had ignored:
/// shims and containers would inherit it. SIGPIPE stays ignored, as Rust programs have it.
pub(super) fn reset_signals() {
    for signal in 1..libc::SIGRTMAX() {
        if ![libc::SIGPIPE, libc::SIGKILL, libc::SIGSTOP].contains(&signal) {
            // SAFETY: SIG_DFL is a valid action, and no handler of ours is installed yet. Numbers
            // that the C library keeps for itself are refused with EINVAL, which changes nothing.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Marks every descriptor but the standard streams close-on-exec, those too that this process was
/// started with: a daemon, and the shims of a daemon, must not hold on to what is not theirs.
pub(super) fn keep_descriptors_from_children() {
    // SAFETY: no descriptor is closed; they only do not reach the next program.
    let result = unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    };
    if result != 0 {
        // Before Linux 5.11. What leaks then is what the caller had leaked to us.
        let error = io::Error::last_os_error();
        log::debug!("close_range(3, -, CLOSE_RANGE_CLOEXEC): {error}");
    }
}
