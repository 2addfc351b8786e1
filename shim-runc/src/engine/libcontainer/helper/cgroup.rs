//! Finding, making, joining, emptying and removing a container's cgroups, in every hierarchy at once.
//!
//! libcontainer's own removal looks each hierarchy up anew, knows no cgroups below the
//! container's, and gives up after a fixed number of sleeps. Its joining makes the kernel wait for
//! an RCU grace period, which is a third of what a container costs ([`super::exec_process`]).
//!
//! Promise: when [`Cgroups::remove`] returns, no process of the container is alive and no cgroup of it
//! is left, below it included; what never existed is no error. The root of a hierarchy is
//! never touched.
//! See cgroups(7), cpuset(7).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::make_all;
use crate::cgroup::record::{Ending, Made};
use crate::cgroup::v1::Groups;

/// How long killed processes may take to leave their cgroups.
const EMPTYING: Duration = Duration::from_secs(10);

/// Room for a usual table of mounts.
const TABLE_BYTES: usize = 16 * 1024;

/// The controllers under which libcontainer makes cgroups on a v1 host.
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

/// What a cgroup must be given before a process can join it, where it has such files.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Kills and removes what a container has made, whose processes may have ended with its init. `file` is
/// its own, `records` where the engine has those of others.
pub(super) fn end(made: &Made, file: &Path, records: &Path, kills: bool) -> io::Result<()> {
    let mut pause = Duration::from_micros(100);
    let mut ending = Ending::new(made, file, Some(records), kills, EMPTYING);
    while !ending.is_over() {
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
        ending.round();
    }
    ending.finish()
}

/// A container's cgroups that exist: one, or one in each v1 hierarchy.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    directories: Vec<PathBuf>,
}

/// Where the hierarchies are mounted.
#[derive(Debug)]
pub(super) struct Hierarchies {
    table: String,
}

impl Hierarchies {
    /// Reads the table of mounts.
    pub(super) fn read() -> io::Result<Self> {
        // The kernel begins anew for each piece that it is asked for.
        let mut table = String::with_capacity(TABLE_BYTES);
        File::open("/proc/self/mountinfo")?.read_to_string(&mut table)?;
        Ok(Self { table })
    }

    /// The cgroups at `path` that there are.
    pub(super) fn find(&self, path: &Path) -> Cgroups {
        let directories = directories(&self.table, path).filter(|path| path.is_dir()).collect();
        Cgroups { directories }
    }

    /// Where the cgroups at `path` are, or would be.
    pub(super) fn places(&self, path: &Path) -> Vec<PathBuf> {
        directories(&self.table, path).collect()
    }

    /// Makes the cgroups at `path` in each hierarchy of version 1, where they are missing; returns
    /// them by controller, too.
    pub(super) fn make(&self, path: &Path) -> io::Result<(Cgroups, Groups)> {
        let mut groups = Groups::default();
        let mut directories = Vec::new();
        for Place { directory, controllers } in places(&self.table, path) {
            make_all(&directory).map_err(|error| of("mkdir", &directory, &error))?;
            if controllers.contains(&"cpuset") {
                for file in CPUSET {
                    inherit(&directory, file)?;
                }
            }
            groups.insert(&controllers, directory.clone());
            directories.push(directory);
        }
        Ok((Cgroups { directories }, groups))
    }
}

impl Cgroups {
    /// Finds the cgroups at `path`, which is relative to the root of each hierarchy.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        Ok(Hierarchies::read()?.find(path))
    }

    /// The files through which a process of one thread moves itself into every one of them
    /// ([`super::exec_process`]).
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        let open = |directory: &PathBuf| {
            let file = directory.join("tasks");
            let open = fs::OpenOptions::new().write(true).open(&file);
            open.map_err(|error| of("open", &file, &error))
        };
        self.directories.iter().map(open).collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// A file of the container's own group, in whichever hierarchy has such a one.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        self.directories.iter().map(|directory| directory.join(name)).find(|file| file.exists())
    }

    /// The one group that a container has on a host of version 2.
    pub(super) fn unified(&self) -> Option<&Path> {
        let mut all = self.directories.iter().map(PathBuf::as_path);
        all.find(|directory| directory.join("cgroup.controllers").exists())
    }

    /// Every process in the container, init included.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for directory in &self.directories {
            gather(directory, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Thaws those that are frozen, so that what is killed can die (v1).
    pub(super) fn thaw(&self) {
        for directory in &self.directories {
            let state = directory.join("freezer.state");
            if fs::read_to_string(&state).is_ok_and(|state| state.trim() != "THAWED") {
                let _ = fs::write(&state, "THAWED");
            }
        }
    }

    /// Kills every process, waits until they are gone, removes the cgroups from the leaves up.
    /// For records of earlier versions, which do not tell what the container has made.
    pub(super) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + EMPTYING;
        let mut pause = Duration::from_micros(100);
        loop {
            let mut left = None;
            for directory in &self.directories {
                if let Err(error) = remove_tree(directory) {
                    left = Some((directory, error));
                }
            }
            let Some((directory, error)) = left else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    error.kind(),
                    format!("rmdir({}): {error}", directory.display()),
                ));
            }
            self.kill();
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn kill(&self) {
        for directory in &self.directories {
            // cgroup v2 since 5.14: all at once, whatever forks meanwhile.
            let _ = fs::write(directory.join("cgroup.kill"), "1");
        }
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.thaw();
    }
}

/// Moves the calling process, which has one thread, through doors that its helper has opened.
///
/// By its thread, in `tasks`: to move a process by `cgroup.procs` the kernel first keeps all others
/// from forking, for which it waits for an RCU grace period of 5 to 20 ms. A thread that moves
/// itself needs no such care (since 5.8; before, this is as slow as the other).
pub(super) fn join(doors: &[File]) -> io::Result<()> {
    doors.iter().try_for_each(|mut door| door.write_all(b"0"))
}

/// Whether a container may have its cgroups at this path: below a hierarchy's root and without
/// any way out of it. Removing the container kills whatever is there.
pub(super) fn is_safe(path: &Path) -> bool {
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

/// Where a container's cgroup is in one hierarchy.
struct Place<'a> {
    directory: PathBuf,
    /// Of version 1, among other options of the mount.
    controllers: Vec<&'a str>,
}

/// Where the cgroup at `path` would be, given a mount table.
fn directories(table: &str, path: &Path) -> impl Iterator<Item = PathBuf> {
    places(table, path).map(|place| place.directory)
}

/// The same, with the controllers.
fn places<'a>(table: &'a str, path: &Path) -> impl Iterator<Item = Place<'a>> {
    let relative = path.strip_prefix("/").unwrap_or(path).to_owned();
    let mut seen = Vec::new();
    let safe = is_safe(path);
    table.lines().filter(move |_| safe).filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let mount_point = Path::new(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let controllers: Vec<_> =
            options.split(',').filter(|option| CONTROLLERS.contains(option)).collect();
        let ours = match kind {
            // A hybrid host's v2 hierarchy has no controllers, and no container's cgroup either.
            "cgroup2" => mount_point == Path::new("/sys/fs/cgroup"),
            "cgroup" => !controllers.is_empty(),
            _ => false,
        };
        let directory = mount_point.join(&relative);
        (ours && !seen.contains(&directory)).then(|| {
            seen.push(directory.clone());
            Place { directory, controllers }
        })
    })
}

/// Gives a cgroup the value of the one above it, where it has none of its own.
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
    write(&file, value.trim())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .map_err(|error| of("write", file, &error))
}

fn of(call: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{call}({}): {error}", path.display()))
}

/// Every place where the cgroup at `path` may be.
#[cfg(test)]
pub(super) fn everywhere(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    directories(&table, path).collect()
}

fn gather(directory: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        pids.extend(
            text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0),
        );
    }
    for child in children(directory) {
        gather(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    // Most containers have nothing below, and a directory with something below is busy.
    match fs::remove_dir(directory) {
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => return other,
    }
    for child in children(directory) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
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
";

    #[test]
    fn a_hybrid_host_has_one_cgroup_for_each_controller() {
        let found: Vec<_> = directories(HYBRID, Path::new("/ns/c1")).collect();
        let expected =
            ["/sys/fs/cgroup/cpu,cpuacct/ns/c1", "/sys/fs/cgroup/pids/ns/c1"].map(PathBuf::from);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_v2_host_has_one_cgroup() {
        let table = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found: Vec<_> = directories(table, Path::new("ns/c1")).collect();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/ns/c1")]);
    }

    #[test]
    fn the_root_of_a_hierarchy_is_nobodys_cgroup() {
        for path in ["/", "", ".", "/a/../..", "../x"] {
            assert!(!is_safe(Path::new(path)), "{path}");
            assert_eq!(directories(HYBRID, Path::new(path)).count(), 0, "{path}");
        }
        assert!(is_safe(Path::new("/a/b")));
        assert!(is_safe(Path::new(":youki:c1")));
    }

    #[test]
    fn a_process_joins_the_cgroups_that_were_made_for_it() {
        let name = format!("/shim-test-join-{}/below", std::process::id());
        let (cgroups, groups) = Hierarchies::read().unwrap().make(Path::new(&name)).unwrap();
        assert!(groups.controller("devices").is_some());
        let tasks: Vec<_> = cgroups.directories.iter().map(|one| one.join("tasks")).collect();
        // One process, one thread, as in an init.
        let script: String =
            tasks.iter().map(|file| format!("echo 0 > {} || exit 1; ", file.display())).collect();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("{script} exec sleep 60")])
            .spawn()
            .unwrap();
        let joined = || {
            cgroups.directories.iter().all(|directory| {
                let all = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
                all.trim() == child.id().to_string()
            })
        };
        let deadline = Instant::now() + EMPTYING;
        while !joined() && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        let all = joined();
        cgroups.remove().unwrap();
        child.wait().unwrap();
        for directory in cgroups.directories.iter().filter_map(|one| one.parent()) {
            fs::remove_dir(directory).unwrap();
        }
        assert!(all && !tasks.is_empty());
    }

    #[test]
    fn nested_cgroups_are_removed_and_their_processes_killed() {
        let name = format!("/shim-test-{}", std::process::id());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let base = directories(&table, Path::new(&name)).last().unwrap();
        let nested = base.join("below");
        fs::create_dir_all(&nested).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(nested.join("cgroup.procs"), child.id().to_string()).unwrap();
        let cgroups = Cgroups::find(Path::new(&name)).unwrap();
        assert_eq!(cgroups.pids(), [child.id() as i32]);
        cgroups.remove().unwrap();
        assert!(!base.exists());
        assert!(!child.wait().unwrap().success());
        Cgroups::find(Path::new(&name)).unwrap().remove().unwrap();
    }
}
