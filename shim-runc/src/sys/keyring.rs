//! Session keyrings. See keyctl(2).

use std::ffi::{CStr, c_long, c_ulong};
use std::io;

use super::check;

/// Numbers of keyctl(2).
const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;

const KEYCTL_SETPERM: c_long = 5;

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING; returns the keyring.
pub(crate) fn join_session_keyring(name: &CStr) -> io::Result<c_long> {
    // SAFETY: the name is NUL-terminated and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// keyctl(2) KEYCTL_SETPERM.
pub(crate) fn set_key_permissions(key: c_long, permissions: u32) -> io::Result<()> {
    let permissions = c_ulong::from(permissions);
    // SAFETY: the call takes numbers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) }).map(drop)
}
