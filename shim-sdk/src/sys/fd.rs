//! Descriptors by number: inherited and received ones.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// The descriptor of a server's listener.
pub(crate) const LISTENER: RawFd = 3;

/// Takes ownership of a descriptor that recvmsg(2) has made for this process.
pub(crate) fn received(descriptor: RawFd) -> OwnedFd {
    // SAFETY: SCM_RIGHTS makes a new descriptor that no other code knows.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Closes every descriptor above the listener's. An inherited descriptor would be passed on to
/// every container. To be called before anything is opened.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor of these numbers yet.
    unsafe { libc::close_range(LISTENER as libc::c_uint + 1, libc::c_uint::MAX, 0) };
}

/// Takes over the listener that `start` passed. To be called once, before anything is opened.
pub(crate) fn take_listener() -> io::Result<UnixListener> {
    // SAFETY: fcntl checks that the descriptor is open, before any code owns it.
    if unsafe { libc::fcntl(LISTENER, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl has shown that it is open, and no other code can own it yet.
    let listener = unsafe { UnixListener::from_raw_fd(LISTENER) };
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(listener)
}

/// Changes a terminal's size. See TIOCSWINSZ in ioctl_tty(2).
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` outlives the call, which only reads it.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
