//! A pipe on which a new process waits until its pid was passed on: an exec waits until the shim has the
//! pid, a clone of a clone until the helper has it.
//!
//! Promise: if the helper dies first, the process exits. So the user's command never runs in a process
//! whose pid no caller has. See pipe(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

/// The end of the process that waits.
pub(super) struct Hold(OwnedFd);

/// The end that releases the process: the only writing end.
#[derive(Debug)]
pub(super) struct Release(OwnedFd);

/// Makes both ends.
pub(super) fn make() -> io::Result<(Hold, Release)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Hold(read), Release(write)))
}

impl Hold {
    /// Waits. Returns false if the other end was closed without a release.
    pub(super) fn wait(&self) -> bool {
        let mut byte = [0];
        matches!(rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut byte)), Ok(1))
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Release {
    /// Releases the process, if it still waits.
    pub(super) fn go(self) {
        let _ = rustix::io::write(&self.0, &[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_goes_on_when_it_is_released_and_not_when_the_helper_is_gone() {
        let (hold, release) = make().unwrap();
        release.go();
        assert!(hold.wait());
        let (hold, release) = make().unwrap();
        drop(release);
        assert!(!hold.wait());
    }
}
