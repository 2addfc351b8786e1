//! The null device of a process whose output nobody wants.
//!
//! libcontainer exchanges the host's null device for the container's own, and opens that for
//! reading only, whichever stream it is for: whoever then writes is told EBADF instead of being
//! ignored. See null(4).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::stdio::{dup2_stderr, dup2_stdout};

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
    let null = fstat(&stream).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    });
    null && fcntl_getfl(&stream).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY)
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
