//! Sends libcontainer's start message to the init of a created container.
//!
//! Init listens on libcontainer's notify socket beside the container's record. Without hooks at the start
//! the shim sends the message itself. It then unlinks the socket, which records that the message was sent
//! ([`was_told`]): libcontainer's record says "created" until it is read again.
//!
//! Promise: an init that gets the message executes the user's command. The message is sent once.
//! See libcontainer's `notify_socket`, unix(7).

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libcontainer::notify_socket::NOTIFY_FILE;
use rustix::fs::{CWD, Mode, OFlags, openat, unlink};

/// libcontainer's message. Init ignores its text.
const MESSAGE: &[u8] = b"start container";

/// The greatest number of bytes that init reads.
const MESSAGE_BYTES: u64 = 4096;

/// Makes the socket beside the record in `directory`.
pub(super) fn listen(directory: &Path) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/{NOTIFY_FILE}", directory.as_raw_fd()))
}

/// Waits for the message. Called by init.
pub(super) fn wait(socket: &UnixListener) -> io::Result<()> {
    let (shim, _) = socket.accept()?;
    // The end of the connection starts the command; the text does not matter.
    let mut message = Vec::new();
    shim.take(MESSAGE_BYTES).read_to_end(&mut message).map(drop)
}

/// Sends the message to the init whose container's record is in `directory`.
pub(super) fn tell(directory: &Path) -> io::Result<()> {
    let name = directory.join(NOTIFY_FILE);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = openat(CWD, &name, flags, Mode::empty())?;
    // By its descriptor: the path may be longer than a socket address.
    let mut init = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    init.write_all(MESSAGE)?;
    // It reads to the end.
    drop(init);
    // If this fails, no process listens at the name any more.
    let _ = unlink(&name);
    Ok(())
}

/// Whether the message was sent to the init of a created container.
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
        let mut message = Vec::new();
        init.accept().unwrap().0.read_to_end(&mut message).unwrap();
        assert_eq!(message, MESSAGE);
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
