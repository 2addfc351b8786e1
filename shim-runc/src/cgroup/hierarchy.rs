//! Where the trees of control groups are mounted, and where a path leads in them.
//!
//! See cgroups(7), cpuset(7), the OCI runtime specification on `linux.cgroupsPath`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::directories::GroupDirectories;
use super::{MOUNT_POINT, below, make_all, of, v1, write_text};
use crate::mount_info::MountInfo;

/// The table of mounts that [`Hierarchies::read`] reads.
pub(super) const TABLE: &str = "/proc/self/mountinfo";

/// Room for a usual table of mounts.
const TABLE_BYTES: usize = 16 * 1024;

/// The controllers for which libcontainer's containers have groups of version 1.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

/// Options of a hierarchy of version 1 that are no controllers.
const OPTIONS: [&str; 5] = ["rw", "ro", "xattr", "noprefix", "clone_children"];

/// What a cgroup must be given before a process can join it, where it has such files.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Whether it is the one of version 2.
    pub(crate) is_unified: bool,
    /// The controllers of version 1, or `name=...` for one without.
    pub(crate) controllers: Vec<String>,
    pub(crate) mount: PathBuf,
    /// Which group is at the mount point: `/` unless only a part is mounted.
    pub(super) root: PathBuf,
}

impl Hierarchy {
    fn of(line: &str) -> Option<Self> {
        let line = MountInfo::of(line)?;
        let (is_unified, controllers) = match line.kind {
            "cgroup2" => (true, Vec::new()),
            "cgroup" => {
                let options = line.superblock.split(',');
                let names = options.filter(|option| !OPTIONS.contains(option));
                (false, names.map(str::to_owned).collect())
            }
            _ => return None,
        };
        Some(Self { is_unified, controllers, mount: line.mount_point(), root: line.root() })
    }

    /// Whether a container has a group in it whose path its spec names. A hybrid host's hierarchy of
    /// version 2 has no controllers and no container's group.
    fn has_containers(&self) -> bool {
        if self.is_unified {
            return self.mount == Path::new(MOUNT_POINT);
        }
        self.controllers.iter().any(|name| CONTROLLERS.contains(&name.as_str()))
    }
}

/// Every mounted hierarchy. One that is mounted twice is listed twice.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads the table of mounts.
    pub(crate) fn read() -> io::Result<Self> {
        // The kernel begins anew for each piece that it is asked for.
        let mut table = String::with_capacity(TABLE_BYTES);
        File::open(TABLE)?.read_to_string(&mut table)?;
        Ok(Self::parse(&table))
    }

    pub(crate) fn parse(table: &str) -> Self {
        Self(table.lines().filter_map(Hierarchy::of).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// Where each tree is mounted, of both versions. A mount point elsewhere shows the same trees
    /// again.
    pub(super) fn trees(&self) -> impl Iterator<Item = &Path> {
        self.iter().map(|one| one.mount.as_path()).filter(|mount| mount.starts_with(MOUNT_POINT))
    }

    /// Where a container's groups at `path` are, or would be; none if the path is not safe.
    pub(crate) fn directories(&self, path: &Path) -> Vec<PathBuf> {
        self.places(path).into_iter().map(|(directory, _)| directory).collect()
    }

    /// The groups at `path` that there are.
    pub(crate) fn find(&self, path: &Path) -> GroupDirectories {
        let all = self.directories(path).into_iter();
        GroupDirectories::new(all.filter(|path| path.is_dir()).collect())
    }

    /// Makes the groups at `path` in each hierarchy of version 1, where they are missing; returns
    /// them by controller, too.
    pub(crate) fn make(&self, path: &Path) -> io::Result<(GroupDirectories, v1::Groups)> {
        let mut groups = v1::Groups::default();
        let mut directories = Vec::new();
        for (directory, hierarchy) in self.places(path) {
            make_all(&directory).map_err(|error| of("mkdir", &directory, &error))?;
            let controllers: Vec<_> = hierarchy.controllers.iter().map(String::as_str).collect();
            if controllers.contains(&"cpuset") {
                for file in CPUSET {
                    inherit(&directory, file)?;
                }
            }
            groups.insert(&controllers, directory.clone());
            directories.push(directory);
        }
        Ok((GroupDirectories::new(directories), groups))
    }

    fn places(&self, path: &Path) -> Vec<(PathBuf, &Hierarchy)> {
        let mut places: Vec<(PathBuf, &Hierarchy)> = Vec::new();
        if !is_safe(path) {
            return places;
        }
        for hierarchy in self.iter().filter(|one| one.has_containers()) {
            let directory = below(&hierarchy.mount, path);
            if !places.iter().any(|(known, _)| *known == directory) {
                places.push((directory, hierarchy));
            }
        }
        places
    }
}

/// Whether a container may have its groups at this path: below a hierarchy's root and without
/// any way out of it. Removing the container kills what is there.
pub(crate) fn is_safe(path: &Path) -> bool {
    let mut named = false;
    for component in path.components() {
        match component {
            Component::Normal(_) => named = true,
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return false,
        }
    }
    named
}

/// Gives a group the value of the one above it, where it has none of its own.
fn inherit(directory: &Path, name: &str) -> io::Result<()> {
    let file = directory.join(name);
    match fs::read_to_string(&file) {
        Ok(value) if !value.trim().is_empty() => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(of("read", &file, &error)),
    }
    // The root of a hierarchy has a value, so this ends there.
    let Some(above) = directory.parent() else { return Ok(()) };
    inherit(above, name)?;
    let value = above.join(name);
    let value = fs::read_to_string(&value).map_err(|error| of("read", &value, &error))?;
    write_text(&file, value.trim()).map_err(|error| of("write", &file, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
35 30 0:30 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
36 30 0:31 /docker/abc /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
37 25 0:31 / /elsewhere/memory rw - ext4 cgroup rw,memory
";

    #[test]
    fn hierarchies_are_found_with_their_controllers_and_roots() {
        let found = Hierarchies::parse(HYBRID);
        let names: Vec<_> = found.iter().map(|one| one.controllers.join(",")).collect();
        assert_eq!(names, ["", "name=systemd", "cpu,cpuacct", "pids", "pids", "memory"]);
        let unified: Vec<_> = found.iter().map(|one| one.is_unified).collect();
        assert_eq!(unified, [true, false, false, false, false, false]);
        assert_eq!(found.iter().last().unwrap().root, Path::new("/docker/abc"));
    }

    #[test]
    fn a_hybrid_host_has_one_group_for_each_controller() {
        let found = Hierarchies::parse(HYBRID).directories(Path::new("/ns/c1"));
        let expected = ["cpu,cpuacct", "pids", "memory"];
        let expected = expected.map(|one| PathBuf::from(format!("/sys/fs/cgroup/{one}/ns/c1")));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_v2_host_has_one_group() {
        let table = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(table).directories(Path::new("ns/c1"));
        assert_eq!(found, [Path::new("/sys/fs/cgroup/ns/c1")]);
    }

    #[test]
    fn the_root_of_a_hierarchy_is_no_containers_group() {
        for path in ["/", "", ".", "/a/../..", "../x"] {
            assert!(!is_safe(Path::new(path)), "{path}");
            let found = Hierarchies::parse(HYBRID).directories(Path::new(path));
            assert!(found.is_empty(), "{path}");
        }
        assert!(is_safe(Path::new("/a/b")));
        assert!(is_safe(Path::new(":youki:c1")));
    }
}
