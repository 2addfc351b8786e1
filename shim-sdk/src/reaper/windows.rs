//! Sends the exit of each process to its watchers.
//!
//! The handle of a process keeps its exit code while it is open, so no exit has to be kept for late
//! watchers. A thread waits for each process that is watched.

use std::thread;

use tokio::sync::oneshot;

use super::exit_watch::{ExitWatch, UNKNOWN_STATUS};
use crate::{Exit, ProcessHandle, Result, sys};

/// The stack of a thread that only waits.
const STACK_BYTES: usize = 64 << 10;

/// A process is being made, and its pid is not known yet.
#[derive(Debug)]
pub(crate) struct Expecting(());

/// Does nothing: the handles keep the exits.
pub(crate) fn expect() -> Expecting {
    Expecting(())
}

/// Watches a process.
pub(crate) fn watch(process: &ProcessHandle) -> ExitWatch {
    let pid = process.pid();
    let handle = process.handle().and_then(|handle| handle.try_clone_to_owned().ok());
    let Some(handle) = handle else {
        log::warn!("process {pid} was gone before it could be watched; its status is lost");
        return ExitWatch::known(Exit::now(UNKNOWN_STATUS));
    };
    let (sender, receiver) = oneshot::channel();
    let wait = move || {
        use std::os::windows::io::AsHandle;
        match sys::wait_for_exit(handle.as_handle()) {
            // The watcher may have been dropped.
            Ok(code) => drop(sender.send(Exit::now(code))),
            Err(cause) => log::warn!("wait for process {pid}: {cause}"),
        }
    };
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(wait);
    if let Err(cause) = thread {
        log::warn!("start a thread that waits for process {pid}: {cause}");
    }
    ExitWatch::pending(receiver)
}

/// Does nothing: Windows gives no orphans to a shim.
pub(crate) fn start() -> Result<()> {
    Ok(())
}
