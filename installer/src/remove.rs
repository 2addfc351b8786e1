//! Removes a directory tree of any depth.
//!
//! Promise: no recursion and at most 24 directories open at once, however deep the tree is;
//! no symbolic link is followed, no mount point is entered or emptied, and nothing outside of the
//! tree is touched while others move its directories about. A tree that gains names meanwhile is
//! emptied again, a bounded number of times.
//!
//! How: a tree is walked with one descriptor a level. Where that would be too many, the directory
//! that is too deep is moved to the top of the tree, and removed from there later.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

/// Directories open at once. Real trees are less deep, so that nothing is moved in them.
const OPEN: usize = 24;
/// Begins the names of directories that were moved to the top of a tree whose removal did not end.
pub const LIFTED: &str = ".removing-";
/// How often one directory is emptied again because another process puts names into it.
const MAX_PASSES: u32 = 64;
/// Directories open at once where nothing can be moved.
const OPEN_AT_MOST: usize = 256;
const LISTING_BYTES: usize = 8 << 10;
/// Each step is one name; "..", links and mount points are refused by the kernel.
const ONE_STEP: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Removes what is at `path`, a file or a directory with all that is in it. Nothing there is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into()); // `/` and what ends in `..` is never meant
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    Ok(remove_at(parent.as_fd(), name.as_bytes())?)
}

/// Removes the name `name` of an open directory, with all that is below it.
pub fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    if gone(parent, name)? {
        return Ok(());
    }
    let top = match open(parent, name) {
        // It vanished, or became a file just now.
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(parent, name),
        other => other?,
    };
    empty(top)?;
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// A directory on the way to what is being removed.
struct Level {
    directory: OwnedFd,
    /// Names that were listed and not yet removed.
    listed: Vec<Vec<u8>>,
    /// Its name in the level above; empty for the topmost.
    name: Vec<u8>,
    /// Something was removed or moved in this pass, so that another may find more.
    changed: bool,
    passes: u32,
}

impl Level {
    fn new(directory: OwnedFd, name: Vec<u8>) -> Self {
        Self { directory, listed: Vec::new(), name, changed: false, passes: 0 }
    }

    /// The next name.
    fn next(&mut self) -> rustix::io::Result<Option<Vec<u8>>> {
        if self.listed.is_empty() {
            let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
            let mut listing = RawDir::new(&self.directory, &mut buffer);
            // The first buffer that has more than the two names that every directory has.
            while let Some(entry) = listing.next() {
                let entry = match entry {
                    Err(Errno::NOENT) => break, // another process removed this directory
                    other => other?,
                };
                match entry.file_name().to_bytes() {
                    b"." | b".." => {}
                    name => self.listed.push(name.to_vec()),
                }
                if listing.is_buffer_empty() && !self.listed.is_empty() {
                    break;
                }
            }
        }
        Ok(self.listed.pop())
    }
}

/// Removes everything in a directory.
fn empty(top: OwnedFd) -> rustix::io::Result<()> {
    let mut moved = 0u64;
    let mut levels = vec![Level::new(top, Vec::new())];
    // The first error is the one to tell; what else can be removed is removed.
    let mut failed = None;
    loop {
        let open_now = levels.len();
        let Some(level) = levels.last_mut() else { break };
        let Some(name) = level.next()? else {
            leave(&mut levels, &mut failed)?;
            continue;
        };
        let directory = level.directory.as_fd();
        match gone(directory, &name) {
            Ok(true) => level.changed = true,
            Ok(false) => match open(directory, &name) {
                Ok(next) if open_now < OPEN => levels.push(Level::new(next, name)),
                Ok(next) => {
                    match lift(&levels, &name, &mut moved) {
                        Ok(()) => {
                            if let Some(top) = levels.first_mut() {
                                (top.changed, top.passes) = (true, 0);
                            }
                            if let Some(level) = levels.last_mut() {
                                level.changed = true;
                            }
                        }
                        Err(Errno::NOENT) => {}
                        // Moving it up failed: a full disk has no block for the new name. It is
                        // entered where it is, with one more descriptor.
                        Err(_) if open_now < OPEN_AT_MOST => {
                            levels.push(Level::new(next, name));
                        }
                        Err(errno) => failed = failed.or(Some(errno)),
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => level.changed = true,
                Err(errno) => failed = failed.or(Some(errno)),
            },
            Err(errno) => failed = failed.or(Some(errno)),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Ends a pass over the last level: removes that directory, or begins another pass.
fn leave(levels: &mut Vec<Level>, failed: &mut Option<Errno>) -> rustix::io::Result<()> {
    let Some(mut level) = levels.pop() else { return Ok(()) };
    // What cannot be removed is not tried at each level above again, but the topmost has what was
    // moved to it.
    let worth = (failed.is_none() || levels.is_empty()) && level.passes < MAX_PASSES;
    if level.changed && worth {
        // Names that the listing has passed over.
        (level.changed, level.passes) = (false, level.passes + 1);
        fs::seek(&level.directory, SeekFrom::Start(0))?;
        levels.push(level);
        return Ok(());
    }
    let Some(above) = levels.last_mut() else { return Ok(()) };
    match fs::unlinkat(&above.directory, &level.name[..], AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => above.changed = true,
        // Names that came meanwhile, or something else of that name: the level above looks again.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if worth => above.changed = true,
        Err(errno) => *failed = failed.or(Some(errno)),
    }
    Ok(())
}

/// Moves a directory of the last level to the topmost one.
fn lift(levels: &[Level], name: &[u8], moved: &mut u64) -> rustix::io::Result<()> {
    let (Some(top), Some(last)) = (levels.first(), levels.last()) else { return Ok(()) };
    loop {
        *moved += 1;
        let new = format!("{LIFTED}{moved}");
        let flags = RenameFlags::NOREPLACE;
        match fs::renameat_with(&last.directory, name, &top.directory, &new, flags) {
            Err(Errno::EXIST) => {} // a name of another process
            other => return other,
        }
    }
}

/// Removes a name that is no directory, or an empty one; whether it is gone is the answer.
fn gone(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<bool> {
    let refused = match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // PERM: what some file systems answer for a directory, and all for an immutable file.
        Err(errno @ (Errno::ISDIR | Errno::PERM)) => errno,
        Err(errno) => return Err(errno),
    };
    match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::NOTDIR) if refused == Errno::PERM => Err(refused),
        // Something else took the directory's place just now.
        Err(Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat2(directory, name, flags, Mode::empty(), ONE_STEP) {
        // A mount point.
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as files;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Makes `depth` directories within each other, without a path.
    fn dig(at: &Path, depth: usize) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = fs::openat(CWD, at, flags, Mode::empty()).unwrap();
        for level in 0..depth {
            fs::mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            if level % 1000 == 0 {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                fs::openat(&here, "f", flags, Mode::from_raw_mode(0o600)).unwrap();
            }
            here = fs::openat(&here, "d", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_tree_of_sixty_thousand_levels_needs_neither_stack_nor_descriptors() {
        // In memory: it is about depth, and a disk takes its time for 60,000 directories.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = root.path().join("tree");
        files::create_dir(&tree).unwrap();
        dig(&tree, 60_000);
        // Where recursion would need megabytes.
        let removal = std::thread::Builder::new().stack_size(64 << 10).spawn({
            let tree = tree.clone();
            move || remove_tree(&tree)
        });
        removal.unwrap().join().unwrap().unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_wide_and_deep_tree_goes_whole() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        for branch in 0..5 {
            let branch = tree.join(format!("b{branch}"));
            files::create_dir_all(&branch).unwrap();
            files::write(branch.join(".removing-1"), "taken").unwrap();
            dig(&branch, 70);
        }
        files::write(tree.join(".removing-1"), "taken").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, kept) = (root.path().join("tree"), root.path().join("kept"));
        files::create_dir_all(tree.join("a/b")).unwrap();
        files::create_dir(&kept).unwrap();
        files::write(kept.join("f"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink("../../../kept", tree.join("a/b/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.join("f").exists());
        symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(kept.join("f").exists() && files::symlink_metadata(&tree).is_err());
    }

    #[test]
    fn a_mount_point_is_not_entered_and_the_rest_goes() {
        let root = tempfile::tempdir().unwrap();
        let (tree, kept) = (root.path().join("tree"), root.path().join("kept"));
        files::create_dir_all(tree.join("a/mount")).unwrap();
        files::write(tree.join("a/z"), "x").unwrap();
        files::create_dir(&kept).unwrap();
        files::write(kept.join("f"), "x").unwrap();
        rustix::mount::mount_bind(&kept, tree.join("a/mount")).unwrap();
        let outcome = remove_tree(&tree);
        rustix::mount::unmount(tree.join("a/mount"), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(Errno::BUSY.raw_os_error()));
        assert!(kept.join("f").exists() && !tree.join("a/z").exists());
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_tree_that_changes_meanwhile_takes_nothing_else_along() {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join("kept");
        files::create_dir_all(kept.join("deep")).unwrap();
        files::write(kept.join("deep/f"), "x").unwrap();
        for _ in 0..20 {
            let tree = root.path().join("tree");
            for n in 0..200 {
                files::create_dir_all(tree.join(format!("a/b{n}/c/d"))).unwrap();
            }
            let over = Arc::new(AtomicBool::new(false));
            let swapper = std::thread::spawn({
                let (over, tree, kept) = (over.clone(), tree.clone(), kept.clone());
                move || {
                    // Directories become links to what must stay, and back.
                    for n in (0..200).rev().cycle() {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        let (at, away) = (tree.join(format!("a/b{n}/c")), tree.join("a/away"));
                        let _ = files::rename(&at, &away);
                        let _ = symlink(&kept, &at);
                        let _ = files::remove_file(&at);
                        let _ = files::rename(&away, &at);
                        let _ = files::write(tree.join(format!("a/b{n}/new")), "x");
                    }
                }
            });
            let outcome = remove_tree(&tree);
            over.store(true, Ordering::Relaxed);
            swapper.join().unwrap();
            outcome.unwrap();
            remove_tree(&tree).unwrap();
            assert!(kept.join("deep/f").exists());
        }
    }
}
