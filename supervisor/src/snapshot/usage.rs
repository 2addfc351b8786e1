//! What a snapshot takes up on the disk.
//!
//! Promise: a tree of any depth is measured without recursion, with at most [`OPEN`] directories
//! open at once, and with no path: a container may have made a tree whose paths are longer than the
//! kernel takes. Nothing is followed, no other file system is entered.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat,
};
use rustix::io::Errno;

/// stat(2) counts blocks of this size, whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;
/// Directories open at once; those above are reopened on the way back.
const OPEN: usize = 32;
const LISTING_BYTES: usize = 8 << 10;
/// How often a tree is measured anew whose directories are moved about meanwhile.
const ATTEMPTS: u32 = 8;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Allocated bytes.
    pub(crate) size_bytes: u64,
    /// Inodes, hard links counted once.
    pub(crate) inodes: u64,
}

/// Measures `root` and all below it; what vanishes meanwhile is not counted.
pub(crate) fn measure(root: &Path) -> io::Result<Usage> {
    for _ in 0..ATTEMPTS {
        if let Some(usage) = attempt(root)? {
            return Ok(usage);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "its directories are moved about meanwhile"))
}

/// A directory on the way to what is being measured.
struct Level {
    /// `None` while it is closed for others to be open.
    directory: Option<OwnedFd>,
    /// What the descriptor must lead to when it is opened again.
    device: u64,
    inode: u64,
    /// Where its listing goes on.
    position: u64,
    /// Names of directories that were listed and not yet entered.
    listed: Vec<Vec<u8>>,
    ended: bool,
}

impl Level {
    fn new(directory: OwnedFd, stat: &Stat) -> Self {
        let (device, inode) = (stat.st_dev, stat.st_ino);
        let directory = Some(directory);
        Self { directory, device, inode, position: 0, listed: Vec::new(), ended: false }
    }
}

/// One walk; `None` when the way back was lost.
fn attempt(root: &Path) -> io::Result<Option<Usage>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = fs::openat(CWD, root, flags, Mode::empty())?;
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let stat = fs::fstat(&top)?;
    count(&stat, &mut usage, &mut seen);
    let mut levels = vec![Level::new(top, &stat)];
    while let Some(level) = levels.last_mut() {
        let Some(directory) = &level.directory else { return Ok(None) };
        if level.listed.is_empty() && !level.ended {
            let directory = directory.as_fd();
            level.position = list(
                directory,
                level.position,
                |name| {
                    let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => return Ok(None),
                        other => other?,
                    };
                    if stat.st_dev != level.device {
                        return Ok(None); // a mount point
                    }
                    count(&stat, &mut usage, &mut seen);
                    let enters = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    Ok(enters.then(|| name.to_vec()))
                },
                &mut level.listed,
                &mut level.ended,
            )?;
        }
        let Some(name) = level.listed.pop() else {
            if level.ended && !leave(&mut levels)? {
                return Ok(None);
            }
            continue;
        };
        let steps = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let next = match fs::openat2(directory, &name[..], flags, Mode::empty(), steps) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            other => other?,
        };
        let stat = fs::fstat(&next)?;
        levels.push(Level::new(next, &stat));
        if let Some(above) = levels.len().checked_sub(OPEN + 1) {
            levels[above].directory = None;
        }
    }
    Ok(Some(usage))
}

/// Ends the last level; whether the way back was found is the answer.
fn leave(levels: &mut Vec<Level>) -> io::Result<bool> {
    let Some(left) = levels.pop() else { return Ok(true) };
    let (Some(above), Some(directory)) = (levels.last_mut(), left.directory) else {
        return Ok(true);
    };
    if above.directory.is_some() {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = fs::openat(&directory, "..", flags, Mode::empty())?;
    let stat = fs::fstat(&parent)?;
    // Only measured, never changed: what was exchanged meanwhile makes a wrong sum at worst.
    if (stat.st_dev, stat.st_ino) != (above.device, above.inode) {
        return Ok(false);
    }
    above.directory = Some(parent);
    Ok(true)
}

/// Lists some names from `position` on: `each` says which are kept. Where the listing goes on is
/// the answer.
fn list(
    directory: impl AsFd,
    position: u64,
    mut each: impl FnMut(&[u8]) -> rustix::io::Result<Option<Vec<u8>>>,
    kept: &mut Vec<Vec<u8>>,
    ended: &mut bool,
) -> rustix::io::Result<u64> {
    fs::seek(&directory, SeekFrom::Start(position))?;
    let mut position = position;
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = match entry {
            Err(Errno::NOENT) => break, // it was removed meanwhile
            other => other?,
        };
        position = entry.next_entry_cookie();
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            kept.extend(each(entry.file_name().to_bytes())?);
        }
        if listing.is_buffer_empty() && !kept.is_empty() {
            return Ok(position);
        }
    }
    *ended = true;
    Ok(position)
}

fn count(stat: &Stat, usage: &mut Usage, seen: &mut HashSet<u64>) {
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !directory && stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
        return;
    }
    usage.inodes += 1;
    usage.size_bytes += stat.st_blocks.unsigned_abs() * BLOCK_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as files;

    #[test]
    fn hard_links_count_once() {
        let folder = tempfile::tempdir().unwrap();
        files::write(folder.path().join("a"), [1; 10_000]).unwrap();
        files::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        files::create_dir(folder.path().join("c")).unwrap();
        let usage = measure(folder.path()).unwrap();
        assert_eq!(usage.inodes, 3);
        assert!(usage.size_bytes >= 10_000, "{usage:?}");
    }

    #[test]
    fn a_wide_tree_is_counted_whole() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..900 {
            let directory = folder.path().join(format!("a-directory-with-a-long-name-{n}"));
            files::create_dir(&directory).unwrap();
            files::write(directory.join("f"), "").unwrap();
        }
        assert_eq!(measure(folder.path()).unwrap().inodes, 1 + 2 * 900);
    }

    #[test]
    fn a_tree_deeper_than_paths_and_descriptors_is_counted() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = fs::openat(CWD, folder.path(), flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            for name in ["d", "e"] {
                fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).unwrap();
            }
            here = fs::openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        let before = files::read_dir("/proc/self/fd").unwrap().count();
        assert_eq!(measure(folder.path()).unwrap().inodes, 1 + 2 * 5000);
        assert!(before < 1024 - OPEN, "the limit is not what the test needs");
        installer::remove::remove_tree(folder.path()).unwrap();
    }
}
