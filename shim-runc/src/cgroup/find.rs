//! Which groups are a container's own.
//!
//! `/proc/PID/cgroup` names each group relative to the root that this process sees, and
//! `/proc/self/mountinfo` tells where that root is mounted. See cgroups(7), proc(5).

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::hierarchy::{Hierarchies, TABLE};
use super::{Cgroup, MOUNT_POINT, below, v1, v2};
use crate::error::{EngineError, SystemCall};

/// What is mounted here. It does not change under a shim, and on a busy host the list of all mounts
/// is long, so it is read once.
#[derive(Debug)]
enum Mounted {
    V1(Hierarchies),
    V2,
}

thread_local! {
    static MOUNTED: OnceCell<Mounted> = const { OnceCell::new() };
}

/// Calls a function with what is mounted.
fn with_mounted<T>(
    look: impl FnOnce(&Mounted) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    MOUNTED.with(|mounted| match mounted.get() {
        Some(mounted) => look(mounted),
        None => {
            let found = mounts()?;
            look(mounted.get_or_init(|| found))
        }
    })
}

pub(super) fn look_ahead() {
    let _ = with_mounted(|_| Ok(()));
}

pub(super) fn of_process(pid: i32) -> Result<Option<Cgroup>, EngineError> {
    let theirs = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let ours = read(Path::new("/proc/self/cgroup"))?;
    with_mounted(|mounted| {
        Ok(match mounted {
            Mounted::V1(hierarchies) => v1_groups(hierarchies, &theirs, &ours).map(Cgroup::V1),
            Mounted::V2 => {
                v2_path(&theirs, &ours).map(|path| Cgroup::V2(v2::Group::of_host(Path::new(&path))))
            }
        })
    })
}

fn read(path: &Path) -> Result<String, EngineError> {
    fs::read_to_string(path).map_err(|cause| EngineError::file("read", path, cause))
}

fn mounts() -> Result<Mounted, EngineError> {
    let at = rustix::fs::statfs(MOUNT_POINT).map_err(|cause| {
        EngineError::system(SystemCall::Statfs { path: MOUNT_POINT.into() }, cause)
    })?;
    if i128::from(at.f_type) == i128::from(libc::CGROUP2_SUPER_MAGIC) {
        return Ok(Mounted::V2);
    }
    Ok(Mounted::V1(Hierarchies::read().map_err(|cause| EngineError::file("read", TABLE, cause))?))
}

/// The file that lists the threads of this process's own group: in the one tree of version 2, or in
/// any of version 1.
pub(super) fn own_threads() -> Option<PathBuf> {
    let ours = read(Path::new("/proc/self/cgroup")).ok()?;
    let path_of = |wanted: &dyn Fn(&str) -> bool| {
        lines(&ours).find(|(names, _)| wanted(names)).map(|(_, path)| path)
    };
    let file = |mounted: &Mounted| match mounted {
        Mounted::V1(hierarchies) => hierarchies.iter().find_map(|hierarchy| {
            let first = hierarchy.controllers.first()?;
            let path = path_of(&|names| names.split(',').any(|name| name == first))?;
            let path = Path::new(path).strip_prefix(&hierarchy.root).ok()?.to_str()?;
            Some(below(&hierarchy.mount, path).join("tasks"))
        }),
        Mounted::V2 => {
            let path = path_of(&|names| names.is_empty())?;
            Some(below(Path::new(MOUNT_POINT), path).join("cgroup.threads"))
        }
    };
    with_mounted(|mounted| Ok(file(mounted))).ok().flatten()
}

/// Lines of a cgroup file: controllers and path.
fn lines(cgroup: &str) -> impl Iterator<Item = (&str, &str)> {
    cgroup.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'))
}

/// Whether a group may be the container's alone: not the root, and not one that holds the shim.
fn is_own(theirs: &str, ours: Option<&str>) -> bool {
    let parts = theirs.trim_matches('/');
    if parts.is_empty() || parts == ".." || parts.starts_with("../") {
        return false;
    }
    ours.is_none_or(|ours| !Path::new(ours).starts_with(theirs))
}

fn v1_groups(hierarchies: &Hierarchies, theirs: &str, ours: &str) -> Option<v1::Groups> {
    let mut groups = v1::Groups::default();
    for (controllers, path) in lines(theirs).filter(|(controllers, _)| !controllers.is_empty()) {
        let our_path = lines(ours).find(|(same, _)| *same == controllers).map(|(_, path)| path);
        if !is_own(path, our_path) {
            continue;
        }
        let names: Vec<&str> = controllers.split(',').collect();
        let Some(hierarchy) = hierarchies.iter().find(|hierarchy| {
            names.iter().all(|name| hierarchy.controllers.iter().any(|c| c == name))
        }) else {
            continue;
        };
        let Some(path) = Path::new(path).strip_prefix(&hierarchy.root).ok().and_then(Path::to_str)
        else {
            continue;
        };
        groups.insert(&names, below(&hierarchy.mount, path));
    }
    (!groups.is_empty()).then_some(groups)
}

fn v2_path(theirs: &str, ours: &str) -> Option<String> {
    let path = |text: &str| {
        lines(text).find(|(names, _)| names.is_empty()).map(|(_, path)| path.to_owned())
    };
    let theirs = path(theirs)?;
    is_own(&theirs, path(ours).as_deref()).then_some(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/systemd rw,nosuid shared:12 - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 /docker/abc /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
";

    #[test]
    fn a_containers_groups_are_found_in_each_hierarchy() {
        let groups = v1_groups(
            &Hierarchies::parse(MOUNTINFO),
            "5:cpu,cpuacct:/box/c1\n4:memory:/docker/abc/c1\n1:name=systemd:/\n0::/\n",
            "5:cpu,cpuacct:/box\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n",
        )
        .unwrap();
        assert_eq!(
            groups.controller("cpuacct"),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/box/c1"))
        );
        assert_eq!(groups.controller("memory"), Some(Path::new("/sys/fs/cgroup/memory/c1")));
        assert_eq!(groups.controller("name=systemd"), None);
    }

    #[test]
    fn a_group_that_holds_the_shim_is_never_taken_for_the_containers() {
        // A container without cgroups of its own once got the whole host killed with it.
        assert!(!is_own("/", Some("/")));
        assert!(!is_own("/a", Some("/a")));
        assert!(!is_own("/a", Some("/a/shim")));
        assert!(!is_own("/../x", Some("/a")));
        assert!(is_own("/ab", Some("/a")));
        assert!(is_own("/a/c", Some("/a")));
        assert_eq!(
            v2_path("0::/system.slice/c\n", "0::/system.slice\n").as_deref(),
            Some("/system.slice/c")
        );
        assert_eq!(v2_path("0::/system.slice\n", "0::/system.slice\n"), None);
    }

    #[test]
    fn this_very_process_has_no_group_of_its_own() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(of_process(pid).unwrap().is_none());
    }

    /// Mount points in a container are in the table, under names that it chose.
    #[test]
    fn fuzzed_tables_lead_to_groups_below_a_mount() {
        let words = &[
            " - cgroup cgroup rw,memory",
            "0::/",
            "4:memory:/",
            "../",
            "/",
            "\n",
            "36 35 0:1 / /sys",
        ];
        ::fuzz::Target::new("cgroups").words(words).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let found = Hierarchies::parse(&text);
            assert!(found.iter().count() <= text.lines().count());
            let _ = v1_groups(&found, &text, &text);
            let _ = v2_path(&text, &text);
        });
    }
}
