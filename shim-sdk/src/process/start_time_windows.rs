//! When the kernel started a process: with its pid, what tells it from every other.

use std::os::windows::io::AsHandle;

use crate::{Pid, sys};

/// The process's creation, in units of 100 ns since 1601; `None` once it is gone.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    let process = sys::open_process(pid.get()).ok()?;
    sys::creation_time(process.as_handle()).ok()
}
