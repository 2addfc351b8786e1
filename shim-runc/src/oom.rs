//! Reports the out-of-memory kills of a container.
//!
//! On cgroup v1 the kernel signals an eventfd when a group runs out of memory, before it kills a
//! process. On v2 it changes `memory.events` after it has killed one. Both versions count the kills.
//! Promise: each counted kill is reported once, also one just before init's exit
//! ([`OomMonitor::finish`]).
//!
//! See the kernel's admin-guide/cgroup-v1/memory ("OOM Control"), cgroup-v2 ("memory.events"),
//! inotify(7), eventfd(2).

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use shim_sdk::Notifier;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::cgroup::Cgroup;
use crate::error::{EngineError, SystemCall};
use crate::sys;

/// The time between the signal of the kernel and the counted kill on v1. If init exits within this
/// time, the kill is still reported before the exit ([`OomMonitor::finish`]).
const SETTLE: Duration = Duration::from_millis(20);

/// Monitors one container until it is dropped.
#[derive(Debug)]
pub(crate) struct OomMonitor {
    counted: Rc<Counted>,
    task: JoinHandle<()>,
}

/// How many kills have been reported.
#[derive(Debug)]
struct Counted {
    cgroup: Cgroup,
    notifier: Notifier,
    reported: Cell<u64>,
}

impl OomMonitor {
    /// Monitors a container's cgroups. Returns `None` if they have no memory controller.
    ///
    /// Must be called on the shim's thread.
    pub(crate) fn begin(cgroup: &Cgroup, notifier: Notifier) -> Result<Option<Self>, EngineError> {
        let counted = Rc::new(Counted { cgroup: cgroup.clone(), notifier, reported: Cell::new(0) });
        let source = match cgroup {
            Cgroup::V1(groups) => match groups.controller("memory") {
                Some(group) => eventfd(group.join("memory.oom_control"), group)?,
                None => return Ok(None),
            },
            Cgroup::V2(group) => {
                let events = group.memory_events();
                if !events.exists() {
                    return Ok(None);
                }
                inotify(events)?
            }
        };
        let source = sys::poll::readable(source)
            .map_err(|cause| EngineError::system(SystemCall::EpollAdd, cause))?;
        let task = tokio::task::spawn_local(watch(source, Rc::clone(&counted)));
        Ok(Some(Self { counted, task }))
    }

    /// Stops, and reports the kills that have not been reported yet.
    pub(crate) fn finish(&self) {
        self.task.abort();
        self.counted.report_counted();
    }
}

impl Drop for OomMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Counted {
    fn kills(&self) -> Option<u64> {
        match &self.cgroup {
            Cgroup::V1(groups) => groups.oom_kills(),
            Cgroup::V2(group) => group.oom_kills(),
        }
    }

    /// Reports the kills that were counted since the last report.
    fn report_counted(&self) {
        let kills = self.kills().unwrap_or_default();
        for _ in self.reported.get()..kills {
            self.report();
        }
    }

    fn report(&self) {
        self.reported.set(self.reported.get() + 1);
        self.notifier.oom();
    }
}

async fn watch(source: AsyncFd<OwnedFd>, counted: Rc<Counted>) {
    // Ends when the cgroup is removed.
    while let Ok(mut ready) = source.readable().await {
        match ready.try_io(|source| drain(source.get_ref())) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            // There was nothing to read; the readiness is now cleared.
            Err(_would_block) => continue,
        }
        if let Cgroup::V1(groups) = &counted.cgroup {
            // The kernel signals when memory runs out, again for each process that waits for
            // memory, and once more when the group is removed. It counts the kill a little later.
            tokio::time::sleep(SETTLE).await;
            match groups.out_of_memory() {
                None => return,
                Some(true) => counted.report(),
                Some(false) => counted.report_counted(),
            }
        } else {
            counted.report_counted();
        }
    }
}

fn drain(source: &OwnedFd) -> io::Result<()> {
    rustix::io::read(source, &mut [0; 4096])?;
    Ok(())
}

/// A descriptor that becomes readable when a v1 group runs out of memory.
fn eventfd(control: PathBuf, group: &std::path::Path) -> Result<OwnedFd, EngineError> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|cause| EngineError::system(SystemCall::Eventfd, cause))?;
    let control_file =
        File::open(&control).map_err(|cause| EngineError::file("open", &control, cause))?;
    let registry = group.join("cgroup.event_control");
    let request = format!("{} {}", event.as_fd().as_raw_fd(), control_file.as_fd().as_raw_fd());
    fs::OpenOptions::new()
        .write(true)
        .open(&registry)
        .and_then(|mut file| io::Write::write_all(&mut file, request.as_bytes()))
        .map_err(|cause| EngineError::file("register an event in", registry, cause))?;
    Ok(event)
}

/// A descriptor that becomes readable when `memory.events` of a v2 group changes.
fn inotify(events: PathBuf) -> Result<OwnedFd, EngineError> {
    let inotify = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|cause| EngineError::system(SystemCall::InotifyInit, cause))?;
    rustix::fs::inotify::add_watch(&inotify, &events, WatchFlags::MODIFY)
        .map_err(|cause| EngineError::file("watch", events, cause))?;
    Ok(inotify)
}
