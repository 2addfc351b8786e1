//! What of a finished root is hidden, read-only, or set in the kernel.
//!
//! Promise: a path in /proc or /sys is found below the very mounts that were made, and a mount over
//! it lands on what was found; what hides a file is verified to be the null device; settings are
//! written into a procfs of our own that nobody else sees. What is not there is passed over.
//! See the OCI runtime specification, config-linux.md, "Masked Paths" and "sysctl"; runc's
//! CVE-2025-31133 and CVE-2025-52881.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, makedev, openat2};
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
        let Some(place) = mounts.find(path).map_err(|error| of(error.into()))? else { continue };
        let tree = clone_tree(&place, Path::new(""), true).map_err(of)?;
        set(&tree, false, Change::READ_ONLY).map_err(of)?;
        attach(tree, place).map_err(of)?;
    }
    Ok(())
}

/// Hides paths: files behind the null device, directories behind an empty one.
pub(super) fn mask(mounts: &Mounts, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut null = None;
    // All of them are the same, for the sake of memory.
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let of = |error: io::Error| failed(&format!("mask {}", path.display()), &error);
        let Some(place) = mounts.find(path).map_err(|error| of(error.into()))? else { continue };
        let kind = tree::file_type(&place).map_err(|error| of(error.into()))?;
        if kind != FileType::Directory {
            let source = match null.take() {
                Some(source) => source,
                None => null_device(mounts)?,
            };
            clone_tree(&source, Path::new(""), false)
                .and_then(|tree| attach(tree, place))
                .map_err(of)?;
            null = Some(source);
            continue;
        }
        let tree = match &empty {
            Some(first) => clone_tree(first, Path::new(""), false),
            None => empty_directory(),
        };
        let tree = tree.map_err(of)?;
        attach(&tree, place).map_err(of)?;
        empty.get_or_insert(tree);
    }
    Ok(())
}

fn empty_directory() -> io::Result<OwnedFd> {
    let (kind, source) = ("tmpfs", "tmpfs");
    NewFileSystem { kind, source, flags: &[], data: &[] }.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
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

/// Settings of the kernel, of the namespaces that this process is in.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<(PathBuf, String)>);

impl Settings {
    pub(super) fn of(asked: Option<&HashMap<String, String>>) -> Self {
        let mut settings: Vec<_> = asked
            .into_iter()
            .flatten()
            .map(|(key, value)| (PathBuf::from(key.replace('.', "/")), value.clone()))
            .collect();
        settings.sort();
        Self(settings)
    }

    /// Writes them.
    pub(super) fn write(&self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let procfs = NewFileSystem { kind: "proc", source: "proc", flags: &[], data: &[] };
        let procfs = procfs
            .mount(MountAttrFlags::empty())
            .map_err(|error| failed("mount a procfs, to write sysctls", &error))?;
        for (key, value) in &self.0 {
            set_one(&procfs, key, value)
                .map_err(|error| failed(&format!("sysctl {}={value}", key.display()), &error))?;
        }
        Ok(())
    }
}

fn set_one(procfs: &OwnedFd, key: &Path, value: &str) -> io::Result<()> {
    let path = Path::new("sys").join(key.strip_prefix("/").unwrap_or(key));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(procfs, path, flags, Mode::empty(), resolve)?;
    let written = rustix::io::write(file, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
