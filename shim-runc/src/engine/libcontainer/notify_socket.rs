//! The word on which a created container's init runs the user's command.
//!
//! It listens on a socket beside the container's record, as libcontainer's does. Where no hooks are run at
//! the start, the shim needs nobody to tell init, and the socket's name, which goes with the first
//! telling, says whether it was told: libcontainer's own record says "created" until somebody asks
//! ([`was_told`]).
//!
//! Promise: an init that is told goes on, and is told once.
//! See libcontainer's `notify_socket`, unix(7).

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libcontainer::notify_socket::NOTIFY_FILE;
use rustix::fs::{CWD, Mode, OFlags, openat, unlink};

/// What libcontainer says; any text will do.
const WORD: &[u8] = b"start container";

/// The most that init reads of the word.
const WORD_BYTES: u64 = 4096;

/// Makes the socket on which the init of the container whose record is in `directory` is told.
pub(super) fn listen(directory: &Path) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/{NOTIFY_FILE}", directory.as_raw_fd()))
}

/// Waits until the calling init is told.
pub(super) fn wait(socket: &UnixListener) -> io::Result<()> {
    let (shim, _) = socket.accept()?;
    // The end of the connection is the message; its text does not matter.
    let mut word = Vec::new();
    shim.take(WORD_BYTES).read_to_end(&mut word).map(drop)
}

/// Tells the init of the container whose record is in `directory`.
pub(super) fn tell(directory: &Path) -> io::Result<()> {
    let name = directory.join(NOTIFY_FILE);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = openat(CWD, &name, flags, Mode::empty())?;
    // By its descriptor: the name may be longer than an address.
    let mut init = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    init.write_all(WORD)?;
    // It reads to the end.
    drop(init);
    // Should that fail, nobody listens at the name any more.
    let _ = unlink(&name);
    Ok(())
}

/// Whether the init of a created container was told.
pub(super) fn was_told(directory: &Path) -> bool {
    !directory.join(NOTIFY_FILE).exists()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn init_is_told_once_however_long_the_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("n".repeat(76)).join("i".repeat(76));
        std::fs::create_dir_all(&directory).unwrap();
        let beside = folder.path().join("s");
        let init = UnixListener::bind(&beside).unwrap();
        std::fs::rename(beside, directory.join(NOTIFY_FILE)).unwrap();
        assert!(!was_told(&directory));
        tell(&directory).unwrap();
        assert!(was_told(&directory));
        let mut word = Vec::new();
        init.accept().unwrap().0.read_to_end(&mut word).unwrap();
        assert_eq!(word, WORD);
        assert_eq!(tell(&directory).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_init_that_has_ended_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(folder.path().join(NOTIFY_FILE)).unwrap());
        let refused = tell(folder.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(!was_told(folder.path()));
    }
}
