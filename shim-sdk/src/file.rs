//! Reads files that may have been made by an untrusted process, or by mistake.
//!
//! Promise: a fifo, a device or a socket at the path is refused at once and never read. The size
//! that is read is limited. See open(2) O_NONBLOCK, fifo(7).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file to read. Never waits, also if the path is a fifo.
///
/// # Errors
///
/// `InvalidInput` for anything but a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // O_NONBLOCK: open(2) of a fifo without a writer waits. O_NOCTTY: a terminal could become
        // the controlling terminal of this process.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
///
/// As [`open_regular`]; `FileTooLarge` for a file that is larger.
pub fn read_regular(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let why = format!("it is larger than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        fs::write(&path, "text").expect("write");
        assert_eq!(read_regular(&path, 4).expect("whole"), b"text");
        let large = read_regular(&path, 3).expect_err("too large");
        assert_eq!(large.kind(), io::ErrorKind::FileTooLarge);
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        for other in [&fifo, Path::new("/dev/zero"), folder.path()] {
            let refused = read_regular(other, 4).expect_err("not a regular file");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{}", other.display());
        }
    }
}
