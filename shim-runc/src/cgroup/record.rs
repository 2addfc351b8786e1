//! Which groups a container has made, written down, and what may be killed and removed of them.
//!
//! A container may be given a group that is there already, with processes of others in it, and two
//! containers may be given the same. So what was not there before is written down before it is made.
//!
//! Promise: only groups that this container has made are removed, and only processes of this
//! container are killed: never a process in a group that was there before, nor one of another
//! container that shares the group. A group in which another container is left is handed over to that
//! one, whose delete removes it.
//!
//! Which process is whose: a container with a pid namespace of its own ends with its init, and so has
//! none left in its groups. For others, and for a container whose making was cut off, it is every
//! process in the groups that it has made, but for those in the pid namespace of another container
//! that was given the same path. What remains: two containers in the host's pid namespace that share a
//! group cannot be told apart, so neither's processes are killed by that group. runc kills all.
//! See cgroups(7), pid_namespaces(7).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shim_sdk::file::read_regular;

use super::directory::{is_root, kill, remove_group};
use super::{PATIENCE, Pauses, collect_pids};

/// The version of the file's format.
const VERSION: u32 = 1;

/// The file's name in a bundle, and the end of its name beside an engine's records.
pub(crate) const FILE: &str = "groups.json";

/// The largest such file that is read.
const MAX_BYTES: u64 = 256 << 10;

/// How many other containers are looked at.
const MAX_OTHERS: usize = 10_000;

/// Its file beside the records of an engine: the container's own record is made later. No container's
/// id begins with a dot.
pub(crate) fn file_beside(records: &Path, id: &str) -> PathBuf {
    records.join(format!(".{id}.{FILE}"))
}

/// Where a container's file is written before it is named.
fn draft_of(file: &Path) -> PathBuf {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    draft.into()
}

/// Removes a container's file, and the draft of a write that was cut off. Neither need be there.
pub(crate) fn forget(file: &Path) -> io::Result<()> {
    for path in [draft_of(file).as_path(), file] {
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                let what = format!("remove {}: {cause}", path.display());
                return Err(io::Error::new(cause.kind(), what));
            }
            _ => {}
        }
    }
    Ok(())
}

/// How far up a process's ancestors are looked for.
const MAX_ANCESTORS: usize = 4096;

/// How long processes may take to leave the groups after they were killed, or after init has ended.
/// What is still there then counts as others'.
const SETTLING: Duration = Duration::from_secs(1);

/// The groups of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    version: u32,
    /// The path that it was given.
    path: PathBuf,
    /// The container's bundle, in which `init.pid` is.
    bundle: PathBuf,
    /// Those that it has made, or was about to make.
    directories: Vec<PathBuf>,
    /// Whether it has a pid namespace of its own, so that nothing of it outlives its init.
    pub(crate) ends_with_init: bool,
}

/// The end of a container's groups, in rounds: how long to pause between them is for the caller.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    made: &'a Made,
    /// The container's own file.
    file: &'a Path,
    /// Whether its processes are killed.
    kills: bool,
    others: Others,
    left: Left,
    began: Instant,
}

impl<'a> Ending<'a> {
    /// Removes the groups that are empty, as most are. `records` is where an engine keeps the records of
    /// other containers.
    pub(crate) fn new(made: &'a Made, file: &'a Path, records: Option<&Path>, kills: bool) -> Self {
        let left = made.round(false, &Others::default());
        // Where nothing is left it is no matter who else there is.
        let others = match left {
            Left::Nothing => Others::default(),
            Left::Others | Left::Groups(_) => Others::of(made, file, records),
        };
        Self { made, file, kills, others, left, began: Instant::now() }
    }

    /// Goes on to the end, and blocks until then.
    pub(crate) fn run(mut self) -> io::Result<()> {
        for pause in Pauses::default() {
            if self.is_over() {
                break;
            }
            std::thread::sleep(pause);
            self.round();
        }
        self.finish()
    }

    /// Whether it has come to its end. Groups in which others' processes stay are left to them.
    pub(crate) fn is_over(&self) -> bool {
        match self.left {
            Left::Nothing => true,
            Left::Others => self.began.elapsed() > SETTLING,
            Left::Groups(_) => self.began.elapsed() > PATIENCE,
        }
    }

    /// Goes on.
    pub(crate) fn round(&mut self) {
        self.left = self.made.round(self.kills, &self.others);
    }

    /// What has come of it. Removes the container's file, unless groups of its own are left.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.left {
            Left::Nothing => {}
            Left::Others => self.made.hand_over(&self.others),
            Left::Groups(cause) => return Err(cause),
        }
        forget(self.file)
    }
}

/// What is left after a round.
#[derive(Debug)]
enum Left {
    /// No group.
    Nothing,
    /// Groups in which others' processes are.
    Others,
    /// Groups that cannot be removed yet.
    Groups(io::Error),
}

impl Made {
    /// What a container will make that is given the groups at `path`, of these directories.
    pub(crate) fn plan(
        path: &Path,
        bundle: &Path,
        directories: impl IntoIterator<Item = PathBuf>,
        ends_with_init: bool,
    ) -> Self {
        let directories = directories.into_iter().filter(|one| !one.exists()).collect();
        let (path, bundle) = (path.to_owned(), bundle.to_owned());
        Self { version: VERSION, path, bundle, directories, ends_with_init }
    }

    /// Reads a file; `None` if there is none, or one that this version does not understand.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let made: Self = serde_json::from_slice(&read_regular(file, MAX_BYTES).ok()?).ok()?;
        (made.version == VERSION).then_some(made)
    }

    /// Writes a file that is read whole or not at all. A write that fails leaves nothing; one whose
    /// process was killed leaves a draft, which [`forget`] removes.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let draft = draft_of(file);
        let json = serde_json::to_vec(self)?;
        let written = fs::write(&draft, json).and_then(|()| fs::rename(&draft, file));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// Whether the container has made any group.
    pub(crate) fn is_any(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Whether the container has made this one.
    pub(crate) fn owns(&self, directory: &Path) -> bool {
        self.directories.iter().any(|one| one == directory)
    }

    /// Removes the groups that are empty; before, if `kills`, kills the container's processes in them.
    fn round(&self, kills: bool, others: &Others) -> Left {
        let (mut left, mut foreign) = (None, false);
        for directory in self.directories.iter().filter(|one| one.is_dir() && !is_root(one)) {
            let mut pids = Vec::new();
            // A list that cannot be read will refuse the removal too.
            let _ = collect_pids(directory, &mut pids);
            let own = i32::try_from(std::process::id()).unwrap_or_default();
            let is_own = |pid: &i32| kills && *pid != own && !others.have(*pid);
            let (ours, rest): (Vec<i32>, Vec<i32>) = pids.into_iter().partition(is_own);
            kill(directory, &ours, rest.is_empty());
            if let Err(cause) = remove_group(directory) {
                foreign |= ours.is_empty() && !rest.is_empty();
                let what = format!("rmdir({directory:?}): {cause}");
                left = Some(io::Error::new(cause.kind(), what));
            }
        }
        match left {
            None => Left::Nothing,
            Some(_) if foreign => Left::Others,
            Some(cause) => Left::Groups(cause),
        }
    }

    /// Has another container that was given the same groups remove those that are left.
    fn hand_over(&self, others: &Others) {
        let left = self.directories.iter().filter(|one| one.is_dir());
        let Some((file, mut other)) = others.sharing.first().cloned() else {
            for directory in left {
                log::warn!("{}: left, a process of another is in it", directory.display());
            }
            return;
        };
        for directory in left {
            if !other.directories.contains(directory) {
                other.directories.push(directory.clone());
            }
        }
        if let Err(cause) = other.write(&file) {
            log::warn!("write {}: {cause}", file.display());
        }
    }
}

/// The other containers that were given the same groups.
#[derive(Debug, Default)]
pub(crate) struct Others {
    sharing: Vec<(PathBuf, Made)>,
    namespaces: BTreeSet<u64>,
}

impl Others {
    /// Looks for them where containers' files are: in the bundles of the daemon, by namespace, and
    /// beside the records of libcontainer. `own` is the container's own file.
    pub(crate) fn of(made: &Made, own: &Path, records: Option<&Path>) -> Self {
        let bundles = made.bundle.parent().and_then(Path::parent);
        let in_bundles = bundles.into_iter().flat_map(grandchildren).map(|one| one.join(FILE));
        let beside = records.and_then(Path::parent).into_iter().flat_map(grandchildren);
        let beside = beside.filter(|one| one.to_string_lossy().ends_with(FILE));
        let mut others = Self::default();
        for file in in_bundles.chain(beside).filter(|file| file != own).take(MAX_OTHERS) {
            let Some(other) = Made::read(&file).filter(|other| other.path == made.path) else {
                continue;
            };
            let init = read_regular(&other.bundle.join("init.pid"), 64).ok();
            let init = init.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
            if let Some(namespace) = init.and_then(namespace) {
                others.namespaces.insert(namespace);
                others.sharing.push((file, other));
            }
        }
        others
    }

    /// Whether there are any.
    pub(crate) fn is_any(&self) -> bool {
        !self.sharing.is_empty()
    }

    /// Whether a process is in the pid namespace of one of them.
    pub(crate) fn have(&self, pid: i32) -> bool {
        !self.namespaces.is_empty()
            && namespace(pid).is_none_or(|namespace| self.namespaces.contains(&namespace))
    }
}

/// Whether this process descends from another one.
pub(crate) fn descends(pid: i32, from: i32) -> bool {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "PID (NAME) STATE PARENT ...", where the name may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let line = std::iter::successors(Some(pid), |pid| parent(*pid).filter(|parent| *parent > 0));
    line.take(MAX_ANCESTORS).any(|one| one == from)
}

/// The number of a process's pid namespace.
fn namespace(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|metadata| metadata.ino())
}

/// What is two levels below a directory.
fn grandchildren(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    entries(directory).flat_map(move |entry| entries(&entry.path()).map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::cgroup::hierarchy::Hierarchies;
    use crate::cgroup::{below, write};

    /// Groups of one path in every hierarchy, and a folder like a daemon's state.
    struct Ground {
        state: tempfile::TempDir,
        path: PathBuf,
        processes: Vec<Child>,
    }

    impl Ground {
        fn new(name: &str) -> Self {
            let path = PathBuf::from(format!("/shim-runc-made-{}-{name}", std::process::id()));
            Self { state: tempfile::tempdir().unwrap(), path, processes: Vec::new() }
        }

        fn directories(&self) -> Vec<PathBuf> {
            Hierarchies::read().unwrap().trees().map(|tree| below(tree, &self.path)).collect()
        }

        fn make(&self) {
            for directory in self.directories() {
                fs::create_dir_all(directory).unwrap();
            }
        }

        /// A container of this path, whose file is written; its groups are made by others.
        fn container(&self, id: &str) -> (Made, PathBuf) {
            let bundle = self.state.path().join("ns").join(id);
            fs::create_dir_all(&bundle).unwrap();
            let made = Made::plan(&self.path, &bundle, self.directories(), false);
            made.write(&bundle.join(FILE)).unwrap();
            (made, bundle.join(FILE))
        }

        /// A process in the groups, in a pid namespace of its own if wanted; its pid.
        fn process(&mut self, in_own_namespace: bool) -> i32 {
            let mut command = if in_own_namespace {
                let mut unshare = Command::new("unshare");
                unshare.args(["--pid", "--fork", "--kill-child", "sleep", "100"]);
                unshare
            } else {
                let mut sleep = Command::new("sleep");
                sleep.arg("100");
                sleep
            };
            let child = command.spawn().unwrap();
            let mut pid = i32::try_from(child.id()).unwrap();
            self.processes.push(child);
            if in_own_namespace {
                // The one that it forks.
                let list = format!("/proc/{pid}/task/{pid}/children");
                while let Ok(text) = fs::read_to_string(&list) {
                    if let Ok(child) = text.trim().parse() {
                        pid = child;
                        break;
                    }
                }
            }
            for directory in self.directories() {
                let _ = write(&directory.join("cgroup.procs"), pid);
            }
            pid
        }

        fn is_alive(pid: i32) -> bool {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        }
    }

    impl Drop for Ground {
        fn drop(&mut self) {
            for process in &mut self.processes {
                let _ = process.kill();
                let _ = process.wait();
            }
            for _ in 0..1000 {
                if self.directories().iter().all(|directory| remove_group(directory).is_ok()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether others' processes are left.
    fn end(made: &Made, file: &Path, kills: bool) -> bool {
        let mut ending = Ending::new(made, file, None, kills);
        while !ending.is_over() {
            std::thread::sleep(Duration::from_millis(1));
            ending.round();
        }
        let has_others = matches!(ending.left, Left::Others);
        ending.finish().unwrap();
        assert!(!file.exists());
        has_others
    }

    #[test]
    fn a_process_in_a_group_that_was_there_before_is_left_alone() {
        // `ctr run --cgroup /x` with a process already in /x killed that process at the delete.
        let mut ground = Ground::new("before");
        ground.make();
        let stranger = ground.process(false);
        let (made, file) = ground.container("c1");
        assert!(!made.is_any());
        assert!(!end(&made, &file, true));
        assert!(Ground::is_alive(stranger));
        assert!(ground.directories().iter().all(|directory| directory.exists()));
    }

    #[test]
    fn a_container_that_shares_the_groups_of_another_outlives_it_and_removes_them() {
        // Of two containers with one cgroup path, deleting one killed the other.
        let mut ground = Ground::new("shared");
        let (first, first_file) = ground.container("c1");
        ground.make();
        let own = ground.process(false);
        let (second, second_file) = ground.container("c2");
        assert!(first.is_any() && !second.is_any());
        let other = ground.process(true);
        let bundle = second_file.parent().unwrap();
        fs::write(bundle.join("init.pid"), other.to_string()).unwrap();
        assert!(end(&first, &first_file, true));
        assert!(!Ground::is_alive(own) && Ground::is_alive(other));
        // The second has it to remove now.
        let second = Made::read(&second_file).unwrap();
        assert!(second.is_any());
        assert!(!end(&second, &second_file, true));
        assert!(ground.directories().iter().all(|directory| !directory.exists()));
    }

    #[test]
    fn what_a_container_with_its_own_pid_namespace_leaves_is_not_its_own() {
        let mut ground = Ground::new("own");
        let (made, file) = ground.container("c1");
        ground.make();
        let stranger = ground.process(false);
        assert!(end(&made, &file, false));
        assert!(Ground::is_alive(stranger));
    }
}
