//! Reaps children and sends each exit to its watchers.
//!
//! A watched process is reaped when its pidfd becomes readable. The others are reaped at SIGCHLD:
//! they are orphans that the kernel gave to the shim as their subreaper. All reaping is done on the
//! event loop's thread. Code that makes a process calls [`expect`] first, so that an exit is kept
//! if the process is reaped before it is watched.
//!
//! Promise: while a process is expected, an exit that arrives before its watcher is kept, so the
//! exit of a short process is not lost. A kept exit is never used for a later process with the same
//! pid. Not here: deciding what an exit means (`process::lifecycle`).
//! See waitid(2), pidfd_open(2), prctl(2) PR_SET_CHILD_SUBREAPER.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;

use tokio::io::Interest;
use tokio::sync::oneshot;

use super::exit_watch::{ExitWatch, UNKNOWN_STATUS};
use crate::sys::{self, Waited};
use crate::{Error, Exit, Pid, ProcessHandle, Result};

/// The most exits without a watcher that are kept while a process is being made. The oldest are
/// dropped first.
const MAX_EARLY: usize = 4096;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::default());
}

/// A process is being made, and its pid is not known yet. Until this is dropped, exits without a
/// watcher are kept.
#[derive(Debug)]
pub(crate) struct Expecting(());

/// Keeps exits from now on.
pub(crate) fn expect() -> Expecting {
    TABLE.with_borrow_mut(|table| table.expecting += 1);
    Expecting(())
}

impl Drop for Expecting {
    fn drop(&mut self) {
        TABLE.with_borrow_mut(|table| {
            table.expecting -= 1;
            if table.expecting == 0 {
                table.early = VecDeque::new();
            }
        });
    }
}

#[derive(Default)]
struct Table {
    expecting: usize,
    watched: HashMap<Pid, Vec<oneshot::Sender<Exit>>>,
    early: VecDeque<(Pid, Exit)>,
}

impl Table {
    fn deliver(&mut self, waited: Waited) {
        let Some(pid) = Pid::new(waited.pid) else { return };
        let exit = Exit::now(waited.status);
        match self.watched.remove(&pid) {
            Some(watchers) => {
                for watcher in watchers {
                    // The watcher may have been dropped.
                    let _ = watcher.send(exit);
                }
            }
            // An orphan. No runtime will ask for its exit.
            None if self.expecting == 0 => {}
            None => {
                if self.early.len() == MAX_EARLY {
                    self.early.pop_front();
                }
                self.early.push_back((pid, exit));
            }
        }
    }

    fn take_early(&mut self, pid: Pid) -> Option<Exit> {
        let position = self.early.iter().rposition(|(early, _)| *early == pid)?;
        self.early.remove(position).map(|(_, exit)| exit)
    }
}

/// Watches a process. Must be called within the shim's runtime, on its thread.
pub(crate) fn watch(process: &ProcessHandle) -> ExitWatch {
    let pid = process.pid();
    let Some(pidfd) = process.pidfd() else {
        let early = TABLE.with_borrow_mut(|table| table.take_early(pid));
        return ExitWatch::known(early.unwrap_or_else(|| {
            log::warn!("process {pid} was gone before it could be watched; its status is lost");
            Exit::now(UNKNOWN_STATUS)
        }));
    };
    // There is a pidfd, so the pid is in use, and a kept exit is that of an earlier process.
    follow(pid, pidfd)
}

/// Watches a child whose pidfd was made by clone(2). It may have been reaped since. The caller has
/// called [`expect`] before it was made, and still holds the result.
pub(crate) fn watch_child(process: &ProcessHandle) -> ExitWatch {
    let pid = process.pid();
    let Some(pidfd) = process.pidfd() else { return watch(process) };
    if sys::is_reaped(pidfd)
        && let Some(exit) = TABLE.with_borrow_mut(|table| table.take_early(pid))
    {
        return ExitWatch::known(exit);
    }
    follow(pid, pidfd)
}

fn follow(pid: Pid, pidfd: BorrowedFd<'_>) -> ExitWatch {
    let (sender, receiver) = oneshot::channel();
    TABLE.with_borrow_mut(|table| {
        while table.take_early(pid).is_some() {}
        table.watched.entry(pid).or_default().push(sender);
    });
    match pidfd.try_clone_to_owned().and_then(|pidfd| sys::async_fd(pidfd, Interest::READABLE)) {
        Ok(pidfd) => {
            tokio::task::spawn_local(async move {
                // It fails only when the event loop shuts down.
                if pidfd.readable().await.is_ok() {
                    reap(pid).await;
                }
            });
        }
        // A child is still reaped at SIGCHLD.
        Err(cause) => log::warn!("watch the pidfd of process {pid}: {cause}"),
    }
    ExitWatch::pending(receiver)
}

/// Reaps a process whose pidfd shows that it has exited.
async fn reap(pid: Pid) {
    // The process may still be the child of another one, such as a runtime that is about to exit.
    // When that parent ends, this process becomes the parent.
    for _ in 0..50 {
        if !TABLE.with_borrow(|table| table.watched.contains_key(&pid)) {
            return; // reaped at SIGCHLD
        }
        match sys::waitid_pid(pid.get()) {
            Ok(Some(waited)) => return TABLE.with_borrow_mut(|table| table.deliver(waited)),
            Ok(None) => {}
            Err(cause) if cause.raw_os_error() == Some(libc::ECHILD) => {}
            Err(cause) => log::warn!("waitid(P_PID, {pid}): {cause}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    log::warn!("process {pid} has exited, and its status went to another parent");
    let waited = Waited { pid: pid.get(), status: UNKNOWN_STATUS };
    TABLE.with_borrow_mut(|table| table.deliver(waited));
}

/// Reaps every child that has exited.
pub(crate) fn sweep() {
    loop {
        match sys::waitid_any() {
            Ok(Some(waited)) => TABLE.with_borrow_mut(|table| table.deliver(waited)),
            Ok(None) => return,
            Err(cause) if cause.raw_os_error() == Some(libc::ECHILD) => return,
            Err(cause) => {
                log::warn!("waitid(P_ALL): {cause}");
                return;
            }
        }
    }
}

/// Makes this process the subreaper of its descendants, and reaps until the event loop ends.
pub(crate) fn start() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|cause| Error::io("prctl(PR_SET_CHILD_SUBREAPER, 1)", cause.into()))?;
    let attempt = |cause: io::Error| Error::io("watch for SIGCHLD", cause);
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().map_err(attempt)?;
    reader.set_nonblocking(true).map_err(attempt)?;
    signal_hook::low_level::pipe::register(libc::SIGCHLD, writer).map_err(attempt)?;
    let signals = sys::async_fd(reader.try_clone().map_err(attempt)?.into(), Interest::READABLE);
    let signals = signals.map_err(attempt)?;
    tokio::task::spawn_local(async move {
        let mut drained = [0; 64];
        // Children that exited before the registration have sent their signal already.
        sweep();
        while let Ok(mut ready) = signals.readable().await {
            while io::Read::read(&mut reader, &mut drained).is_ok_and(|read| read > 0) {}
            // Cleared before the sweep: a signal during it makes the pipe readable again.
            ready.clear_ready();
            sweep();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn table_test(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test());
    }

    fn spawned(script: &str) -> Pid {
        #[allow(clippy::zombie_processes)] // the reaper under test waits for it
        let child = Command::new("sh").args(["-c", script]).spawn().expect("sh");
        Pid::new(child.id()).expect("a pid")
    }

    #[test]
    fn an_exit_that_arrives_before_its_watcher_is_kept() {
        table_test(async || {
            let _expecting = expect();
            let pid = spawned("exit 7");
            // Reaped like an orphan, before anything watches it.
            let exit = loop {
                if let Ok(Some(waited)) = sys::waitid_pid(pid.get()) {
                    TABLE.with_borrow_mut(|table| table.deliver(waited));
                    break watch(&ProcessHandle::open(pid).expect("open")).await;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            };
            assert_eq!(exit.status, 7);
        });
    }

    #[test]
    fn a_kept_exit_is_not_that_of_a_later_process_with_the_same_number() {
        table_test(async || {
            let _expecting = expect();
            let pid = spawned("sleep 0.05; exit 3");
            let stale = Waited { pid: pid.get(), status: 99 };
            TABLE.with_borrow_mut(|table| table.deliver(stale));
            assert_eq!(watch(&ProcessHandle::open(pid).expect("open")).await.status, 3);
        });
    }

    #[test]
    fn a_death_by_signal_is_told_as_a_shell_tells_it() {
        table_test(async || {
            let pid = spawned("kill -TERM $$");
            assert_eq!(watch(&ProcessHandle::open(pid).expect("open")).await.status, 143);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn an_exit_that_another_parent_takes_is_reported_with_an_unknown_status() {
        // Process 1 exists, and is never a child of this one.
        let pid = Pid::new(1).expect("not 0");
        let (sender, exit) = oneshot::channel();
        TABLE.with_borrow_mut(|table| table.watched.entry(pid).or_default().push(sender));
        let begin = tokio::time::Instant::now();
        reap(pid).await;
        assert!(begin.elapsed() >= std::time::Duration::from_millis(900), "its parent may be slow");
        assert_eq!(exit.await.expect("told").status, UNKNOWN_STATUS);
    }

    #[test]
    fn a_process_that_is_no_child_is_reported_with_an_unknown_status() {
        table_test(async || {
            let gone = ProcessHandle::open(Pid::new(0x3fff_ffff).expect("not 0")).expect("open");
            assert_eq!(watch(&gone).await.status, UNKNOWN_STATUS);
        });
    }
}
