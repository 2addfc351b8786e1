//! Opens procfs of a pid namespace that is joined, for a root file system that is built outside of it.
//!
//! Since Linux 6.17 an option of procfs selects its pid namespace. Earlier kernels use the pid namespace
//! of the process that opens it:
//!
//! ```text
//!   intermediate ──clone──> isolated process          ──clone, as its sibling──> opener
//!                           empty root, no descriptor                            opens procfs,
//!                           joins the pid namespace                              sends it, is killed
//! ```
//!
//! The *isolated process* has an empty root and no descriptor but its socket. The *opener* is its clone in
//! the pid namespace. Other processes in that namespace see the opener, so it must not have the host's
//! root.
//!
//! Promise: the process that the container's processes see has an empty root, one socket and only the
//! capability to mount, and it is killed afterwards. Its descriptor is checked before it is mounted.
//! See fsopen(2), pid_namespaces(7), the kernel's filesystems/proc on `pidns=`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_fd, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, chroot, fchdir, kill_process, pivot_root, waitpid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, set_capabilities,
};

use super::super::wire::{Failure, Reason};
use super::failure::failed;
use super::init_channel::{self, InitChannel, Message};
use super::release_pipe;
use crate::sys;

/// One packet carries at most this many descriptors; no spec is expected to mount procfs more often.
const MOST: usize = 16;

/// Opens procfs `times` times in a pid namespace. The clones of the calling process must be in the shim's
/// pid namespace.
pub(super) fn open(namespace: BorrowedFd<'_>, times: usize) -> Result<Vec<OwnedFd>, Failure> {
    if times == 0 {
        return Ok(Vec::new());
    }
    if times > MOST {
        let text = format!("{times} mounts of proc, at most {MOST} are possible");
        return Err(Failure::new(Reason::Unsupported, text));
    }
    // The tests are of what older kernels need.
    if !cfg!(test)
        && let Ok(opened) = by_option(namespace, times)
    {
        return Ok(opened);
    }
    by_process(namespace, times)
}

/// Opens it with the option `pidns`, if the kernel has it.
fn by_option(namespace: BorrowedFd<'_>, times: usize) -> rustix::io::Result<Vec<OwnedFd>> {
    let open = |_| {
        let opened = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_fd(&opened, "pidns", namespace)?;
        Ok(opened)
    };
    (0..times).map(open).collect()
}

/// Opens it in a process that joins the namespace.
fn by_process(namespace: BorrowedFd<'_>, times: usize) -> Result<Vec<OwnedFd>, Failure> {
    let (here, there) = init_channel::pair().map_err(|error| failed("socketpair", &error))?;
    match sys::clone::clone_child().map_err(|error| failed("clone", &error))? {
        Some((isolated, _)) => {
            drop(there);
            let opened = receive(&here, isolated);
            reap(isolated);
            opened
        }
        None => {
            if let Err(error) = retreat(namespace, &there, times) {
                let _ = there.send(&Message::NotOpened(error.to_string()));
            }
            sys::clone::exit(1)
        }
    }
}

fn receive(here: &InitChannel, isolated: i32) -> Result<Vec<OwnedFd>, Failure> {
    let none = |why: Option<Message>| {
        let why = match why {
            Some(Message::NotOpened(why)) => format!(": {why}"),
            _ => String::new(),
        };
        let what = "procfs of the joined pid namespace was not opened";
        Failure::new(Reason::System, format!("{what}{why}"))
    };
    let cloned = here.receive_from().map_err(|error| init_channel::helper_left(&error))?;
    // Others may make the opener say anything, and what is named here is killed.
    let pid = match cloned {
        Some((Message::Cloned { pid }, _, sender)) if sender == Some(isolated) => pid,
        other => return Err(none(other.map(|(word, ..)| word))),
    };
    let opened = here.receive();
    // It may have been stopped, before or after.
    if let Some(opener) = Pid::from_raw(pid) {
        let _ = kill_process(opener, Signal::KILL);
    }
    reap(pid);
    match opened.map_err(|error| init_channel::helper_left(&error))? {
        Some((Message::Opened, opened)) => Ok(opened),
        other => Err(none(other.map(|(word, _)| word))),
    }
}

/// The isolated process's part.
fn retreat(namespace: BorrowedFd<'_>, there: &InitChannel, times: usize) -> std::io::Result<()> {
    sys::fd::close_all_but(&[namespace, there.as_fd()])?;
    empty_root()?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))?;
    sys::fd::close_all_but(&[there.as_fd()])?;
    let needed = CapabilitySet::SYS_ADMIN;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: needed, permitted: needed, inheritable })?;
    let (hold, release) = release_pipe::make()?;
    if let Some((pid, _)) = sys::clone::clone_sibling(false, None)? {
        there.send(&Message::Cloned { pid })?;
        release.go();
        sys::clone::exit(0)
    }
    drop(release);
    if !hold.wait() {
        return Err(std::io::Error::other("it was not told of"));
    }
    let open = |_| fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC);
    let opened: Vec<_> = (0..times).map(open).collect::<Result<_, _>>()?;
    let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    there.send_with(&Message::Opened, &opened)
}

/// Makes an empty tmpfs the root, and leaves every other file system.
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;

    use rustix::fs::{Mode, OFlags, openat};
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_kernel_that_can_shows_a_pid_namespace_without_a_process_in_it() {
        let mut other = Command::new("unshare");
        let other = other.args(["--pid", "--fork", "--kill-child", "sleep", "60"]);
        let mut other = other.spawn().unwrap();
        let list = format!("/proc/{0}/task/{0}/children", other.id());
        let init = loop {
            let children = fs::read_to_string(&list).unwrap();
            if let Some(init) = children.split_ascii_whitespace().next() {
                break init.to_owned();
            }
        };
        let namespace = File::open(format!("/proc/{init}/ns/pid")).unwrap();
        match by_option(namespace.as_fd(), 2) {
            Ok(opened) => {
                for context in opened {
                    fsconfig_create(&context).unwrap();
                    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
                    let procfs = fsmount(&context, flags, MountAttrFlags::empty()).unwrap();
                    let number = |path: &str| openat(&procfs, path, OFlags::PATH, Mode::empty());
                    number("1").unwrap();
                    let own = std::process::id().to_string();
                    assert_eq!(number(&own).unwrap_err(), Errno::NOENT);
                }
            }
            // Before 6.17.
            Err(error) => assert_eq!(error, Errno::INVAL),
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
