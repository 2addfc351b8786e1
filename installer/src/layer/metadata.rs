//! Owner, mode, extended attributes and times of one name in an open directory.
//!
//! Order matters: a change of owner clears setuid bits and file capabilities, so the owner comes
//! first, then the mode, then the attributes, and the time last.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::Entry;
use super::error::EntryName;
use crate::layer::merged::below;

/// Overlayfs's own attributes: an archive that could set them could make a directory stand for
/// another one.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// A call that failed.
pub(super) struct Failed(pub(super) String, pub(super) Errno);

pub(super) type Outcome<T = ()> = Result<T, Failed>;

/// Names the call for the error.
pub(super) trait Call<T> {
    fn call(self, name: &str, argument: &[u8]) -> Outcome<T>;
}

impl<T> Call<T> for rustix::io::Result<T> {
    fn call(self, name: &str, argument: &[u8]) -> Outcome<T> {
        self.map_err(|errno| Failed(format!("{name}({})", EntryName(argument.to_vec())), errno))
    }
}

/// What a name gets besides its content.
pub(super) struct Metadata<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Metadata<'a> {
    pub(super) fn of_entry(entry: &'a Entry) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        }
    }

    pub(super) fn of_stat(stat: &Stat, xattrs: &'a [(Vec<u8>, Vec<u8>)]) -> Self {
        Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: mtime(stat),
            xattrs,
        }
    }

    /// Owner, mode and attributes of an open file or directory.
    pub(super) fn set_on(&self, fd: BorrowedFd<'_>) -> Outcome {
        fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .call("fchown", b"")?;
        fs::fchmod(fd, Mode::from_raw_mode(self.mode)).call("fchmod", b"")?;
        for (name, value) in self.xattrs {
            let Some(name) = admitted(name)? else { continue };
            set(&name, fs::fsetxattr(fd, &name, value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// The same for what cannot be opened: links, devices, fifos. With the time.
    pub(super) fn set_at(&self, directory: BorrowedFd<'_>, name: &[u8], link: bool) -> Outcome {
        fs::chownat(
            directory,
            name,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .call("fchownat", name)?;
        if !link {
            fs::chmodat(directory, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .call("fchmodat", name)?;
        }
        for (attribute, value) in self.xattrs {
            let Some(attribute) = admitted(attribute)? else { continue };
            if attribute.to_bytes().starts_with(b"user.") {
                continue; // the kernel has user attributes on files and directories alone
            }
            let path = below(directory, name);
            set(&attribute, fs::lsetxattr(&path, &attribute, value, XattrFlags::empty()))?;
        }
        set_mtime(directory, name, self.mtime)
    }
}

/// Access and modification time of a name, which is not followed.
pub(super) fn set_mtime(directory: BorrowedFd<'_>, name: &[u8], mtime: Timespec) -> Outcome {
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW).call("utimensat", name)
}

/// The same for an open file.
pub(super) fn set_mtime_on(fd: BorrowedFd<'_>, mtime: Timespec) -> Outcome {
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    fs::futimens(fd, &times).call("futimens", b"")
}

/// The modification time that stat gave.
pub(super) fn mtime(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Every attribute of a name that a copy of it keeps.
pub(super) fn read_xattrs(path: &[u8]) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names: Vec<u8> = Vec::with_capacity(1024);
    loop {
        match fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) => break,
            Err(Errno::RANGE) if names.capacity() < 1 << 17 => {
                let doubled = names.capacity() * 2;
                names = Vec::with_capacity(doubled);
            }
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).call("llistxattr", path),
        }
    }
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OVERLAY_PREFIX) {
            continue;
        }
        // The kernel holds values to 64 KiB.
        let mut value: Vec<u8> = Vec::with_capacity(1 << 16);
        fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value))
            .call("lgetxattr", name)?;
        value.shrink_to_fit();
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Takes every attribute off a directory that an entry describes anew, overlayfs's own excepted.
pub(super) fn clear_xattrs(fd: BorrowedFd<'_>) -> Outcome {
    for (name, _) in read_xattrs(&below(fd, b"."))? {
        match fs::fremovexattr(fd, &name[..]) {
            // Labels that the kernel itself puts on every file.
            Err(Errno::PERM | Errno::ACCESS) if name.starts_with(b"security.") => {}
            outcome => outcome.call("fremovexattr", &name)?,
        }
    }
    Ok(())
}

/// Whether an attribute is one of overlayfs's own.
pub(super) fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(OVERLAY_PREFIX)
}

/// The attribute's name if an archive may set it.
fn admitted(name: &[u8]) -> Outcome<Option<CString>> {
    if is_overlay(name) {
        return Ok(None);
    }
    CString::new(name).map(Some).map_err(|_| Failed("setxattr".into(), Errno::INVAL))
}

fn set(name: &CStr, outcome: rustix::io::Result<()>) -> Outcome {
    match outcome {
        // A file system without such attributes; other tools go on without them too.
        // Said once: an archive can name any number of them.
        Err(Errno::OPNOTSUPP) => {
            static SAID: AtomicBool = AtomicBool::new(false);
            if !SAID.swap(true, Ordering::Relaxed) {
                let name = EntryName(name.to_bytes().to_vec());
                log::warn!(
                    "attribute {name} is not supported by the file system, as may be others"
                );
            }
            Ok(())
        }
        outcome => outcome.call("setxattr", name.to_bytes()),
    }
}
