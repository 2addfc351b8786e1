//! Where a new init waits for its control groups, which are made while it makes its mounts.
//!
//! ```text
//!   helper:  clone, make the groups, set their limits, open their doors ──┐
//!   init:    namespaces, mounts, pivot ───────────────────── pass ────────┴── the user's command
//! ```
//!
//! A *door* is the open `tasks` file of a group of version 1: a process of one thread joins by writing
//! to it.
//!
//! Promise: nothing of the user's runs before it is in all of its groups, and an init whose helper
//! gives up or dies does not go on.
//! See cgroups(7), unix(7) on SCM_RIGHTS.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::super::wire;
use super::cgroup::{self, Cgroups};
use crate::sys;

/// What goes with the doors; any text will do.
const WORD: &[u8] = b"in";

/// The helper's side.
pub(super) struct Keeper(OwnedFd);

/// Init's side.
pub(super) struct Gate(OwnedFd);

/// Makes both.
pub(super) fn make() -> io::Result<(Keeper, Gate)> {
    let (near, far) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Keeper(near), Gate(far)))
}

impl Keeper {
    /// Lets init into its groups.
    pub(super) fn open(self, groups: &Cgroups) -> io::Result<()> {
        let doors = groups.doors()?;
        let doors: Vec<_> = doors.iter().map(AsFd::as_fd).collect();
        wire::send(&self.0, WORD, &doors)
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Gate {
    /// Waits, and goes in. An init that is left waiting ends here; the helper says why, or has died.
    pub(super) fn pass(&self) -> io::Result<()> {
        match self.doors()? {
            Some(doors) => cgroup::join(&doors),
            None => sys::clone::exit(1),
        }
    }

    fn doors(&self) -> io::Result<Option<Vec<File>>> {
        let doors = wire::receive(&self.0)?;
        Ok(doors.map(|(_, doors)| doors.into_iter().map(File::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_left_at_the_gate_is_shown_no_doors() {
        let (keeper, gate) = make().unwrap();
        drop(keeper);
        assert!(gate.doors().unwrap().is_none());
        let (keeper, gate) = make().unwrap();
        keeper.open(&Cgroups::default()).unwrap();
        assert!(gate.doors().unwrap().unwrap().is_empty());
    }
}
