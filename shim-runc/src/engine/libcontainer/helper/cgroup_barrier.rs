//! Makes a new init wait for its control groups, which the helper makes while init makes its mounts.
//!
//! ```text
//!   helper:  clone, make the groups, set their limits, send the `tasks` files ──┐
//!   init:    namespaces, mounts, pivot_root ─────────────── join_groups ────────┴── the user's command
//! ```
//!
//! A process with one thread joins a group of version 1 by writing to the group's open `tasks` file.
//!
//! Promise: the user's command runs only after init is in all of its groups. An init whose helper gives
//! up or dies exits.
//! See cgroups(7), unix(7) on SCM_RIGHTS.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::super::wire;
use crate::cgroup::directories::{GroupDirectories, join};
use crate::sys;

/// The bytes of the packet that carries the files. Init ignores them.
const PAYLOAD: &[u8] = b"in";

/// The helper's end.
pub(super) struct BarrierSender(OwnedFd);

/// Init's end.
pub(super) struct BarrierReceiver(OwnedFd);

/// Makes both ends.
pub(super) fn make() -> io::Result<(BarrierSender, BarrierReceiver)> {
    let (near, far) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((BarrierSender(near), BarrierReceiver(far)))
}

impl BarrierSender {
    /// Sends the open `tasks` files of the groups to init.
    pub(super) fn admit(self, groups: &GroupDirectories) -> io::Result<()> {
        let files = groups.tasks_files()?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        wire::send(&self.0, PAYLOAD, &files)
    }
}

impl AsFd for BarrierReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl BarrierReceiver {
    /// Waits for the files and joins the groups. Exits if the helper closes its end instead: the helper
    /// reports the reason, or has died.
    pub(super) fn join_groups(&self) -> io::Result<()> {
        match self.files()? {
            Some(files) => join(&files),
            None => sys::clone::exit(1),
        }
    }

    fn files(&self) -> io::Result<Option<Vec<File>>> {
        let files = wire::receive(&self.0)?;
        Ok(files.map(|(_, files)| files.into_iter().map(File::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_whose_helper_has_gone_gets_no_files() {
        let (sender, receiver) = make().unwrap();
        drop(sender);
        assert!(receiver.files().unwrap().is_none());
        let (sender, receiver) = make().unwrap();
        sender.admit(&GroupDirectories::default()).unwrap();
        assert!(receiver.files().unwrap().unwrap().is_empty());
    }
}
