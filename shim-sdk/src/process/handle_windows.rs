//! A process, held by a handle so that its number cannot come to mean another one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};

use crate::{Error, Pid, Result, Signal, sys};

thread_local! {
    /// Processes that were spawned and not asked for yet. Without an open handle the number of one
    /// that has ended already would be free.
    static SPAWNED: RefCell<HashMap<Pid, OwnedHandle>> = RefCell::default();
}

/// A process of a container.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: Pid,
    handle: Option<OwnedHandle>,
}

/// Keeps a process that was just spawned until it is asked for.
#[cfg(feature = "serve")]
pub(crate) fn keep(pid: Pid, handle: OwnedHandle) {
    SPAWNED.with_borrow_mut(|spawned| spawned.insert(pid, handle));
}

impl ProcessHandle {
    /// Takes hold of a process. One that is gone already is held as such: signals to it answer
    /// "not found".
    pub fn open(pid: Pid) -> Result<Self> {
        if let Some(handle) = SPAWNED.with_borrow_mut(|spawned| spawned.remove(&pid)) {
            return Ok(Self { pid, handle: Some(handle) });
        }
        match sys::open_process(pid.get()) {
            Ok(handle) => Ok(Self { pid, handle: Some(handle) }),
            // ERROR_INVALID_PARAMETER: there is no such process.
            Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => {
                Ok(Self { pid, handle: None })
            }
            Err(cause) => Err(Error::io(format!("OpenProcess({pid})"), cause)),
        }
    }

    /// The process as the host numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal: those that end a process do so at once, since nothing can be told it here.
    /// A process that has ended answers "not found".
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let attempt = |cause| Error::io(format!("signal process {} ({signal})", self.pid), cause);
        let Some(handle) = self.handle() else { return Err(finished()) };
        if sys::has_ended(handle).map_err(attempt)? {
            return Err(finished());
        }
        match signal {
            Signal::PROBE => Ok(()),
            Signal::KILL | Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP => {
                // As a shell tells a death by signal.
                match sys::terminate_process(handle, 128 + signal.number()) {
                    // It ended in between.
                    Err(_) if sys::has_ended(handle).map_err(attempt)? => Err(finished()),
                    done => done.map_err(attempt),
                }
            }
            _ => Err(Error::unimplemented(format!("{signal} on Windows"))),
        }
    }

    /// The handle, unless the process was gone when this was opened.
    pub(crate) fn handle(&self) -> Option<BorrowedHandle<'_>> {
        self.handle.as_ref().map(AsHandle::as_handle)
    }
}

fn finished() -> Error {
    // containerd and its clients look for these words.
    Error::not_found("process already finished")
}
