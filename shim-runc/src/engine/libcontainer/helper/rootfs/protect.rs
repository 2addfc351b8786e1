//! What of a finished root is hidden or read-only.
//!
//! Promise: a path in /proc or /sys is found below the very mounts that were made, and a mount over
//! it lands on what was found; what hides a file is verified to be the null device. What is not there is
//! passed over.
//! See the OCI runtime specification, config-linux.md, "Masked Paths"; runc's CVE-2025-31133.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, fstat, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::{Mounts, NewFileSystem, attach, clone_tree, set};
use super::options::Change;
use super::tree::{self};

/// Makes paths read-only.
pub(super) fn make_read_only(mounts: &Mounts, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let of = |error: io::Error| failed(&format!("make {} read-only", path.display()), &error);
        for place in mounts.find(path).map_err(|error| of(error.into()))? {
            let tree = clone_tree(&place, Path::new(""), true).map_err(of)?;
            set(&tree, false, Change::READ_ONLY).map_err(of)?;
            attach(tree, place).map_err(of)?;
        }
    }
    Ok(())
}

/// Hides paths: files behind the null device, directories behind an empty one.
pub(super) fn mask(mounts: &Mounts, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut masks = Masks { null: None, empty: None };
    for path in paths {
        let of = |error: io::Error| failed(&format!("mask {}", path.display()), &error);
        for place in mounts.find(path).map_err(|error| of(error.into()))? {
            let kind = tree::file_type(&place).map_err(|error| of(error.into()))?;
            if kind == FileType::Directory {
                masks.empty(place).map_err(of)?;
            } else {
                let null = masks.null(mounts)?;
                clone_tree(null, Path::new(""), false)
                    .and_then(|tree| attach(tree, place))
                    .map_err(of)?;
            }
        }
    }
    Ok(())
}

/// What hides.
struct Masks {
    null: Option<OwnedFd>,
    /// The first of them; all others are copies, for the sake of memory.
    empty: Option<OwnedFd>,
}

impl Masks {
    fn null(&mut self, mounts: &Mounts) -> Result<&OwnedFd, Failure> {
        match &mut self.null {
            Some(null) => Ok(null),
            empty => Ok(empty.insert(null_device(mounts)?)),
        }
    }

    fn empty(&mut self, place: OwnedFd) -> io::Result<()> {
        if let Some(first) = &self.empty {
            return attach(clone_tree(first, Path::new(""), false)?, place);
        }
        let first = empty_directory()?;
        attach(&first, place)?;
        self.empty = Some(first);
        Ok(())
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let (kind, source) = ("tmpfs", "tmpfs");
    NewFileSystem { kind, source, flags: &["ro"], data: &[] }
        .mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The container's null device. The host's would be the container's to change.
fn null_device(mounts: &Mounts) -> Result<OwnedFd, Failure> {
    let of = |error: Errno| failed("open /dev/null, to mask files", &error);
    let fd = mounts.tree.open(Path::new("/dev/null"), OFlags::PATH).map_err(of)?;
    let stat = fstat(&fd).map_err(of)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::CharacterDevice || stat.st_rdev != makedev(1, 3) {
        let message = "the container's /dev/null is not the null device, and cannot mask files";
        return Err(Failure::new(Reason::Other, message));
    }
    Ok(fd)
}
