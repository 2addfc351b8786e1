//! What a helper and what it cloned say to each other, on a socket of their own.
//!
//! Promise: a helper that dies is noticed by the clone, and a clone that ends by the helper, at once
//! (end of file); neither waits for the other beyond the bound of a call. The near end knows which
//! process a word is from: a clone that others see may be made to say anything.
//! Each end of the socket is held by one side alone: a clone closes the helper's end, the helper
//! the clone's.
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
pub(super) enum Word {
    /// An intermediate process has cloned the one that stays.
    Cloned { pid: i32 },
    /// The intermediate process is in a user namespace that has no mappings yet. Answered by `Done`.
    Mapping,
    /// The root file system stands, the host's is still there. Answered by `Done`.
    Hooks,
    /// The network namespace stands. Answered by `Moved`.
    Devices,
    /// What init is to give back to the devices that were moved to it.
    Moved(HashMap<String, Vec<CidrAddress>>),
    /// A listener for the notifications of the profile is beside the word. Answered by `Done`.
    Listener,
    /// Procfs is beside the word, opened and not mounted yet.
    Opened,
    /// Procfs could not be opened, and why.
    NotOpened(String),
    /// Init waits for its start; it says nothing more.
    Ready,
    /// What was asked for is done.
    Done,
}

/// A word, the descriptors beside it, and the pid of who says it.
pub(super) type Heard = (Word, Vec<OwnedFd>, Option<i32>);

/// One end.
#[derive(Debug)]
pub(super) struct Words(OwnedFd);

/// Makes both ends.
pub(super) fn pair() -> io::Result<(Words, Words)> {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_passcred(&near, true)?;
    Ok((Words(near), Words(far)))
}

impl Words {
    /// Says one.
    pub(super) fn say(&self, word: &Word) -> io::Result<()> {
        wire::send(&self.0, &serde_json::to_vec(word)?, &[])
    }

    /// Says one with descriptors beside it.
    pub(super) fn hand(&self, word: &Word, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(&self.0, &serde_json::to_vec(word)?, beside)
    }

    /// Says one and waits until it is done.
    pub(super) fn ask(&self, word: &Word) -> Result<(), Failure> {
        self.say(word).map_err(|error| left(&error))?;
        self.done()
    }

    /// Waits until what was asked for is done.
    pub(super) fn done(&self) -> Result<(), Failure> {
        match self.hear().map_err(|error| left(&error))? {
            Some((Word::Done, _)) => Ok(()),
            other => Err(left(&io::Error::other(format!("{other:?}")))),
        }
    }

    /// Waits for one; `None` when the other side has ended.
    pub(super) fn hear(&self) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
        Ok(self.hear_from()?.map(|(word, beside, _)| (word, beside)))
    }

    /// The same at the near end, with the pid of who says it.
    pub(super) fn hear_from(&self) -> io::Result<Option<Heard>> {
        self.wait()?;
        match wire::receive_from(&self.0) {
            Ok(Some((bytes, beside, sender))) => {
                Ok(Some((serde_json::from_slice(&bytes)?, beside, sender)))
            }
            Ok(None) => Ok(None),
            // It ended without having read what was said to it.
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

/// The helper has given up, and says why itself, or has died.
pub(super) fn left(error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::ProcessEnded, format!("the helper has left: {error}"))
}

impl AsFd for Words {
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
        there.say(&Word::Cloned { pid: 7 }).unwrap();
        drop(there);
        let (heard, _, sender) = here.hear_from().unwrap().unwrap();
        assert!(matches!(heard, Word::Cloned { pid: 7 }), "{heard:?}");
        assert_eq!(sender, Some(rustix::process::getpid().as_raw_nonzero().get()));
        assert!(here.hear().unwrap().is_none());
    }
}
