//! What a container's init still arranges inside it, after libcontainer and before it becomes the
//! user: the loopback, how mounts propagate, read-only paths, and what control groups are seen.
//!
//! libcontainer leaves the loopback of a new network namespace down; it applies no propagation
//! that a mount's options ask for; and of a mount of control groups of version 1 it applies the
//! options to the folder alone, so that the hierarchies in a read-only one can be written to. The
//! named hierarchies (systemd's), in which the container has no group, it shows from their root.
//! It makes read-only paths unfit for programs and devices besides, and lets everybody write to a
//! folder that it makes for a device.
//!
//! Promise: what was asked read-only is, or the container is not created.
//! Runs in the container, after clone, with every capability.
//! See mount(2) on remounting and propagation, netdevice(7), cgroups(7).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use rustix::fs::StatVfsMountFlags;

use super::super::sys;
use super::super::wire::{Failure, Reason};

/// What is to be arranged; empty for most containers but for the loopback.
pub(super) struct Interior {
    loopback: bool,
    propagation: Vec<(PathBuf, MsFlags)>,
    groups: Vec<(PathBuf, MsFlags)>,
    read_only: Vec<PathBuf>,
    device_folders: Vec<PathBuf>,
}

impl Interior {
    /// Reads it out of a container's own spec.
    pub(super) fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let loopback = namespaces.into_iter().flatten().any(|one| {
            one.typ() == LinuxNamespaceType::Network
                && one.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        });
        let mounts = || spec.mounts().iter().flatten();
        let propagation = mounts()
            .flat_map(|one| {
                let asked = options(one).filter_map(propagation);
                asked.map(|flags| (one.destination().clone(), flags))
            })
            .collect();
        let groups = mounts()
            .filter(|one| one.typ().as_deref() == Some("cgroup"))
            .map(|one| (one.destination().clone(), restrictions(options(one))))
            .collect();
        let linux = spec.linux().as_ref();
        let read_only = linux.and_then(|linux| linux.readonly_paths().as_ref());
        let devices = linux.and_then(|linux| linux.devices().as_ref());
        let device_folders = devices
            .into_iter()
            .flatten()
            .filter_map(|device| device.path().parent())
            .filter(|folder| folder.starts_with("/dev") && *folder != Path::new("/dev"))
            .map(Path::to_owned)
            .collect();
        let read_only = read_only.into_iter().flatten().map(PathBuf::from).collect();
        Self { loopback, propagation, groups, read_only, device_folders }
    }

    /// Arranges it. Called once, by init itself.
    pub(super) fn arrange(&self) -> Result<(), Failure> {
        if self.loopback {
            sys::loopback_up().map_err(|error| failed("bring up the loopback", &error))?;
        }
        for (at, flags) in &self.propagation {
            mount(None::<&str>, at, None::<&str>, *flags, None::<&str>)
                .map_err(|error| failed(&format!("propagation of {}", at.display()), &error))?;
        }
        for path in &self.read_only {
            protect(path)
                .map_err(|error| failed(&format!("protect {}", path.display()), &error))?;
        }
        for folder in &self.device_folders {
            close(folder)
                .map_err(|error| failed(&format!("close {}", folder.display()), &error))?;
        }
        if self.groups.is_empty() {
            return Ok(());
        }
        let table = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| failed("read /proc/self/mountinfo, to protect cgroups", &error))?;
        for (destination, wanted) in &self.groups {
            for found in hierarchies(&table, destination) {
                found.restrict(*wanted)?;
            }
        }
        Ok(())
    }
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

/// Makes a path read-only and leaves it otherwise as it is; what is not there needs no protection.
fn protect(path: &Path) -> nix::Result<()> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    match mount(Some(path), path, None::<&str>, bind, None::<&str>) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    }
    let now = rustix::fs::statvfs(path).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    let kept = [
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = kept.into_iter().filter(|(has, _)| now.f_flag.contains(*has));
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let flags = kept.fold(read_only, |flags, (_, one)| flags | one);
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

/// Takes a folder away from everybody but its owner, unless it is a sticky one.
fn close(folder: &Path) -> io::Result<()> {
    let mode = match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.permissions().mode(),
    };
    if mode & 0o022 == 0 || mode & 0o1000 != 0 {
        return Ok(());
    }
    fs::set_permissions(folder, Permissions::from_mode(mode & 0o7755))
}

fn propagation(option: &str) -> Option<MsFlags> {
    let (name, below) = match option.strip_prefix('r') {
        Some(name) => (name, MsFlags::MS_REC),
        None => (option, MsFlags::empty()),
    };
    let kind = match name {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

fn restrictions<'a>(options: impl Iterator<Item = &'a str>) -> MsFlags {
    options.fold(MsFlags::empty(), |flags, option| match option {
        "ro" => flags | MsFlags::MS_RDONLY,
        "rw" => flags - MsFlags::MS_RDONLY,
        "nosuid" => flags | MsFlags::MS_NOSUID,
        "nodev" => flags | MsFlags::MS_NODEV,
        "noexec" => flags | MsFlags::MS_NOEXEC,
        _ => flags,
    })
}

/// A hierarchy that is mounted in the container.
#[derive(Debug, PartialEq)]
struct Hierarchy {
    at: PathBuf,
    now: MsFlags,
    /// Named, and shown from its root: the host's, not the container's.
    foreign: bool,
}

/// Those below a destination, in a table of mounts.
fn hierarchies(table: &str, destination: &Path) -> Vec<Hierarchy> {
    let found = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, at, options) = (before.next()?, before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, superblock) = (after.next()?, after.nth(1)?);
        let at = PathBuf::from(at.replace("\\040", " "));
        let ours = matches!(kind, "cgroup" | "cgroup2") && at.starts_with(destination);
        let named = superblock.split(',').any(|option| option.starts_with("name="));
        let now = restrictions(options.split(','));
        ours.then_some(Hierarchy { at, now, foreign: named && root == "/" })
    });
    found.collect()
}

impl Hierarchy {
    fn restrict(&self, wanted: MsFlags) -> Result<(), Failure> {
        if self.foreign {
            return umount2(&self.at, MntFlags::MNT_DETACH)
                .map_err(|error| failed(&format!("hide {}", self.at.display()), &error));
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | self.now | wanted;
        mount(None::<&str>, &self.at, None::<&str>, flags, None::<&str>)
            .map_err(|error| failed(&format!("restrict {}", self.at.display()), &error))
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::Other, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
500 1 0:40 / / rw - overlay overlay rw
510 500 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755
511 510 0:29 /ns/c1 /sys/fs/cgroup/cpu rw,nosuid,relatime - cgroup cgroup rw,cpu
512 510 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
513 500 0:29 /ns/c1 /elsewhere rw - cgroup cgroup rw,cpu
";

    #[test]
    fn a_hierarchy_shown_from_its_root_is_told_from_the_containers_own() {
        let found = hierarchies(TABLE, Path::new("/sys/fs/cgroup"));
        let (cpu, systemd) = ("/sys/fs/cgroup/cpu".into(), "/sys/fs/cgroup/systemd".into());
        let expected = [
            Hierarchy { at: cpu, now: MsFlags::MS_NOSUID, foreign: false },
            Hierarchy { at: systemd, now: MsFlags::empty(), foreign: true },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn propagation_is_read_with_and_without_what_is_below() {
        assert_eq!(propagation("rshared"), Some(MsFlags::MS_SHARED | MsFlags::MS_REC));
        assert_eq!(propagation("unbindable"), Some(MsFlags::MS_UNBINDABLE));
        assert_eq!(propagation("ro"), None);
    }

    #[test]
    fn the_last_of_ro_and_rw_holds() {
        assert_eq!(restrictions(["ro", "nodev", "rw"].into_iter()), MsFlags::MS_NODEV);
    }
}
