//! What a helper and what it cloned say to each other, on a socket of their own.
//!
//! Promise: a helper that dies is noticed by the clone, and a clone that ends by the helper, at once
//! (end of file); neither waits for the other beyond the bound of a call.
//! Each end of the socket is held by one side alone: a clone closes the helper's end, the helper
//! the clone's.
//! See unix(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::super::{DEADLINE, wire};

/// One message.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// An intermediate process has cloned the one that stays.
    Cloned { pid: i32 },
}

/// One end.
#[derive(Debug)]
pub(super) struct Words(OwnedFd);

/// Makes both ends.
pub(super) fn pair() -> io::Result<(Words, Words)> {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Words(near), Words(far)))
}

impl Words {
    /// Says one.
    pub(super) fn say(&self, word: &Word) -> io::Result<()> {
        wire::send(&self.0, &serde_json::to_vec(word)?, &[])
    }

    /// Waits for one; `None` when the other side has ended.
    pub(super) fn hear(&self) -> io::Result<Option<Word>> {
        self.wait()?;
        match wire::receive(&self.0) {
            Ok(Some((bytes, _))) => Ok(Some(serde_json::from_slice(&bytes)?)),
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
        assert_eq!(here.hear().unwrap(), Some(Word::Cloned { pid: 7 }));
        assert_eq!(here.hear().unwrap(), None);
    }
}
