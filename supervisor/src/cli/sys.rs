//! System calls that have no safe wrapper in the crates we use.
#![allow(unsafe_code)] // TIOCGWINSZ is an ioctl(2)

use std::os::fd::RawFd;

use nix::libc::{TIOCGWINSZ, winsize};

mod ioctl {
    nix::ioctl_read_bad!(tiocgwinsz, super::TIOCGWINSZ, super::winsize);
}

/// The size of a terminal. See tty_ioctl(4).
pub(crate) fn tiocgwinsz(fd: RawFd) -> nix::Result<winsize> {
    let mut size = winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid winsize for the kernel to fill; a bad descriptor is an error.
    unsafe { ioctl::tiocgwinsz(fd, &raw mut size) }?;
    Ok(size)
}
