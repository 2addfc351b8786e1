//! Starts programs: helpers of the shim, and processes of containers.
//!
//! The reaper waits for every child of the shim, so `std::process::Child::wait` would find no
//! child. These calls start a process and leave the waiting to the reaper. On Unix they do not
//! block the event loop; `std::process::Command::spawn` would block it until the program runs.
//!
//! [`spawn`] starts a helper that serves one call. [`spawn_process`] starts a process of a
//! container.

mod program;
#[cfg(unix)]
mod thread;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use program::Program;
#[cfg(unix)]
pub(crate) use thread::{spawn_blocking, start as start_thread};
#[cfg(unix)]
pub use unix::{Child, Output, spawn, spawn_now, spawn_process};
#[cfg(windows)]
pub use windows::spawn_process;
