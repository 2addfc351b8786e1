//! The null device of a process whose output nobody wants.
//!
//! libcontainer exchanges the host's null device for the container's own, and opens that for
//! reading only, whichever stream it is for: whoever then writes is told EBADF instead of being
//! ignored. See null(4).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::inside;

/// Opens standard output and error once more, for writing, where they are a null device that can
/// only be read.
pub(super) fn reopen_for_writing() {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let (stdout, stderr) = (unwritable(stdout.as_fd()), unwritable(stderr.as_fd()));
    if !stdout && !stderr {
        return;
    }
    // Where a container has no such device, its streams stay as they were.
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    if stdout {
        let _ = dup2_stdout(&null);
    }
    if stderr {
        let _ = dup2_stderr(&null);
    }
}

fn unwritable(stream: impl AsFd) -> bool {
    is_null(&stream)
        && fcntl_getfl(&stream).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY)
}

/// Exchanges the host's null device for the container's own, wherever a standard stream is one. A
/// container that has none leaves the streams as they are.
pub(super) fn take_the_containers() {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    if !streams.iter().any(is_null) {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK;
    let Ok(null) = inside::open(Path::new("/dev/null"), flags) else { return };
    if !is_null(&null) || fcntl_setfl(&null, OFlags::empty()).is_err() {
        return;
    }
    let exchange: [fn(&OwnedFd) -> rustix::io::Result<()>; 3] =
        [|null| dup2_stdin(null), |null| dup2_stdout(null), |null| dup2_stderr(null)];
    for (stream, exchange) in streams.iter().zip(exchange) {
        if is_null(stream) {
            let _ = exchange(&null);
        }
    }
}

fn is_null(stream: &impl AsFd) -> bool {
    fstat(stream).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_null_device_opened_for_reading_is_opened_again() {
        let open = |path: &str, write| File::options().read(true).write(write).open(path).unwrap();
        assert!(unwritable(open("/dev/null", false)));
        assert!(!unwritable(open("/dev/null", true)));
        assert!(!unwritable(open("/dev/zero", false)));
        assert!(!unwritable(tempfile::tempfile().unwrap()));
    }
}
