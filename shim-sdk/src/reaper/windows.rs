//! Hands each process's exit to whoever asked for it.
//!
//! Every process has a handle of its own here, which keeps its exit code for as long as it is open;
//! so nothing has to be kept for late watchers. A thread waits for each process that is watched.

use std::thread;

use tokio::sync::oneshot;

use super::exit_watch::{ExitWatch, UNKNOWN_STATUS};
use crate::{Exit, ProcessHandle, Result, sys};

/// The stack of a thread that only waits.
const STACK_BYTES: usize = 64 << 10;

/// A process is being made whose pid is not known yet.
#[derive(Debug)]
pub(crate) struct Expecting(());

/// Exits are kept by the processes' handles.
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
            // A watcher that is gone no longer cares.
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

/// Nothing has to be set up: there are no orphans here that a shim would be given.
pub(crate) fn start() -> Result<()> {
    Ok(())
}
