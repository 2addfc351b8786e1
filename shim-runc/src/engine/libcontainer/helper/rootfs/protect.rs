//! Makes paths of a finished root read-only, and hides paths.
//!
//! Promise: a path in /proc or /sys is resolved below the mount that was made, and a mount over it is made
//! on the file that was found. The file that hides another is checked to be the null device. A path that
//! does not exist is skipped.
//! See the OCI runtime specification, config-linux.md, "Masked Paths"; runc's CVE-2025-31133.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, OFlags, fstat, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::{Mounts, NewFileSystem, attach, clone_tree, set};
use super::options::Change;
use super::tree::{self};

const NULL: &str = "/dev/null";

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

/// Hides files behind the null device and directories behind an empty one. `spare` is the host's null
/// device. It is used if /dev was not made here and has no null device.
pub(super) fn mask(
    mounts: &Mounts,
    paths: &[PathBuf],
    spare: Option<OwnedFd>,
) -> Result<(), Failure> {
    let mut masks = Masks { null: None, spare, empty: None };
    for path in paths {
        let what = format!("mask {}", path.display());
        for place in mounts.find(path).map_err(|error| failed(&what, &error))? {
            let kind = tree::file_type(&place).map_err(|error| failed(&what, &error))?;
            if kind == FileType::Directory {
                masks.hide_directory(place).map_err(|error| failed(&what, &error))?;
            } else {
                masks.hide_file(mounts, place).map_err(|error| Failure {
                    message: format!("{what}: {}", error.message),
                    ..error
                })?;
            }
        }
    }
    Ok(())
}

/// The mounts that hide a file or a directory. The first of each kind is copied for the others: some kernels
/// copy attached mounts only.
struct Masks {
    null: Option<OwnedFd>,
    spare: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

impl Masks {
    fn hide_file(&mut self, mounts: &Mounts, place: OwnedFd) -> Result<(), Failure> {
        let of = |error: io::Error| failed("bind the null device", &error);
        let null = match &self.null {
            Some(null) => null,
            None => match (null_device(mounts), self.spare.take()) {
                (Ok(null), _) => self.null.insert(null),
                (Err(_), Some(spare)) => {
                    attach(&spare, place).map_err(of)?;
                    self.null = Some(spare);
                    return Ok(());
                }
                (Err(error), None) => return Err(error),
            },
        };
        clone_tree(null, Path::new(""), false).and_then(|tree| attach(tree, place)).map_err(of)
    }

    fn hide_directory(&mut self, place: OwnedFd) -> io::Result<()> {
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

/// The container's null device.
fn null_device(mounts: &Mounts) -> Result<OwnedFd, Failure> {
    let of = |error: Errno| failed("open the container's /dev/null", &error);
    let fd = mounts.tree.open(Path::new(NULL), OFlags::PATH).map_err(of)?;
    if is_null(&fd).map_err(of)? {
        return Ok(fd);
    }
    let message = "the container's /dev/null is not the null device";
    Err(Failure::new(Reason::RootFilesystem, message))
}

/// The host's null device as a detached mount, if it has one. It is read-only, so that the container cannot
/// change its owner and mode.
pub(super) fn hosts_null_device() -> Option<OwnedFd> {
    let tree = clone_tree(CWD, Path::new(NULL), false).ok()?;
    let is_usable = is_null(&tree).ok()? && set(&tree, false, Change::READ_ONLY).is_ok();
    is_usable.then_some(tree)
}

fn is_null(fd: &OwnedFd) -> Result<bool, Errno> {
    let stat = fstat(fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(kind == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3))
}
