//! The null device of an exec without streams.
//!
//! A standard stream that the client leaves out is the helper's: the host's null device. It is replaced by
//! the container's null device, because a user without rights on the host's node could not open
//! `/dev/stdout` again. `rootfs` does the same for init.
//! See null(4).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fcntl_setfl, fstat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};

use super::container_path;

/// Replaces each standard stream that is the host's null device by the container's. If the container has
/// none, the streams stay.
pub(super) fn take_the_containers() {
    let streams = [stdin(), stdout(), stderr()];
    if !streams.iter().any(is_null) {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(null) = container_path::open(Path::new("/dev/null"), flags) else { return };
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
    use std::fs::File;

    use super::*;

    #[test]
    fn only_a_null_device_is_one() {
        assert!(is_null(&File::open("/dev/null").unwrap()));
        assert!(!is_null(&File::open("/dev/zero").unwrap()));
        assert!(!is_null(&tempfile::tempfile().unwrap()));
    }
}
