//! Copies the directory below a tmpfs into the tmpfs (`tmpcopyup`, an option of runc).
//!
//! Promise: every file is found and made below the descriptor of its directory, no link is followed,
//! and only directories and regular files are opened. The tmpfs limits the bytes; this code limits the
//! depth. Expects a umask of 0.
//! See runc's `doTmpfsCopyUp`.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};

/// Directories in directories; two descriptors are open for each.
const DEPTH: usize = 128;

/// A directory that is being copied.
struct Level {
    from: OwnedFd,
    entries: Dir,
    to: OwnedFd,
}

impl Level {
    fn open(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        Ok(Self { entries: Dir::read_from(&from)?, from, to })
    }
}

fn open_directory(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Copies a directory's entries into another directory, which is empty.
pub(super) fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let (from, to) = (open_directory(from, c".")?, open_directory(to, c".")?);
    let mut levels = vec![Level::open(from, to)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Some(deeper) = copy_one(level, name)? {
            levels.push(deeper);
            if levels.len() > DEPTH {
                return Err(io::Error::other(format!("more than {DEPTH} directories deep")));
            }
        }
    }
    Ok(())
}

/// Copies one entry. Returns a directory whose entries are to be copied.
fn copy_one(level: &Level, name: &CStr) -> io::Result<Option<Level>> {
    let Level { from, to, .. } = level;
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (user, group) = owner(&stat);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let from = open_directory(from, name)?;
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let to = open_directory(to, name)?;
            like(&to, &fstat(&from)?)?;
            return Ok(Some(Level::open(from, to)?));
        }
        FileType::RegularFile => copy_file(from, to, name)?,
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?;
            chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?;
            chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // A socket is of no use without the process that made it.
        _ => {}
    }
    Ok(None)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = openat(from, name, flags, Mode::empty())?;
    let stat = fstat(&from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let name = name.to_string_lossy();
        return Err(io::Error::other(format!("{name} was exchanged for another kind of file")));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut from, mut to) = (File::from(from), File::from(to));
    io::copy(&mut from, &mut to)?;
    like(&to, &stat)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// Sets a file's owner, mode and times to those of another file.
fn like(fd: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (user, group) = owner(stat);
    fchown(&fd, user, group)?;
    fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec.cast_signed()),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
    };
    Ok(futimens(fd, &times)?)
}
