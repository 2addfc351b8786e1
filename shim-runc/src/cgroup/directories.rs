//! The directories of a container's groups, which a path names: joined, read, thawed, removed.
//!
//! libcontainer's own removal looks each hierarchy up anew, knows no groups below the
//! container's, and gives up after a fixed number of sleeps. Its joining makes the kernel wait for
//! an RCU grace period, which is a third of what a container costs.
//!
//! Promise: when [`GroupDirectories::remove`] returns, no process is alive in the groups and none of
//! them is left, below them included; what never existed is no error. The root of a hierarchy is
//! never touched.
//! See cgroups(7).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use super::directory::kill_and_remove;
use super::{PATIENCE, Pauses, collect_pids, of};

/// A container's groups that exist: one, or one in each v1 hierarchy.
#[derive(Debug, Default)]
pub(crate) struct GroupDirectories(Vec<PathBuf>);

impl GroupDirectories {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// The `tasks` files of version 1, through which a process of one thread moves itself into every
    /// group ([`join`]).
    pub(crate) fn tasks_files(&self) -> io::Result<Vec<File>> {
        let open = |directory: &PathBuf| {
            let file = directory.join("tasks");
            let open = fs::OpenOptions::new().write(true).open(&file);
            open.map_err(|error| of("open", &file, &error))
        };
        self.0.iter().map(open).collect()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A file of the container's own group, in whichever hierarchy has such a one.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        self.0.iter().map(|directory| directory.join(name)).find(|file| file.exists())
    }

    /// The one group that a container has on a host of version 2.
    pub(crate) fn unified(&self) -> Option<&Path> {
        let mut all = self.0.iter().map(PathBuf::as_path);
        all.find(|directory| directory.join("cgroup.controllers").exists())
    }

    /// Every process in the groups and below them. A list that cannot be read counts as empty.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for directory in &self.0 {
            let _ = collect_pids(directory, &mut pids);
        }
        pids.retain(|pid| *pid > 0);
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Thaws those that are frozen, so that what is killed can die (v1).
    pub(crate) fn thaw(&self) {
        for directory in &self.0 {
            let state = directory.join("freezer.state");
            if fs::read_to_string(&state).is_ok_and(|state| state.trim() != "THAWED") {
                let _ = fs::write(&state, "THAWED");
            }
        }
    }

    /// Kills every process, waits until they are gone, removes the groups from the leaves up.
    /// For records of earlier versions, which do not tell what the container has made.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let began = Instant::now();
        for pause in Pauses::default() {
            let mut left = None;
            for directory in &self.0 {
                if let Err(error) = kill_and_remove(directory) {
                    left = Some(of("rmdir", directory, &error));
                }
            }
            match left {
                Some(error) if began.elapsed() > PATIENCE => return Err(error),
                Some(_) => sleep(pause),
                None => break,
            }
        }
        Ok(())
    }
}

/// Moves the calling process, which has one thread, through `tasks` files that its helper has opened.
///
/// To move a process by `cgroup.procs` the kernel first keeps all others from forking, for which it
/// waits for an RCU grace period of 5 to 20 ms. A thread that moves itself needs no such care (since
/// 5.8; before, this is as slow as the other).
pub(crate) fn join(tasks_files: &[File]) -> io::Result<()> {
    tasks_files.iter().try_for_each(|mut file| file.write_all(b"0"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cgroup::hierarchy::Hierarchies;

    #[test]
    fn a_process_joins_the_cgroups_that_were_made_for_it() {
        let name = format!("/shim-test-join-{}/below", std::process::id());
        let (cgroups, groups) = Hierarchies::read().unwrap().make(Path::new(&name)).unwrap();
        assert!(groups.controller("devices").is_some());
        let tasks: Vec<_> = cgroups.0.iter().map(|one| one.join("tasks")).collect();
        // One process, one thread, as in an init.
        let script: String =
            tasks.iter().map(|file| format!("echo 0 > {} || exit 1; ", file.display())).collect();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("{script} exec sleep 60")])
            .spawn()
            .unwrap();
        let joined = || {
            cgroups.0.iter().all(|directory| {
                let all = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
                all.trim() == child.id().to_string()
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while !joined() && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        let all = joined();
        cgroups.remove().unwrap();
        child.wait().unwrap();
        for directory in cgroups.0.iter().filter_map(|one| one.parent()) {
            fs::remove_dir(directory).unwrap();
        }
        assert!(all && !tasks.is_empty());
    }

    #[test]
    fn nested_cgroups_are_removed_and_their_processes_killed() {
        let name = format!("/shim-test-{}", std::process::id());
        let base = Hierarchies::read().unwrap().directories(Path::new(&name)).pop().unwrap();
        let nested = base.join("below");
        fs::create_dir_all(&nested).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(nested.join("cgroup.procs"), child.id().to_string()).unwrap();
        let cgroups = Hierarchies::read().unwrap().find(Path::new(&name));
        assert_eq!(cgroups.pids(), [child.id() as i32]);
        cgroups.remove().unwrap();
        assert!(!base.exists());
        assert!(!child.wait().unwrap().success());
        Hierarchies::read().unwrap().find(Path::new(&name)).remove().unwrap();
    }
}
