//! The control groups of a container, for both engines.
//!
//! A container's cgroups are found from its init, once, between create and start: later the
//! container may have moved itself into groups of its own below. Promise: a group that is not the
//! container's alone (the host's root, or one that the shim lives in or below) is never frozen,
//! signalled, changed or measured, however the container was configured.
//!
//! # Terms
//!
//! - *hierarchy*: one mounted tree of cgroup v1 with its controllers, or the one tree of v2.
//! - *group*: a directory in a hierarchy.
//!
//! A hybrid host, with controllers in v1 hierarchies and an empty v2 tree beside them, is v1.
//!
//! # Where
//!
//! - `hierarchy`: what is mounted; where a spec's path leads; makes groups.
//! - `find`: the groups of a process, as a [`Cgroup`], through which a running container is measured,
//!   changed, frozen and signalled.
//! - `directories`: the groups at a spec's path, as directories, while a container is made or removed.
//! - `record`, `remove`: what a container has made, and its end.
//! - `v1`, `v2`: limits and statistics of each version.
//!
//! runc and crun make and remove the groups of their containers. Here that is done for libcontainer,
//! and for a runtime that was cut off (`remove`). See cgroups(7), the kernel's admin-guide/cgroup-v1 and
//! admin-guide/cgroup-v2.

pub(crate) mod directories;
pub(crate) mod directory;
mod find;
pub(crate) mod hierarchy;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod v1;
pub(crate) mod v2;
pub(crate) mod warm_threadgroup_lock;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::process::Signal;

use crate::error::{EngineError, SystemCall};

/// Every group of one container.
#[derive(Debug, Clone)]
pub(crate) enum Cgroup {
    /// A group in each of several hierarchies.
    V1(v1::Groups),
    /// One group.
    V2(v2::Group),
}

/// Whether a container's processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    Frozen,
    Thawed,
}

/// Where cgroup trees are mounted on every host this has to run on.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// How often a freezer is asked whether it is done. Freezing is a matter of microseconds unless a
/// process sits in an uninterruptible sleep.
const FREEZE_INTERVAL: Duration = Duration::from_millis(1);
/// After so many times a freeze is undone and reported as failed.
const FREEZE_ATTEMPTS: u32 = 1000;
/// Every so many times a v1 freeze is let go for a moment.
const FREEZE_KICK: u32 = 20;

/// How often processes that cannot be frozen are looked for again while they are killed.
const FORK_LOOKS: u32 = 5;

/// How long killed processes may take to leave their groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pauses between two looks at what was killed: short at first, then 20 ms, without end.
#[derive(Debug, Default)]
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        const FIRST: Duration = Duration::from_micros(100);
        const LONGEST: Duration = Duration::from_millis(20);
        self.0 = (self.0 * 2).clamp(FIRST, LONGEST);
        Some(self.0)
    }
}

/// How often making a cgroup may find that one above it has just been removed.
const MAKING: u32 = 100;

impl Cgroup {
    /// Finds the groups of the container whose init is `pid`; `None` if it has none of its own.
    pub(crate) fn of_process(pid: i32) -> Result<Option<Self>, EngineError> {
        find::of_process(pid)
    }

    /// Looks up what is the same for every container, for [`of_process`](Self::of_process) to find it
    /// known; what goes wrong goes wrong there again.
    pub(crate) fn look_ahead() {
        find::look_ahead();
    }

    /// Every process in the container's groups and those below.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, EngineError> {
        let mut pids = Vec::new();
        collect_pids(self.membership(), &mut pids)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops or continues every process, and waits until that is so.
    pub(crate) async fn freeze(&self, to: Freeze) -> Result<(), EngineError> {
        self.request_freeze(to)?;
        for attempt in 1..=FREEZE_ATTEMPTS {
            if self.is(to)? {
                return Ok(());
            }
            tokio::time::sleep(FREEZE_INTERVAL).await;
            if let Self::V1(groups) = self {
                // A v1 freezer can miss a process that is being forked: asking again makes it
                // look, and now and then the fork must be let finish first.
                if to == Freeze::Frozen && attempt % FREEZE_KICK == 0 {
                    groups.request_freeze(Freeze::Thawed)?;
                    tokio::time::sleep(FREEZE_INTERVAL * 10).await;
                }
                groups.request_freeze(to)?;
            }
        }
        // Half frozen is worse than not frozen: no caller would know which of its processes run.
        self.request_freeze(Freeze::Thawed)?;
        Err(EngineError::system(
            SystemCall::Freeze { group: self.membership().to_owned() },
            io::ErrorKind::TimedOut,
        ))
    }

    /// Whether the processes can be stopped and continued at all.
    pub(crate) fn can_freeze(&self) -> bool {
        match self {
            Self::V1(groups) => groups.freezer().is_some(),
            Self::V2(group) => group.can_freeze(),
        }
    }

    /// Signals every process.
    ///
    /// `paused` tells whether the container is frozen by request of a client; it stays so unless the
    /// signal is SIGKILL, which must be able to act.
    pub(crate) async fn signal_all(&self, signal: Signal, paused: bool) -> Result<(), EngineError> {
        self.signal_those(signal, paused, None).await
    }

    /// The same, but signals only the processes for which `meant` is true: for groups that are shared
    /// with others.
    pub(crate) async fn signal_those(
        &self,
        signal: Signal,
        paused: bool,
        meant: Option<&dyn Fn(i32) -> bool>,
    ) -> Result<(), EngineError> {
        if let Some(meant) = meant {
            for _ in 0..FORK_LOOKS {
                let mut pids = self.pids()?;
                pids.retain(|pid| meant(*pid));
                send(&pids, signal);
                // Processes that were forked while the signal was sent are found by the next look.
                if signal != Signal::KILL || pids.is_empty() {
                    break;
                }
            }
            if paused && signal == Signal::KILL && self.can_freeze() {
                self.request_freeze(Freeze::Thawed)?;
            }
            return Ok(());
        }
        if signal == Signal::KILL
            && let Self::V2(group) = self
            && group.kill()?
        {
            return Ok(());
        }
        // Frozen processes neither fork nor exit, so none escapes and no pid is used again.
        let freeze = !paused && self.can_freeze();
        if freeze && let Err(cause) = self.freeze(Freeze::Frozen).await {
            // Without it a process may be missed, but not sending at all would miss them all.
            log::warn!("{}", shim_sdk::error::report(&cause));
        }
        let sent = self.pids().map(|pids| send(&pids, signal));
        if (freeze || (paused && signal == Signal::KILL)) && self.can_freeze() {
            self.request_freeze(Freeze::Thawed)?;
        }
        sent
    }

    /// Applies resource limits; those that are not given stay as they are.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), EngineError> {
        match self {
            Self::V1(groups) => groups.update(resources),
            Self::V2(group) => group.update(resources),
        }
    }

    /// Whether the groups are still there.
    pub(crate) fn exists(&self) -> bool {
        self.membership().exists()
    }

    /// Stops or continues every process without waiting until that is so.
    pub(crate) fn request_freeze(&self, to: Freeze) -> Result<(), EngineError> {
        match self {
            Self::V1(groups) => groups.request_freeze(to),
            Self::V2(group) => group.request_freeze(to),
        }
    }

    fn is(&self, freeze: Freeze) -> Result<bool, EngineError> {
        match self {
            Self::V1(groups) => groups.is(freeze),
            Self::V2(group) => group.is(freeze),
        }
    }

    /// The group whose list of processes counts.
    fn membership(&self) -> &Path {
        match self {
            Self::V1(groups) => groups.membership(),
            Self::V2(group) => group.path(),
        }
    }
}

/// Reads the processes of a group and of all below. A group that is gone has none.
fn collect_pids(group: &Path, pids: &mut Vec<i32>) -> Result<(), EngineError> {
    let list = group.join("cgroup.procs");
    match fs::read_to_string(&list) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // ENODEV: removed while open. EOPNOTSUPP: a threaded v2 group, whose processes are listed
        // by the group above.
        Err(cause)
            if cause.kind() == io::ErrorKind::NotFound
                || matches!(cause.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(cause) => return Err(EngineError::file("read", list, cause)),
    }
    let Ok(entries) = fs::read_dir(group) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn send(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
        if let Err(cause) = rustix::process::kill_process(pid, signal) {
            // ESRCH: it was a zombie and has been reaped since; there is no process to signal.
            log::debug!("kill({pid:?}, {signal:?}): {cause}");
        }
    }
}

/// Writes one value to a control file.
fn write(path: &Path, value: impl ToString) -> Result<(), EngineError> {
    let value = value.to_string();
    write_text(path, &value).map_err(|cause| {
        EngineError::system(SystemCall::WriteCgroupFile { file: path.to_owned(), value }, cause)
    })
}

/// The same, with the bare error.
fn write_text(path: &Path, value: &str) -> io::Result<()> {
    // Neither created nor truncated: a control file exists or its controller is not there.
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Reads a control file that holds one number; `max` is the largest one. `None` if there is none.
fn read_number(path: &Path) -> Option<u64> {
    parse_number(fs::read_to_string(path).ok()?.trim())
}

fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        // Some v1 files say -1 where they mean no limit.
        negative if negative.starts_with('-') => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// A control file of `key value` lines.
struct Keyed(String);

impl Keyed {
    /// Reads the file; one that does not exist has no keys.
    fn read(path: &Path) -> Option<Self> {
        fs::read_to_string(path).ok().map(Self)
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.0.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == key).then(|| parse_number(value.trim())).flatten()
        })
    }

    /// The value, or 0 where this kernel does not count it.
    fn count(&self, key: &str) -> u64 {
        self.get(key).unwrap_or_default()
    }
}

/// The page sizes of a hugetlb controller, as its files name them (`2MB`).
fn huge_page_sizes(group: &Path, suffix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(group) else {
        return Vec::new();
    };
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

/// The lines of an rdma control file: device, handles, objects.
fn rdma_entries(path: &Path) -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let device = words.next()?.to_owned();
            let (mut handles, mut objects) = (0, 0);
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                let value = parse_number(value)?.try_into().unwrap_or(u32::MAX);
                match name {
                    "hca_handle" => handles = value,
                    "hca_object" => objects = value,
                    _ => {}
                }
            }
            Some((device, handles, objects))
        })
        .collect()
}

/// An error that names its call and file.
fn of(call: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{call}({}): {error}", path.display()))
}

/// The path below a hierarchy's mount point.
pub(crate) fn below(mount: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a cgroup and those above it. One above may be removed between the two: it is empty then, and
/// the shim of the last container in it may remove it.
pub(crate) fn make_all(directory: &Path) -> io::Result<()> {
    for _ in 0..MAKING {
        match fs::create_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    fs::create_dir_all(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_control_files_are_read_with_their_words_for_no_limit() {
        assert_eq!(parse_number("max"), Some(u64::MAX));
        assert_eq!(parse_number("-1"), Some(u64::MAX));
        assert_eq!(parse_number("12"), Some(12));
        assert_eq!(parse_number("x"), None);
    }

    #[test]
    fn keys_are_matched_whole() {
        let file = Keyed("oom 1\noom_kill 3\n".into());
        assert_eq!(file.count("oom"), 1);
        assert_eq!(file.count("oom_kill"), 3);
        assert_eq!(file.count("oom_group_kill"), 0);
    }

    #[test]
    fn huge_page_sizes_come_from_the_file_names() {
        let group = tempfile::tempdir().unwrap();
        for name in ["hugetlb.2MB.max", "hugetlb.1GB.max", "hugetlb.2MB.rsvd.max", "memory.max"] {
            fs::write(group.path().join(name), "").unwrap();
        }
        assert_eq!(huge_page_sizes(group.path(), ".max"), ["1GB", "2MB"]);
    }

    #[test]
    fn rdma_lines_are_split_by_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "mlx4_0 hca_handle=2 hca_object=max\n").unwrap();
        assert_eq!(rdma_entries(file.path()), [("mlx4_0".to_owned(), 2, u32::MAX)]);
    }
}
