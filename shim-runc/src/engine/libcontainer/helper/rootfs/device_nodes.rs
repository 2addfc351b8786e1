//! Makes the device nodes and the links in a container's /dev.
//!
//! Promise: each is made through the descriptor of its directory and changes no file that exists. An
//! existing node counts as made. A directory or device that is bound from the host is left as it is. Directories have mode 0755. Expects a umask of 0.
//! See the OCI runtime specification, config-linux.md, "Default Devices"; runc's `createDevices`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid, chownat,
    fstat, makedev, mknodat, openat, readlinkat, statx, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::{Mounts, attach, clone_tree};
use super::tree::clean;

const DEV: &str = "/dev";
const PTMX: &str = "/dev/ptmx";

/// Where it exists, it gets a link.
const KCORE: &str = "/proc/kcore";

/// The devices of every container: name in /dev, major and minor number.
const USUAL: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links in /dev and their targets.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", KCORE),
];

/// A device node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    path: PathBuf,
    kind: FileType,
    number: Dev,
    mode: u32,
    owner: (Option<u32>, Option<u32>),
}

/// The nodes of a spec, and the usual ones that it does not list.
pub(super) fn of(listed: &[LinuxDevice]) -> Result<Vec<Node>, Failure> {
    let mut nodes: Vec<_> = listed.iter().map(Node::of).collect::<Result<_, _>>()?;
    // Made with /dev.
    nodes.retain(|node| node.path != Path::new(PTMX));
    for (name, major, minor) in USUAL {
        let path = Path::new(DEV).join(name);
        if !nodes.iter().any(|node| node.path == path) {
            let (kind, number) = (FileType::CharacterDevice, makedev(major, minor));
            nodes.push(Node { path, kind, number, mode: 0o666, owner: (None, None) });
        }
    }
    Ok(nodes)
}

impl Node {
    fn of(device: &LinuxDevice) -> Result<Self, Failure> {
        let path = clean(device.path());
        let invalid = |why: &str| {
            let message = format!("the device {:?} {why}", device.path().display());
            Failure::new(Reason::InvalidRequest, message)
        };
        if path.file_name().is_none() {
            return Err(invalid("has no name"));
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(invalid("is of no type that could be made")),
        };
        let number = |number: i64| u32::try_from(number).ok();
        let number = match (kind, number(device.major()), number(device.minor())) {
            (FileType::Fifo, _, _) => 0,
            (_, Some(major), Some(minor)) => makedev(major, minor),
            _ => return Err(invalid("has a number that is none")),
        };
        let mode = device.file_mode().unwrap_or(0o666);
        Ok(Self { path, kind, number, mode, owner: (device.uid(), device.gid()) })
    }
}

/// The descriptor of /dev, if only the container has it.
pub(super) fn own_dev(mounts: &Mounts) -> Result<Option<OwnedFd>, Failure> {
    let made = mounts.tree.directory(Path::new(DEV), |above| may_make(mounts, above));
    let dev = match made {
        Err(Errno::XDEV) => return Ok(None),
        other => other.map_err(|error| failed("make /dev", &error))?,
    };
    let own = mounts.is_own(&dev).map_err(|error| failed("statx /dev", &error))?;
    Ok(own.then_some(dev))
}

/// Makes the nodes and links. In a user namespace no node can be made, so the host's nodes are bound.
pub(super) fn set_up(
    mounts: &Mounts,
    dev: &OwnedFd,
    nodes: &[Node],
    bind: bool,
) -> Result<(), Failure> {
    for node in nodes {
        let made = node.make(mounts, dev.as_fd(), bind);
        made.map_err(|error| failed(&format!("make {}", node.path.display()), &error))?;
    }
    let has_kcore = openat(CWD, KCORE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok();
    for (name, target) in LINKS {
        if target == KCORE && !has_kcore {
            continue;
        }
        match symlinkat(target, dev, name) {
            Err(Errno::EXIST) => {}
            made => made.map_err(|error| failed(&format!("make the link /dev/{name}"), &error))?,
        }
    }
    ptmx(dev).map_err(|error| failed("make the link /dev/ptmx", &error))
}

/// Directories are made in what is the container's alone.
fn may_make(mounts: &Mounts, above: BorrowedFd<'_>) -> Result<(), Errno> {
    if mounts.is_own(above)? { Ok(()) } else { Err(Errno::XDEV) }
}

impl Node {
    fn make(&self, mounts: &Mounts, dev: BorrowedFd<'_>, bind: bool) -> Result<(), Errno> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(Errno::INVAL);
        };
        if parent == Path::new(DEV) {
            return self.make_in(dev, name, bind);
        }
        match mounts.tree.directory(parent, |above| may_make(mounts, above)) {
            Ok(parent) if mounts.is_own(&parent)? => self.make_in(parent.as_fd(), name, bind),
            // Bound from the host.
            Ok(_) | Err(Errno::XDEV) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn make_in(&self, parent: BorrowedFd<'_>, name: &OsStr, bind: bool) -> Result<(), Errno> {
        if bind && self.kind != FileType::Fifo {
            return self.bind(parent, name);
        }
        let mode = Mode::from_raw_mode(self.mode & 0o7777);
        match mknodat(parent, name, self.kind, mode, self.number) {
            Ok(()) => self.give_away(parent, name),
            Err(Errno::EXIST) => Ok(()),
            Err(Errno::PERM) => self.bind(parent, name),
            Err(error) => Err(error),
        }
    }

    /// Changes the owner of the node that was made, and of no file that replaced it.
    fn give_away(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        let (user, group) = self.owner;
        if user.unwrap_or(0) == 0 && group.unwrap_or(0) == 0 {
            return Ok(());
        }
        let node = open_node(parent, name)?;
        if !self.is(&node)? {
            return Err(Errno::STALE);
        }
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        chownat(node, "", user, group, AtFlags::EMPTY_PATH)
    }

    fn is(&self, node: &OwnedFd) -> Result<bool, Errno> {
        let stat = fstat(node)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(kind == self.kind && stat.st_rdev == self.number)
    }

    /// Binds the host's node of the same path, unless something is mounted there.
    fn bind(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        match mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let place = open_node(parent, name)?;
        if is_mount(&place)? {
            return Ok(());
        }
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let node = clone_tree(CWD, &self.path, false).map_err(errno)?;
        if !self.is(&node)? {
            return Err(Errno::NODEV);
        }
        attach(node, &place).map_err(errno)
    }
}

fn open_node(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a descriptor is of the root of a mount.
pub(super) fn is_mount(fd: impl AsFd) -> Result<bool, Errno> {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Makes /dev/ptmx a link to the container's own pseudoterminals, and replaces an existing file.
fn ptmx(dev: &OwnedFd) -> Result<(), Errno> {
    const TARGET: &str = "pts/ptmx";
    if readlinkat(dev, "ptmx", Vec::new()).is_ok_and(|now| now.as_bytes() == TARGET.as_bytes()) {
        return Ok(());
    }
    match unlinkat(dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // A mount covers it.
        Err(Errno::BUSY) => return Ok(()),
        Err(error) => return Err(error),
    }
    match symlinkat(TARGET, dev, "ptmx") {
        // Another container that shares the root has made it first.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn nodes(devices: Value) -> Result<Vec<Node>, Failure> {
        let listed: Vec<LinuxDevice> = serde_json::from_value(devices).unwrap();
        of(&listed)
    }

    #[test]
    fn a_listed_device_takes_the_place_of_the_usual_one() {
        let found = nodes(json!([
            {"path": "/dev//./null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
        ]))
        .unwrap();
        assert_eq!(found.len(), USUAL.len());
        let null = found.iter().find(|node| node.path == Path::new("/dev/null")).unwrap();
        assert_eq!((null.mode, null.number), (0o600, makedev(1, 3)));
    }

    #[test]
    fn a_device_that_cannot_be_made_is_refused() {
        let refused = |device| nodes(json!([device])).unwrap_err().message;
        let text = refused(json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 3}));
        assert!(text.contains("number"), "{text}");
        let text = refused(json!({"path": "/", "type": "c", "major": 1, "minor": 3}));
        assert!(text.contains("name"), "{text}");
    }
}
