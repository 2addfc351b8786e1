//! Finds and makes files in a container's root, by descriptor.
//!
//! Promise: no path leads out of the root, whatever links it has and whichever process changes them
//! meanwhile. openat2(2) resolves with the container's root as root. Missing components are made one at a
//! time, each below the descriptor of the one before. Magic links of /proc are never followed. A result is
//! held by its descriptor, so no path is resolved twice.
//! Not here: the use of a path (`mounts`, `device_nodes`, `protect`). Expects a umask of 0.
//! See openat2(2), path_resolution(7), proc(5) on links.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FsWord, Mode, OFlags, ResolveFlags, StatxFlags, fstat, fstatfs,
    mkdirat, mknodat, openat, openat2, readlinkat, statx,
};
use rustix::io::Errno;

/// The magic number of procfs (statfs(2)).
pub(super) const PROCFS: FsWord = 0x9fa0;

/// The greatest number of links in one path, as in the kernel.
const LINKS: usize = 40;

/// How often a path is resolved again if other processes change it meanwhile.
const TRIES: usize = 256;

/// The descriptors of the calling thread. Threads may have mount namespaces of their own.
const DESCRIPTORS: &str = "/proc/thread-self/fd";

/// What is made if a path does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLink {
    Follow,
    Keep,
}

/// A file in the root, held by its descriptor.
#[derive(Debug)]
pub(super) struct TreePlace {
    pub(super) fd: OwnedFd,
    /// Whether it existed before.
    pub(super) existed: bool,
}

/// A root directory.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Replaces the root, by a mount on top of it.
    pub(super) fn set_root(&mut self, root: OwnedFd) {
        self.root = root;
    }

    /// Opens a path.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_in(&self.root, path, flags)
    }

    /// Finds a path, or makes it and the directories above it; the rest of the path below a dangling
    /// link is made where the link points to.
    pub(super) fn place(
        &self,
        path: &Path,
        missing: Missing,
        last: LastLink,
    ) -> Result<TreePlace, Errno> {
        let keep = if last == LastLink::Keep { OFlags::NOFOLLOW } else { OFlags::empty() };
        match self.open(path, OFlags::PATH | keep) {
            Ok(fd) => Ok(TreePlace { fd, existed: true }),
            Err(Errno::NOENT) => self.walk(path, missing, last, |_| Ok(())),
            Err(error) => Err(error),
        }
    }

    /// The same for a directory, where a check of the one above decides whether it may be made.
    pub(super) fn directory(
        &self,
        path: &Path,
        may_make: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let place = self.walk(path, Missing::Directory, LastLink::Follow, may_make)?;
        if file_type(&place.fd)? == FileType::Directory { Ok(place.fd) } else { Err(Errno::NOTDIR) }
    }

    /// Resolves a path one component at a time, and makes missing components.
    fn walk(
        &self,
        path: &Path,
        missing: Missing,
        last: LastLink,
        mut may_make: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<TreePlace, Errno> {
        let mut entered: Vec<OwnedFd> = Vec::new();
        let mut ahead = Vec::new();
        push(&mut ahead, path);
        let (mut links, mut tries, mut existed) = (0, 0, true);
        while let Some(name) = ahead.pop() {
            if name == ".." {
                entered.pop();
                continue;
            }
            let current = entered.last().unwrap_or(&self.root).as_fd();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match openat(current, name.as_os_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    tries += 1;
                    if tries > TRIES {
                        return Err(Errno::AGAIN);
                    }
                    may_make(current)?;
                    let kind = if ahead.is_empty() { missing } else { Missing::Directory };
                    make(current, &name, kind)?;
                    existed = false;
                    ahead.push(name);
                    continue;
                }
                other => other?,
            };
            match file_type(&fd)? {
                FileType::Symlink if !ahead.is_empty() || last == LastLink::Follow => {
                    links += 1;
                    // A link of procfs is refused: its text is a path in another root than the one
                    // that is walked here.
                    if links > LINKS || is_procfs(&fd)? {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(&fd, "", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        entered.clear();
                    }
                    push(&mut ahead, &target);
                }
                FileType::Directory => entered.push(fd),
                _ if ahead.is_empty() => return Ok(TreePlace { fd, existed }),
                _ => return Err(Errno::NOTDIR),
            }
        }
        let fd = match entered.pop() {
            Some(fd) => fd,
            None => self.open(Path::new("/"), OFlags::PATH)?,
        };
        Ok(TreePlace { fd, existed })
    }
}

/// Opens a path with a directory as root.
pub(super) fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename or a mount happened meanwhile, and the path has "..".
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn push(ahead: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => ahead.push(name.to_owned()),
            Component::ParentDir => ahead.push("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Makes a directory or an empty file, unless the name exists.
fn make(parent: BorrowedFd<'_>, name: &OsStr, kind: Missing) -> Result<(), Errno> {
    let made = match kind {
        Missing::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        // mknod(2) opens nothing, so a device or a fifo that was made meanwhile is not opened.
        Missing::File => {
            mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

pub(super) fn file_type(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

pub(super) fn is_procfs(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.f_type == PROCFS)
}

/// The id of the mount that a descriptor is on.
pub(super) fn mount_id(fd: impl AsFd) -> Result<u64, Errno> {
    /// STATX_MNT_ID, since Linux 5.8.
    const MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x1000);
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, MOUNT_ID)?.stx_mnt_id)
}

/// A path without `.`, `..` and doubled slashes, as if there were no links.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Finds the paths of descriptors in the root, through the host's procfs.
///
/// A path is used for checks and error texts only. Files are changed by their descriptors.
#[derive(Debug)]
pub(super) struct Names {
    descriptors: OwnedFd,
    root: PathBuf,
}

impl Names {
    pub(super) fn new(root: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = openat(CWD, DESCRIPTORS, flags, Mode::empty())?;
        if !is_procfs(&descriptors)? {
            return Err(io::Error::other(format!("{DESCRIPTORS} is not of a procfs")));
        }
        let mut names = Self { descriptors, root: PathBuf::new() };
        names.root = names.host(root)?;
        Ok(names)
    }

    /// The path of a descriptor on the host.
    fn host(&self, fd: impl AsFd) -> io::Result<PathBuf> {
        let number = fd.as_fd().as_raw_fd().to_string();
        let path = readlinkat(&self.descriptors, number, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
    }

    /// The path of a descriptor in the root.
    pub(super) fn of(&self, fd: impl AsFd) -> io::Result<PathBuf> {
        let path = self.host(fd)?;
        let inside = path.strip_prefix(&self.root).map_err(|_| {
            io::Error::other(format!("it is at {}, which is not in the root", shown(&path)))
        })?;
        Ok(Path::new("/").join(inside))
    }
}

fn shown(path: &Path) -> impl Display {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}
