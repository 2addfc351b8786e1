//! Gives a container its root: a mount of its own, which becomes the root of its mount namespace.
//!
//! Promise: the host sees no mount and no unmount of this code. Afterwards no path and no descriptor that
//! was opened here leads out of the root.
//! See pivot_root(2) on `pivot_root(".", ".")`, mount_namespaces(7); runc's `rootfs_linux.go`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::{NewFileSystem, attach, clone_tree, propagate};
use super::tree::{Tree, mount_id};
use crate::mount_info::MountInfo;

/// The mounts of the calling thread.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// The propagation of mounts between host and container (`rootfsPropagation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Slave,
    Private,
    Shared,
    Unbindable,
}

impl Propagation {
    pub(super) fn of(asked: Option<&str>) -> Result<Self, Failure> {
        match asked.map(|kind| kind.strip_prefix('r').unwrap_or(kind)) {
            None | Some("" | "slave") => Ok(Self::Slave),
            Some("private") => Ok(Self::Private),
            Some("shared") => Ok(Self::Shared),
            Some("unbindable") => Ok(Self::Unbindable),
            Some(_) => {
                let asked = asked.unwrap_or_default();
                let message = format!("rootfsPropagation {asked:?} is none");
                Err(Failure::new(Reason::InvalidRequest, message))
            }
        }
    }

    /// The propagation of all mounts before the root is made.
    fn before(self) -> MsFlags {
        match self {
            // The root could not be bound if it were unbindable already.
            Self::Slave | Self::Unbindable => MsFlags::MS_SLAVE,
            Self::Private => MsFlags::MS_PRIVATE,
            Self::Shared => MsFlags::MS_SHARED,
        }
    }

    /// The propagation of the finished root.
    fn after(self) -> Option<MsFlags> {
        match self {
            Self::Slave | Self::Private => None,
            Self::Shared => Some(MsFlags::MS_SHARED),
            Self::Unbindable => Some(MsFlags::MS_UNBINDABLE),
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Mounts the root file system on itself.
pub(super) fn prepare(path: &Path, propagation: Propagation) -> Result<Tree, Failure> {
    let host = open_directory(Path::new("/")).map_err(|error| failed("open /", &error))?;
    propagate(&host, propagation.before() | MsFlags::MS_REC)
        .map_err(|error| failed("set the propagation of all mounts", &error))?;
    let of = |what: &'static str| {
        let what = format!("{what} of the root file system {}", path.display());
        move |error: io::Error| failed(&what, &error)
    };
    let place = open_directory(path).map_err(io::Error::from).map_err(of("open the directory"))?;
    if propagation == Propagation::Shared {
        // A mount on a shared mount would appear on the host, and could not become the root.
        make_parent_private(&place).map_err(of("make the mount private"))?;
    }
    let root = clone_tree(&place, Path::new(""), true).map_err(of("open_tree"))?;
    attach(&root, &place).map_err(of("move_mount"))?;
    Ok(Tree::new(root))
}

/// Makes the mount of a directory private.
fn make_parent_private(directory: &OwnedFd) -> io::Result<()> {
    let id = mount_id(directory)?;
    let table = fs::read_to_string(TABLE)?;
    let line = table.lines().filter_map(MountInfo::of).find(|line| line.id == id);
    let line = line.ok_or_else(|| io::Error::other(format!("mount {id} is not in {TABLE}")))?;
    let at = line.mount_point();
    let root = open_directory(&at)?;
    if mount_id(&root)? != id {
        return Err(io::Error::other(format!("{} is mounted over", at.display())));
    }
    propagate(root, MsFlags::MS_PRIVATE)
}

/// Makes the root the root of the mount namespace and of this process.
pub(super) fn enter(tree: &Tree, pivot: bool) -> Result<(), Failure> {
    fchdir(tree.root()).map_err(|error| failed("chdir to the root file system", &error))?;
    if pivot { exchange() } else { move_over() }?;
    chdir("/").map_err(|error| failed("chdir to /", &error))
}

/// Sets the root's propagation. It comes last, because each mount in a shared root appears in every
/// copy of a part of it, too.
pub(super) fn finish(tree: &Tree, propagation: Propagation) -> Result<(), Failure> {
    match propagation.after() {
        Some(kind) => propagate(tree.root(), kind)
            .map_err(|error| failed("set the propagation of the root", &error)),
        None => Ok(()),
    }
}

fn exchange() -> Result<(), Failure> {
    let host = open_directory(Path::new("/")).map_err(|error| failed("open /", &error))?;
    pivot_root(".", ".").map_err(|error| failed("pivot_root", &error))?;
    // pivot_root(".", ".") has mounted the old root on top of the new one.
    fchdir(&host).map_err(|error| failed("chdir to the old root", &error))?;
    // Otherwise the unmount would propagate to the host's mount namespace.
    propagate(&host, MsFlags::MS_SLAVE | MsFlags::MS_REC)
        .map_err(|error| failed("set the propagation of the old root", &error))?;
    unmount(".", UnmountFlags::DETACH).map_err(|error| failed("unmount the old root", &error))
}

/// The same if the root of the mount namespace cannot be replaced: the new root covers it.
fn move_over() -> Result<(), Failure> {
    let hidden = fs::read_to_string(TABLE)
        .map_err(|error| failed(&format!("read {TABLE}"), &error))
        .and_then(|table| hide_kernel_file_systems(&table));
    hidden?;
    let host = open_directory(Path::new("/")).map_err(|error| failed("open /", &error))?;
    move_mount(CWD, ".", &host, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
        .map_err(|error| failed("move the root file system to /", &error))?;
    chroot(".").map_err(|error| failed("chroot", &error))
}

/// Unmounts every complete procfs and sysfs outside of the root. If one is left, the kernel lets the
/// container mount another one, in which the masked paths are visible.
fn hide_kernel_file_systems(table: &str) -> Result<(), Failure> {
    let inside = std::env::current_dir().map_err(|error| failed("getcwd", &error))?;
    for line in table.lines().filter_map(MountInfo::of) {
        let whole = matches!(line.kind, "proc" | "sysfs") && line.root() == Path::new("/");
        let at = line.mount_point();
        if !whole || at.starts_with(&inside) {
            continue;
        }
        let what = || format!("unmount {}", at.display());
        let place = match open_directory(&at) {
            // It was unmounted with a mount above it.
            Err(Errno::NOENT) => continue,
            other => other.map_err(|error| failed(&what(), &error))?,
        };
        propagate(&place, MsFlags::MS_SLAVE | MsFlags::MS_REC)
            .map_err(|error| failed(&what(), &error))?;
        match unmount(&at, UnmountFlags::DETACH) {
            Err(Errno::INVAL | Errno::PERM) => {
                let empty = NewFileSystem { kind: "tmpfs", source: "tmpfs", flags: &[], data: &[] };
                empty
                    .mount(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY)
                    .and_then(|cover| attach(cover, &place))
                    .map_err(|error| failed(&format!("cover {}", at.display()), &error))?;
            }
            other => other.map_err(|error| failed(&what(), &error))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_is_read_with_and_without_the_letter_for_all() {
        assert_eq!(Propagation::of(Some("rshared")).unwrap(), Propagation::Shared);
        assert_eq!(Propagation::of(None).unwrap(), Propagation::Slave);
        assert!(Propagation::of(Some("rnone")).unwrap_err().message.contains("rnone"));
    }
}
