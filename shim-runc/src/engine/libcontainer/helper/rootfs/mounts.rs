//! Makes the mounts of a container, each at a mount point that is held by a descriptor.
//!
//! ```text
//!   a bind:         open_tree(source) ─┐
//!   a file system:  fsopen, fsmount ───┴─> attributes ─> move_mount(onto the mount point's descriptor)
//! ```
//!
//! Promise: a mount has its attributes before it is visible. It is made at the place that was checked, also
//! if that was renamed meanwhile. Only procfs is mounted at /proc, and below /proc only over the files
//! that runc allows.
//! Not here: control groups (`cgroup_mount`), read-only paths and masks (`protect`).
//! See open_tree(2), fsopen(2), move_mount(2), mount_setattr(2); runc's `checkProcMount`.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime as oci;
use nix::mount::MsFlags;
use rustix::fs::{CWD, FileType, OFlags, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::super::super::wire::{Failure, Reason};
use super::options::{Change, MountOptions};
use super::tree::{self, LastLink, Missing, Names, PROCFS, Tree, TreePlace, clean};
use super::{copy_up, failed};
use crate::sys;

/// The magic number of sysfs (statfs(2)).
const SYSFS: rustix::fs::FsWord = 0x6265_6572;

/// The inode number of the root of a procfs. No other file of it has this number.
const PROCFS_ROOT: u64 = 1;

/// The files in /proc over which a spec may mount: lxcfs emulates them.
const EMULATED: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// A mount of the spec.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) at: PathBuf,
    pub(super) what: What,
    pub(super) options: MountOptions,
}

/// The kind of a mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Bind { source: PathBuf },
    FileSystem { kind: String, source: String },
    Groups,
}

impl Mount {
    pub(super) fn of(mount: &oci::Mount, bundle: &Path) -> Result<Self, Failure> {
        let at = mount.destination().clone();
        let invalid = |why: &str| {
            let message = format!("the mount at {:?} {why}", at.display());
            Failure::new(Reason::InvalidRequest, message)
        };
        if at.as_os_str().is_empty() {
            return Err(invalid("has no destination"));
        }
        let options = MountOptions::of(mount);
        let maps = [mount.uid_mappings(), mount.gid_mappings()];
        if options.mapped || maps.into_iter().flatten().any(|map| !map.is_empty()) {
            let message = format!("the mount at {:?} with mapped ids", at.display());
            return Err(Failure::new(Reason::Unsupported, message));
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        let source = mount.source().as_ref();
        let what = if options.bind {
            let source = source.ok_or_else(|| invalid("is a bind and has no source"))?;
            What::Bind { source: bundle.join(source) }
        } else if kind == "cgroup" {
            What::Groups
        } else if kind.is_empty() {
            return Err(invalid("has no type"));
        } else {
            let source = source.map_or(Some(kind), |path| path.to_str());
            let source = source.ok_or_else(|| invalid("has a source that is not UTF-8"))?;
            What::FileSystem { kind: kind.to_owned(), source: source.to_owned() }
        };
        Ok(Self { at, what, options })
    }

    fn is_tmpfs(&self) -> bool {
        matches!(&self.what, What::FileSystem { kind, .. } if kind == "tmpfs")
    }
}

/// A mount of procfs or sysfs. Paths below it are resolved from its own root, also if its mount point was
/// changed.
#[derive(Debug)]
struct Held {
    at: PathBuf,
    fd: OwnedFd,
    /// Another mount may cover it.
    covered: bool,
}

/// The mounts that were made.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) tree: Tree,
    /// `None` after the pivot.
    names: Option<Names>,
    held: Vec<Held>,
    /// The ids of the mounts that only the container has: no file in them is the host's.
    own: Vec<u64>,
    /// The mounts that become read-only after everything in them was made.
    later: Vec<(PathBuf, OwnedFd)>,
    /// Procfs that another process opened: it shows the pid namespace of that process.
    pub(super) procfs: Vec<OwnedFd>,
}

impl Mounts {
    pub(super) fn new(tree: Tree) -> io::Result<Self> {
        let names = Some(Names::new(tree.root())?);
        let mut own = vec![tree::mount_id(tree.root())?];
        // The root may have a procfs already.
        if let Ok(fd) = tree.open(Path::new("/dev"), OFlags::PATH | OFlags::NOFOLLOW) {
            own.push(tree::mount_id(fd)?);
        }
        Ok(Self { tree, names, held: Vec::new(), own, later: Vec::new(), procfs: Vec::new() })
    }

    /// Makes a mount of any kind but control groups.
    pub(super) fn make(&mut self, mount: &Mount) -> Result<(), Failure> {
        match &mount.what {
            What::Bind { source } => self.bind(mount, source),
            What::FileSystem { kind, source } => self.file_system(mount, kind, source),
            What::Groups => Ok(()),
        }
    }

    fn bind(&mut self, mount: &Mount, source: &Path) -> Result<(), Failure> {
        let call = |what: &str, error: &dyn Display| {
            let from = source.display();
            failed(&format!("bind {from} at {}: {what}", mount.at.display()), error)
        };
        let tree = clone_tree(CWD, source, mount.options.recursive)
            .map_err(|error| call("open_tree", &error))?;
        let stat = fstat(&tree).map_err(|error| call("fstat", &error))?;
        let kind = fstatfs(&tree).map_err(|error| call("fstatfs", &error))?.f_type;
        let missing = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Missing::Directory,
            _ => Missing::File,
        };
        let place = self.place(&mount.at, missing, LastLink::Follow)?;
        let name = self.check(&mount.at, &place, kind == PROCFS)?;
        self.change(&tree, mount, &name)?;
        attach(&tree, &place.fd).map_err(|error| call("move_mount", &error))?;
        self.propagate(&tree, mount)?;
        let special = kind == PROCFS || kind == SYSFS;
        self.made(mount, name, tree, special)
    }

    fn file_system(&mut self, mount: &Mount, kind: &str, source: &str) -> Result<(), Failure> {
        let special = matches!(kind, "proc" | "sysfs");
        let last = if special { LastLink::Keep } else { LastLink::Follow };
        let place = self.place(&mount.at, Missing::Directory, last)?;
        let at = mount.at.display();
        let stat = fstat(&place.fd).map_err(|error| failed(&format!("fstat {at}"), &error))?;
        if special && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let message = format!("{kind} must be mounted on an ordinary directory, not {at}");
            return Err(Failure::new(Reason::RootFilesystem, message));
        }
        let name = self.check(&mount.at, &place, kind == "proc")?;
        let mut data = mount.options.data.clone();
        if kind == "tmpfs" && place.existed && !mount.options.gives("mode") {
            // As in runc: /tmp keeps its sticky bit.
            data.push(format!("mode={:04o}", stat.st_mode & 0o7777));
        }
        let later = self.is_for_later(mount, &name);
        let mut attributes = mount.options.change.set;
        if later {
            attributes.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
        }
        let new = NewFileSystem { kind, source, flags: &mount.options.superblock, data: &data };
        let opened = if kind == "proc" { self.procfs.pop() } else { None };
        let made = match opened {
            Some(context) => new.mount_opened(&context, attributes),
            None => new.mount(attributes),
        };
        let tree = made.map_err(|error| failed(&format!("mount {kind} at {at}"), &error))?;
        if kind == "proc" && !tree::is_procfs(&tree).map_err(|error| failed("fstatfs", &error))? {
            // The process that opened it may have been controlled by a process of the pid namespace.
            let message = format!("what was opened to be mounted at {at} is no procfs");
            return Err(Failure::new(Reason::RootFilesystem, message));
        }
        let change = mount.options.change_all;
        set(&tree, true, change).map_err(|error| failed(&format!("mount {at}"), &error))?;
        if mount.options.copy_up && mount.is_tmpfs() {
            copy_up::copy(&place.fd, &tree)
                .map_err(|error| failed(&format!("copy {at} into its tmpfs"), &error))?;
        }
        attach(&tree, &place.fd)
            .map_err(|error| failed(&format!("mount {kind} at {at}: move_mount"), &error))?;
        self.propagate(&tree, mount)?;
        self.own.push(tree::mount_id(&tree).map_err(|error| failed("statx", &error))?);
        self.made(mount, name, tree, special)
    }

    /// Finds or makes a mount point.
    pub(super) fn place(
        &self,
        at: &Path,
        missing: Missing,
        last: LastLink,
    ) -> Result<TreePlace, Failure> {
        self.tree
            .place(at, missing, last)
            .map_err(|error| failed(&format!("make the mount point {}", at.display()), &error))
    }

    /// Returns the path of a mount point. Refuses one in /proc.
    pub(super) fn check(
        &self,
        asked: &Path,
        place: &TreePlace,
        is_procfs: bool,
    ) -> Result<PathBuf, Failure> {
        let at = asked.display();
        let of = |error: &dyn Display| failed(&format!("check the mount point {at}"), error);
        let names = self.names.as_ref().ok_or_else(|| of(&"the host is gone"))?;
        let name = names.of(&place.fd).map_err(|error| of(&error))?;
        let on_procfs = tree::is_procfs(&place.fd).map_err(|error| of(&error))?;
        let inode = fstat(&place.fd).map_err(|error| of(&error))?.st_ino;
        let elsewhere = self.is_elsewhere(&name);
        let is_root = name == Path::new("/proc") || on_procfs && inode == PROCFS_ROOT && !elsewhere;
        let refusal = if is_root {
            (!is_procfs).then_some("not of type proc")
        } else if name.starts_with("/proc") || on_procfs && !elsewhere {
            let listed = |path: &Path| EMULATED.iter().any(|one| path == Path::new(one));
            // /proc/net is a link, so the path differs.
            let is_net = on_procfs && clean(asked) == Path::new("/proc/net/dev");
            (!listed(&name) && !is_net).then_some("in /proc")
        } else {
            None
        };
        match refusal {
            Some(why) => {
                let message = format!("{at} cannot be mounted because it is {why}");
                Err(Failure::new(Reason::RootFilesystem, message))
            }
            None => Ok(name),
        }
    }

    /// Whether a path is in a procfs that the spec mounts elsewhere than at /proc.
    fn is_elsewhere(&self, name: &Path) -> bool {
        let held = self.held.iter().rev().find(|held| name.starts_with(&held.at));
        held.is_some_and(|held| held.at != Path::new("/proc"))
    }

    fn is_for_later(&self, mount: &Mount, name: &Path) -> bool {
        let read_only = mount.options.change.set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
        read_only && (mount.is_tmpfs() || name == Path::new("/dev"))
    }

    /// Sets the attributes of a bind.
    fn change(&self, tree: &OwnedFd, mount: &Mount, name: &Path) -> Result<(), Failure> {
        let mut change = mount.options.change;
        if self.is_for_later(mount, name) {
            change.set.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
        }
        let done = set(tree, false, change).or_else(|error| {
            // In a user namespace the host's restrictions of a mount cannot be cleared.
            let kept = Change { set: change.set, clear: MountAttrFlags::empty() };
            let was_refused = error.raw_os_error() == Some(Errno::PERM.raw_os_error());
            if was_refused { set(tree, false, kept) } else { Err(error) }
        });
        let done = done.and_then(|()| set(tree, true, mount.options.change_all));
        done.map_err(|error| failed(&format!("set the options of {}", mount.at.display()), &error))
    }

    fn propagate(&self, tree: &OwnedFd, mount: &Mount) -> Result<(), Failure> {
        let mut kinds = mount.options.propagation.iter();
        kinds.try_for_each(|kind| propagate(tree, *kind)).map_err(|error| {
            failed(&format!("set the propagation of {}", mount.at.display()), &error)
        })
    }

    /// Records a mount that was made.
    fn made(
        &mut self,
        mount: &Mount,
        name: PathBuf,
        tree: OwnedFd,
        special: bool,
    ) -> Result<(), Failure> {
        self.cover(&name);
        if self.is_for_later(mount, &name) {
            let again = tree.try_clone().map_err(|error| failed("dup", &error))?;
            self.later.push((name.clone(), again));
        }
        if name == Path::new("/") {
            self.tree.set_root(tree);
        } else if special {
            // The path of the spec, because masked paths are compared with it.
            self.held.push(Held { at: clean(&mount.at), fd: tree, covered: false });
        }
        Ok(())
    }

    /// Records that a mount covers a path and everything below it.
    pub(super) fn cover(&mut self, name: &Path) {
        for held in self.held.iter_mut().filter(|held| held.at.starts_with(name)) {
            held.covered = true;
        }
    }

    /// Closes the descriptors of the host.
    pub(super) fn forget_host(&mut self) {
        self.names = None;
    }

    /// Whether a descriptor is on a mount that only the container has.
    pub(super) fn is_own(&self, fd: impl AsFd) -> Result<bool, Errno> {
        Ok(self.own.contains(&tree::mount_id(fd)?))
    }

    /// Opens a path of the spec in the finished tree. Below a procfs or sysfs that was made, the path is
    /// resolved from the mount's own descriptor. If a mount seems to cover it, the file that the path shows
    /// now is a second result. Only names show that, and a hostile image can fake it; so the first result
    /// is returned too.
    pub(super) fn find(&self, path: &Path) -> Result<Vec<OwnedFd>, Errno> {
        let path = clean(path);
        let mut found = Vec::new();
        let mut only_held = false;
        for held in self.held.iter().filter(|held| path.starts_with(&held.at)) {
            let below = path.strip_prefix(&held.at).unwrap_or(&path);
            let place = tree::open_in(&held.fd, &Path::new(".").join(below), OFlags::PATH);
            found.extend(there(place)?);
            only_held |= !held.covered;
        }
        if only_held {
            return Ok(found);
        }
        if let Some(place) = there(self.tree.open(&path, OFlags::PATH))? {
            let is_known = found.iter().map(|known| is_same(known, &place));
            if !is_known.collect::<Result<Vec<_>, _>>()?.contains(&true) {
                found.push(place);
            }
        }
        Ok(found)
    }

    /// Makes the mounts read-only that had to stay writable until now.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        for (name, tree) in self.later.drain(..) {
            set(&tree, false, Change::READ_ONLY)
                .map_err(|error| failed(&format!("make {} read-only", name.display()), &error))?;
        }
        Ok(())
    }
}

/// The opened file, or `None` if it does not exist.
fn there(place: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match place {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether two descriptors are of the same file on the same mount.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let inodes = fstat(one)?.st_ino == fstat(other)?.st_ino;
    Ok(inodes && tree::mount_id(one)? == tree::mount_id(other)?)
}

/// A file system that is mounted.
pub(super) struct NewFileSystem<'a> {
    pub(super) kind: &'a str,
    pub(super) source: &'a str,
    pub(super) flags: &'a [&'a str],
    pub(super) data: &'a [String],
}

impl NewFileSystem<'_> {
    /// Makes a detached mount.
    pub(super) fn mount(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let context = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|error| named("fsopen", error))?;
        self.mount_opened(&context, attributes)
    }

    /// The same with a file system that is open already.
    fn mount_opened(&self, context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let explained = |what: &str, error: Errno| {
            let error = named(what, error);
            match explanation(context) {
                Some(text) => io::Error::new(error.kind(), format!("{error} ({text})")),
                None => error,
            }
        };
        fsconfig_set_string(context, "source", self.source)
            .map_err(|error| explained("source", error))?;
        for flag in self.flags {
            fsconfig_set_flag(context, *flag).map_err(|error| explained(flag, error))?;
        }
        for option in self.data {
            let set = match option.split_once('=') {
                Some((key, value)) => fsconfig_set_string(context, key, value),
                None => fsconfig_set_flag(context, option.as_str()),
            };
            set.map_err(|error| explained(&format!("option {option:?}"), error))?;
        }
        fsconfig_create(context).map_err(|error| explained("create", error))?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|error| explained("fsmount", error))
    }
}

fn named(what: &str, error: Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}"))
}

/// The kernel's explanation of why a file system was not made, without the letter in front of it
/// (`e `).
fn explanation(context: &OwnedFd) -> Option<String> {
    let mut text = [0; 512];
    let length = rustix::io::read(context, &mut text).ok()?;
    let text = String::from_utf8_lossy(&text[..length]);
    let text = text.trim();
    Some(text.strip_prefix("e ").unwrap_or(text).to_owned()).filter(|text| !text.is_empty())
}

/// A detached copy of the mount at a path, with the mounts below it if `recursive` is set.
pub(super) fn clone_tree(from: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(from, path, flags)?)
}

/// Attaches a detached mount to a mount point.
pub(super) fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// Changes the attributes of a mount, and of the mounts below it if `recursive` is set.
pub(super) fn set(mount: impl AsFd, recursive: bool, change: Change) -> io::Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    let (set, clear) = (change.set.bits().into(), change.clear.bits().into());
    sys::mount::set_mount_attributes(mount, recursive, set, clear, 0)
}

/// Changes the propagation of a mount.
pub(super) fn propagate(mount: impl AsFd, kind: MsFlags) -> io::Result<()> {
    let recursive = kind.contains(MsFlags::MS_REC);
    let kind = (kind - MsFlags::MS_REC).bits();
    sys::mount::set_mount_attributes(mount, recursive, 0, 0, kind)
}
