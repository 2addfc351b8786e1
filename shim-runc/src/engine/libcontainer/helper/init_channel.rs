//! The messages between a helper and the processes that it has cloned, on a socket of their own.
//!
//! Promise: each side reads the end of the file at once when the other side dies, and waits for a message
//! no longer than a call may take. The helper's end receives the pid of each sender from the kernel: a
//! process that the container's processes see can be made to send any message.
//! Only one side holds each end: a clone closes the helper's end, the helper closes the clone's end.
//! See unix(7).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::network::cidr::CidrAddress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::super::DEADLINE;
use super::super::wire::{self, Failure, Reason};

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The intermediate process has cloned init, or the process of an exec.
    Cloned { pid: i32 },
    /// The intermediate process is in a new user namespace without mappings. Answered by `Done`.
    Mapping,
    /// The root file system is built, and the host's is still the root. Answered by `Done`.
    Hooks,
    /// Init is in its network namespace. Answered by `Moved`.
    Devices,
    /// The addresses that init gives back to the devices that were moved into its namespace.
    Moved(HashMap<String, Vec<CidrAddress>>),
    /// Carries the descriptor of the seccomp notifications. Answered by `Done`.
    Listener,
    /// Carries descriptors of procfs, opened and not mounted yet.
    Opened,
    /// Procfs could not be opened, and why.
    NotOpened(String),
    /// Init waits for its start. It is the last message.
    Ready,
    /// The request is done.
    Done,
}

/// A message, the descriptors that it carries, and the pid of its sender.
pub(super) type Received = (Message, Vec<OwnedFd>, Option<i32>);

/// One end of the socket.
#[derive(Debug)]
pub(super) struct InitChannel(OwnedFd);

/// Makes both ends.
pub(super) fn pair() -> io::Result<(InitChannel, InitChannel)> {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_passcred(&near, true)?;
    Ok((InitChannel(near), InitChannel(far)))
}

impl InitChannel {
    /// Sends a message.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        wire::send(&self.0, &serde_json::to_vec(message)?, &[])
    }

    /// Sends a message with descriptors.
    pub(super) fn send_with(&self, message: &Message, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(&self.0, &serde_json::to_vec(message)?, beside)
    }

    /// Sends a message and waits for `Done`.
    pub(super) fn request(&self, message: &Message) -> Result<(), Failure> {
        self.send(message).map_err(|error| helper_left(&error))?;
        self.wait_done()
    }

    /// Waits for `Done`.
    pub(super) fn wait_done(&self) -> Result<(), Failure> {
        match self.receive().map_err(|error| helper_left(&error))? {
            Some((Message::Done, _)) => Ok(()),
            other => Err(helper_left(&io::Error::other(format!("{other:?}")))),
        }
    }

    /// Waits for a message; `None` when the other side has ended.
    pub(super) fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        Ok(self.receive_from()?.map(|(message, beside, _)| (message, beside)))
    }

    /// The same at the helper's end, with the pid of the sender.
    pub(super) fn receive_from(&self) -> io::Result<Option<Received>> {
        self.wait()?;
        match wire::receive_from(&self.0) {
            Ok(Some((bytes, beside, sender))) => {
                Ok(Some((serde_json::from_slice(&bytes)?, beside, sender)))
            }
            Ok(None) => Ok(None),
            // The other side ended with a message of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wait(&self) -> io::Result<()> {
        let seconds = i64::try_from(DEADLINE.as_secs()).unwrap_or(i64::MAX);
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let mut readable = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut readable, Some(&limit)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// The helper has given up, and reports the reason itself, or has died.
pub(super) fn helper_left(error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::ProcessEnded, format!("the helper has left: {error}"))
}

impl AsFd for InitChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_arrives_and_so_does_the_end() {
        let (here, there) = pair().unwrap();
        there.send(&Message::Cloned { pid: 7 }).unwrap();
        drop(there);
        let (heard, _, sender) = here.receive_from().unwrap().unwrap();
        assert!(matches!(heard, Message::Cloned { pid: 7 }), "{heard:?}");
        assert_eq!(sender, Some(rustix::process::getpid().as_raw_nonzero().get()));
        assert!(here.receive().unwrap().is_none());
    }
}
