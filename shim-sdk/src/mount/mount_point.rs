//! Opens mount points in a root file system, by descriptor.
//!
//! Promise: no link of the root file system leads out of it, also while another process changes it.
//! Missing directories are made inside. See openat2(2) RESOLVE_IN_ROOT, open_tree(2),
//! move_mount(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// How often making a name is tried while another process makes or removes it.
const ATTEMPTS: usize = 16;

/// Opens a root. Links are followed, because the path is the host's.
pub(super) fn root(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a mount point in a root. If it is missing, it is made: a directory, or a file to mount a
/// file on.
pub(super) fn inside(root: impl AsFd, target: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let names: Vec<_> = target
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let mut path = PathBuf::new();
    let mut point = find(root, Path::new("."))?;
    for (number, name) in names.iter().enumerate() {
        path.push(name);
        let makes_directory = is_directory || number + 1 < names.len();
        let mut attempts = ATTEMPTS;
        point = loop {
            match find(root, &path) {
                Err(Errno::NOENT) if attempts > 0 => {}
                found => break found?,
            }
            attempts -= 1;
            let made = if makes_directory {
                mkdirat(&point, *name, Mode::from_raw_mode(0o755))
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                openat(&point, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
            };
            match made {
                // EEXIST: another process has made it first, or it is a dangling link. The next
                // look tells which; the number of looks is bounded.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        };
    }
    Ok(point)
}

/// A path for calls that take no descriptor.
pub(super) fn path_of(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Whether the source of a mount is a directory.
pub(super) fn is_directory(source: impl AsFd) -> io::Result<bool> {
    let mode = rustix::fs::fstat(source)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

fn find(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut attempts = ATTEMPTS;
    loop {
        match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            // EAGAIN: a rename(2) or mount(2) ran at the same time, and the kernel could not be
            // sure.
            Err(Errno::AGAIN) if attempts > 0 => attempts -= 1,
            found => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_and_what_is_missing_is_made_there() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (root_path, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root_path.join("real")).expect("create");
        fs::create_dir(&outside).expect("create");
        symlink(&outside, root_path.join("absolute")).expect("symlink");
        symlink("../outside", root_path.join("climbing")).expect("symlink");
        symlink("/real", root_path.join("inner")).expect("symlink");
        let root = root(&root_path).expect("open");
        inside(&root, Path::new("/inner/a/b"), true).expect("through a link of the root");
        assert!(root_path.join("real/a/b").is_dir());
        inside(&root, Path::new("inner/a/file"), false).expect("a file");
        assert!(root_path.join("real/a/file").is_file());
        for link in ["absolute", "climbing"] {
            // It is a link to what is not there, seen from inside.
            inside(&root, &Path::new(link).join("x"), true).expect_err("nowhere");
        }
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
    }
}
