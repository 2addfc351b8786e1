//! Resolves paths of a container, in a process whose root is the container's.
//!
//! Promise: no magic link of procfs (`/proc/PID/fd/N`, `cwd`, `root`, `exe`) is followed, the
//! working directory has a path in the container, and only regular files are read, without waiting and to a
//! limit.
//! Not here: closing the descriptors of the host, which is done before (`exec_process`, `init_process`).
//! Each of the two is enough to keep the host out of reach.
//! See openat2(2) RESOLVE_NO_MAGICLINKS, getcwd(2), CVE-2024-21626.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::super::wire::{Failure, Reason};
use crate::sys;

/// Opens a path of the container.
pub(super) fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| {
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    })
}

/// Changes the working directory to a directory of the container.
pub(super) fn enter(path: &Path) -> rustix::io::Result<()> {
    let directory = open(path, OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::process::fchdir(directory)
}

/// Refuses a working directory that has no path below the process's root.
pub(super) fn verify_directory() -> Result<(), Failure> {
    let refused = |why: &str| {
        let text = format!("the working directory is outside the container: {why}");
        Failure::new(Reason::RootFilesystem, text)
    };
    match sys::process::current_directory() {
        Ok(path) if path.starts_with(b"/") => Ok(()),
        // "(unreachable)..."
        Ok(path) => Err(refused(&String::from_utf8_lossy(&path))),
        Err(error) => Err(refused(&error.to_string())),
    }
}

/// Reads at most `limit` bytes of a regular file of the container.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // O_NONBLOCK opens a fifo or a device at once; it is not read.
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::new();
    File::from(file).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_magic_link_is_not_followed_wherever_it_stands_in_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let directory = File::open(folder.path()).unwrap();
        let magic = format!("/proc/self/fd/{}", directory.as_raw_fd());
        fs::create_dir(folder.path().join("below")).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&magic, &link).unwrap();
        for path in [magic.clone(), format!("{magic}/below"), format!("{magic}/../etc")] {
            let refused = open(Path::new(&path), OFlags::PATH).unwrap_err();
            assert_eq!(refused, Errno::LOOP, "{path}");
        }
        assert_eq!(open(&link.join("below"), OFlags::PATH).unwrap_err(), Errno::LOOP);
        open(&folder.path().join("below"), OFlags::PATH).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_below_the_root_is_refused_whatever_leads_to_it() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let verify = |root: &Path, directory: &Path| {
            // In a thread with a root and a working directory of its own.
            let verified = std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                    let directory = File::open(directory).unwrap();
                    rustix::process::chroot(root).unwrap();
                    rustix::process::fchdir(directory).unwrap();
                    verify_directory()
                });
                thread.join().unwrap()
            });
            verified.map_err(|failure| failure.message)
        };
        assert_eq!(verify(root.path(), root.path()), Ok(()));
        let refused = verify(root.path(), outside.path()).unwrap_err();
        assert!(refused.contains("(unreachable)"), "{refused}");
    }

    #[test]
    fn only_a_regular_file_is_read_and_only_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, file) = (folder.path().join("fifo"), folder.path().join("file"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read(&fifo, 9).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(read(Path::new("/dev/zero"), 9).is_err());
        assert_eq!(read(&file, 4).unwrap(), b"0123");
    }
}
