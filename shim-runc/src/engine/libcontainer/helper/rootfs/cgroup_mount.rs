//! Shows a container its control groups, where a mount of type `cgroup` asks for it.
//!
//! Version 1 is a directory of hierarchies, each seen from the container's own group on: by the
//! namespace of control groups where the container has one, otherwise by binding its group. Named
//! hierarchies (systemd's), in which the container has no group, are not shown. Version 2 is one
//! hierarchy, which shows what the namespace shows.
//!
//! Promise: every hierarchy has the options of the mount, from before it can be seen.
//! See cgroups(7), cgroup_namespaces(7); runc's `mountCgroupV1`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::super::super::wire::Failure;
use super::super::validate;
use super::failed;
use super::mounts::{Mount, Mounts, NewFileSystem, attach, clone_tree, propagate, set};
use super::options::Change;
use super::tree::{LastLink, Missing};
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::{MOUNT_POINT, below};

/// What the container's groups are shown by.
#[derive(Debug)]
pub(super) struct CgroupMounts {
    unified: bool,
    namespace: bool,
    /// Of version 1.
    hierarchies: Vec<Shown>,
    /// The container's path in each.
    group: PathBuf,
}

/// A hierarchy of version 1.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// As its directory is called, which is also how it is mounted.
    name: String,
    at: PathBuf,
}

impl CgroupMounts {
    pub(super) fn of(group: &Path, namespace: bool, hierarchies: &Hierarchies) -> Self {
        let (unified, hierarchies) = (validate::is_unified(), shown(hierarchies));
        Self { unified, namespace, hierarchies, group: group.to_owned() }
    }

    /// As on a host of version 2.
    #[cfg(test)]
    pub(super) fn of_version_2(group: &Path) -> Self {
        let hierarchies = Vec::new();
        Self { unified: true, namespace: false, hierarchies, group: group.to_owned() }
    }

    fn of_container(&self, hierarchy: &Path) -> PathBuf {
        below(hierarchy, &self.group)
    }

    /// Makes the mount. This process is in the container's groups.
    pub(super) fn show(&self, mounts: &mut Mounts, mount: &Mount) -> Result<(), Failure> {
        let place = mounts.place(&mount.at, Missing::Directory, LastLink::Follow)?;
        let name = mounts.check(&mount.at, &place, false)?;
        let at = mount.at.display();
        let what = format!("mount cgroups at {at}");
        let change = Change { clear: MountAttrFlags::empty(), ..mount.options.change };
        let tree = if self.unified {
            self.version_2(change).map_err(|error| failed(&what, &error))?
        } else {
            let data = ["mode=755".to_owned()];
            let tmpfs = NewFileSystem { kind: "tmpfs", source: "tmpfs", flags: &[], data: &data };
            tmpfs.mount(restricted()).map_err(|error| failed(&what, &error))?
        };
        attach(&tree, &place.fd).map_err(|error| failed(&what, &error))?;
        if !self.unified {
            // The tmpfs is attached before the hierarchies, so that each of them is mounted at its
            // final place.
            for hierarchy in &self.hierarchies {
                let what = format!("mount the cgroups of {} at {at}", hierarchy.name);
                self.version_1(hierarchy, &tree, change).map_err(|error| failed(&what, &error))?;
            }
            set(&tree, false, change).map_err(|error| failed(&what, &error))?;
        }
        for kind in &mount.options.propagation {
            propagate(&tree, *kind).map_err(|error| failed(&what, &error))?;
        }
        mounts.cover(&name);
        Ok(())
    }

    fn version_2(&self, change: Change) -> io::Result<OwnedFd> {
        let new = NewFileSystem { kind: "cgroup2", source: "cgroup", flags: &[], data: &[] };
        new.mount(change.set).or_else(|_| {
            // A user namespace may not mount cgroup2 without a cgroup namespace of its own; the
            // container's group is bound instead.
            let tree = clone_tree(CWD, &self.of_container(Path::new(MOUNT_POINT)), false)?;
            set(&tree, false, change)?;
            Ok(tree)
        })
    }

    fn version_1(&self, hierarchy: &Shown, above: &OwnedFd, change: Change) -> io::Result<()> {
        let name = hierarchy.name.as_str();
        let tree = if self.namespace {
            let data: Vec<_> = name.split(',').map(str::to_owned).collect();
            NewFileSystem { kind: "cgroup", source: "cgroup", flags: &[], data: &data }
                .mount(restricted() | change.set)?
        } else {
            let group = self.of_container(&hierarchy.at);
            let tree = match clone_tree(CWD, &group, true) {
                // The container has no group there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            set(&tree, false, change)?;
            tree
        };
        mkdirat(above, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        attach(tree, openat(above, name, flags, Mode::empty())?)?;
        // Each controller of several has its own name, too.
        for one in name.split(',').filter(|one| *one != name) {
            match symlinkat(name, above, one) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn restricted() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// The hierarchies with controllers.
fn shown(hierarchies: &Hierarchies) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for one in hierarchies.iter().filter(|one| !one.is_unified) {
        let is_named = one.controllers.iter().any(|name| name.starts_with("name="));
        let is_below = one.mount.parent() == Some(Path::new(MOUNT_POINT));
        let name = one.mount.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|_| is_below && !is_named) else { continue };
        if !shown.iter().any(|one| one.name == name) {
            shown.push(Shown { name: name.to_owned(), at: one.mount.clone() });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
510 500 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755
511 510 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
512 510 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
513 510 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
514 500 0:30 / /elsewhere/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn hierarchies_without_a_name_of_their_own_are_shown() {
        let names: Vec<_> =
            shown(&Hierarchies::parse(TABLE)).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["cpu,cpuacct"]);
    }
}
