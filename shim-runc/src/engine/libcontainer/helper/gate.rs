//! Where a new init waits for its control groups, which are made while it makes its mounts.
//!
//! ```text
//!   helper:  clone, make the groups, set their limits, open their doors ──┐
//!   init:    namespaces, mounts, pivot ───────────────────── pass ────────┴── the user's command
//! ```
//!
//! Promise: nothing of the user's runs before it is in all of its groups, and an init whose helper
//! gives up or dies does not go on.
//! See cgroups(7), unix(7) on SCM_RIGHTS.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::cgroup::{self, Cgroups};

/// More than there are hierarchies of version 1.
const DOORS: usize = 16;

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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DOORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !doors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&doors)) {
            return Err(io::Error::other("more control groups than a container can have"));
        }
        sendmsg(&self.0, &[IoSlice::new(b"in")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Gate {
    /// Waits, and goes in. An init that is left waiting ends here; the helper says why, or has died.
    pub(super) fn pass(&self) -> io::Result<()> {
        match self.doors()? {
            Some(doors) => cgroup::join(doors),
            None => std::process::exit(1),
        }
    }

    fn doors(&self) -> io::Result<Option<Vec<File>>> {
        let mut word = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DOORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut word)];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let doors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(doors) => doors.map(File::from).collect(),
            _ => Vec::new(),
        });
        Ok(Some(doors.collect()))
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
