//! Reaps the shim's children and passes each exit to the code that watches that process.

mod exit_watch;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub(crate) use exit_watch::ExitWatch;
#[cfg(unix)]
pub(crate) use unix::{expect, start, watch, watch_child};
#[cfg(windows)]
pub(crate) use windows::{expect, start, watch};
