//! Procfs of a pid namespace that is joined, for a root file system that is built outside of it.
//!
//! ```text
//!   intermediate ──clone──> hermit                     ──clone, as its sibling──> opener
//!                           empty root, no descriptor                             opens procfs,
//!                           joins the pid namespace                               sends it, is killed
//! ```
//!
//! Procfs shows the pid namespace of the process that opens it. That process is seen by the others
//! that are there, and it must not be one that has the host's root.
//!
//! Promise: what others see has an empty root, one socket, and is gone afterwards whatever they do
//! to it. See fsopen(2), pid_namespaces(7).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, chroot, fchdir, kill_process, pivot_root, waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::sys::process as call;
use super::super::wire::{Failure, Reason};
use super::hold;
use super::words::{self, Word, Words};

/// More than one packet carries is more than anybody mounts.
const MOST: usize = 16;

/// Opens procfs so many times in a pid namespace. Called by a process whose own clones are in the
/// shim's pid namespace.
pub(super) fn open(namespace: BorrowedFd<'_>, times: usize) -> Result<Vec<OwnedFd>, Failure> {
    if times == 0 {
        return Ok(Vec::new());
    }
    if times > MOST {
        let text = format!("{times} mounts of proc, at most {MOST} are possible");
        return Err(Failure::new(Reason::Unsupported, text));
    }
    let (here, there) = words::pair().map_err(|error| failed("socketpair", &error))?;
    match call::clone_child().map_err(|error| failed("clone", &error))? {
        Some((hermit, _)) => {
            drop(there);
            let opened = receive(&here);
            reap(hermit);
            opened
        }
        None => {
            let _ = retreat(namespace, &there, times);
            call::exit(1)
        }
    }
}

fn receive(here: &Words) -> Result<Vec<OwnedFd>, Failure> {
    let none = || Failure::new(Reason::Other, "procfs of the joined pid namespace was not opened");
    let Some((Word::Cloned { pid }, _)) = here.hear().map_err(|error| words::left(&error))? else {
        return Err(none());
    };
    let opened = here.hear();
    // It may have been stopped, before or after.
    if let Some(opener) = Pid::from_raw(pid) {
        let _ = kill_process(opener, Signal::KILL);
    }
    reap(pid);
    match opened.map_err(|error| words::left(&error))? {
        Some((Word::Opened, opened)) => Ok(opened),
        _ => Err(none()),
    }
}

/// The hermit's part.
fn retreat(namespace: BorrowedFd<'_>, there: &Words, times: usize) -> std::io::Result<()> {
    call::close_all_but(&[namespace, there.as_fd()])?;
    empty_root()?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))?;
    call::close_all_but(&[there.as_fd()])?;
    let (hold, release) = hold::make()?;
    if let Some((pid, _)) = call::clone_sibling(false, None)? {
        there.say(&Word::Cloned { pid })?;
        release.go();
        call::exit(0)
    }
    drop(release);
    if !hold.wait() {
        return Ok(());
    }
    let open = |_| fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC);
    let opened: Vec<_> = (0..times).map(open).collect::<Result<_, _>>()?;
    let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    there.hand(&Word::Opened, &opened)
}

/// Leaves every file system that there is.
fn empty_root() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let empty = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&empty)?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let empty = fsmount(&empty, FsMountFlags::FSMOUNT_CLOEXEC, read_only)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&empty, "", rustix::fs::CWD, Path::new("/"), flags)?;
    fchdir(&empty)?;
    // The root of an initramfs cannot be exchanged.
    if pivot_root(".", ".").is_ok() {
        unmount(".", UnmountFlags::DETACH)?;
    } else {
        chroot(".")?;
    }
    chdir("/").map_err(Into::into)
}

fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::Other, format!("{what}: {error}"))
}
