//! The system calls of this crate that need `unsafe`. No other folder has any, except one test
//! fixture.
//!
//! Promise: each function takes and returns owned or borrowed descriptors, and marks those that it
//! opens close-on-exec.
//! Not here: calls that nix or rustix wraps safely.
#![allow(unsafe_code)] // system calls that neither nix nor rustix wraps, and inherited descriptors

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod fd;
pub(crate) mod keyring;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod terminal;

use std::ffi::c_long;
use std::io;

/// Turns the result of `libc::syscall` into a `Result`.
fn check(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
