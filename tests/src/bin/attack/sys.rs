//! Calls that no library of ours has: keyrings, and the attributes of a mount by its descriptor.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
const KEYCTL_SEARCH: libc::c_long = 10;
const SESSION: libc::c_long = -3;

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL in it")
}

fn checked(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A new session keyring for this process and those that it starts.
pub(crate) fn join_session_keyring(name: &str) -> io::Result<()> {
    let name = text(name);
    // SAFETY: keyctl(2): the name is a string that outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    checked(answer).map(drop)
}

/// Adds a key to the session keyring.
pub(crate) fn add_key(description: &str) -> io::Result<()> {
    let (kind, description) = (text("user"), text(description));
    // SAFETY: add_key(2): two strings and a payload of one byte, which outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            description.as_ptr(),
            b"x".as_ptr(),
            1usize,
            SESSION,
        )
    };
    checked(answer).map(drop)
}

/// Whether the session keyring leads to a key.
pub(crate) fn finds_key(description: &str) -> bool {
    let (kind, description) = (text("user"), text(description));
    // SAFETY: keyctl(2): two strings that outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_SEARCH,
            SESSION,
            kind.as_ptr(),
            description.as_ptr(),
            0usize,
        )
    };
    answer > 0
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Makes the mount of a descriptor writable.
pub(crate) fn make_writable(mount: BorrowedFd<'_>) -> io::Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let attributes = MountAttr { set: 0, clear: MOUNT_ATTR_RDONLY, propagation: 0, userns: 0 };
    // SAFETY: mount_setattr(2): an empty path, and a struct of the size given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    checked(answer).map(drop)
}
