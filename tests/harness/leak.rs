//! Finds what a root left behind: processes, mounts, cgroups, sockets, fifos, loop devices,
//! directories.
//!
//! Everything a root makes has the root's token in its name, its command line, its environment,
//! its working directory or its cgroup; so looking for the token is exact even while other tests
//! run. A zombie is not a leak: process 1 reaps orphans later.
//! See proc(5).

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::proc;
use crate::wait::{SOON, until};

/// How long teardown that goes on in the background may take.
const SETTLE: Duration = Duration::from_secs(20);

/// What to look for.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The root's token.
    pub token: String,
    /// The root's directory.
    pub directory: PathBuf,
    /// Sockets elsewhere that this root's shims would have used.
    pub sockets: Vec<PathBuf>,
    /// Whether an empty cgroup named after the namespace is by design (runc removes the
    /// container's alone).
    pub namespace_cgroup_may_stay: bool,
}

/// One thing that remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// A process that is not a zombie.
    Process {
        /// Its id.
        pid: i32,
        /// Its command line and what ties it to the root.
        what: String,
    },
    /// A mount point.
    Mount(PathBuf),
    /// A control group.
    Cgroup(PathBuf),
    /// A socket file, or a listener whose file is gone.
    Socket(String),
    /// A named pipe.
    Fifo(PathBuf),
    /// A loop device and its file.
    Loop(String),
    /// A directory or file that should have gone.
    Entry(PathBuf),
}

/// What remains once everything had time to settle.
#[must_use]
pub fn settled(scope: &Scope) -> Vec<Trace> {
    let mut remains = Vec::new();
    until(SETTLE, || {
        remains = look(scope);
        remains.is_empty().then_some(())
    });
    remains
}

/// One line for each.
#[must_use]
pub fn list(remains: &[Trace]) -> String {
    remains.iter().map(|trace| format!("  {trace:?}\n")).collect()
}

/// What remains right now.
#[must_use]
pub fn look(scope: &Scope) -> Vec<Trace> {
    let mut found = processes(scope);
    found.extend(mounts(scope).into_iter().map(Trace::Mount));
    found.extend(
        cgroups(scope)
            .into_iter()
            .filter(|path| !(scope.namespace_cgroup_may_stay && path.ends_with(&scope.token)))
            .map(Trace::Cgroup),
    );
    found.extend(listeners(scope));
    found.extend(loops(scope));
    below(&scope.directory, 12, &mut |path, kind| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind.is_socket() && !name.starts_with("containerd.sock") {
            found.push(Trace::Socket(path.display().to_string()));
        } else if kind.is_fifo() && !in_image(path) {
            found.push(Trace::Fifo(path.to_owned()));
        } else if name.starts_with(&format!("{}-", scope.token)) {
            found.push(Trace::Entry(path.to_owned()));
        }
    });
    // Where shims and runtimes keep state of their own, for every root of a daemon.
    below(Path::new("/run"), 5, &mut |path, _| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains(&scope.token) && !is_empty_dir(path) {
            found.push(Trace::Entry(path.to_owned()));
        }
    });
    for path in &scope.sockets {
        if path.exists() {
            found.push(Trace::Socket(path.display().to_string()));
        }
    }
    found
}

/// Ends and removes what is there.
pub fn sweep(scope: &Scope) {
    until(SOON, || {
        let running = processes(scope);
        for trace in &running {
            if let Trace::Process { pid, .. } = trace {
                // It may have ended since the look.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        running.is_empty().then_some(())
    });
    let mut mounted = mounts(scope);
    mounted.reverse();
    for path in mounted {
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
    until(SOON, || {
        let mut groups = cgroups(scope);
        groups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        // What was killed just now may still be ending. crun makes plain directories and
        // files where it expects a hierarchy.
        let remove = |path: &PathBuf| {
            if on_tmpfs(path) { fs::remove_dir_all(path) } else { fs::remove_dir(path) }
        };
        let busy = groups.iter().filter(|path| path.exists() && remove(path).is_err()).count();
        (busy == 0).then_some(())
    });
    for path in &scope.sockets {
        let _ = fs::remove_file(path);
    }
    let mut entries = Vec::new();
    below(Path::new("/run"), 5, &mut |path, _| {
        if path.file_name().unwrap_or_default().to_string_lossy().contains(&scope.token) {
            entries.push(path.to_owned());
        }
    });
    for path in entries {
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
    }
    // Never through a mount that refused to go.
    if mounts(scope).is_empty() {
        remove_tree(&scope.directory);
    }
}

/// Removes a directory, however deep: with a tree of 60,000 levels the standard library's way ends in
/// an overflow of the stack, and rm's does not.
fn remove_tree(directory: &Path) {
    let mut command = std::process::Command::new("rm");
    command.args(["-rf", "--one-file-system", "--"]).arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The next look at the directory finds what stays.
    let _ = command.status();
}

/// Whether a directory that looks like a cgroup is none.
#[must_use]
pub fn on_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|is| is.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

/// The processes of a root that are not zombies.
#[must_use]
pub fn processes(scope: &Scope) -> Vec<Trace> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let Ok(pid) = i32::try_from(pid) else { continue };
        let Some(why) = belongs(&entry.path(), &scope.token) else { continue };
        if let Some('Z' | 'X') | None = state(pid) {
            continue;
        }
        found.push(Trace::Process { pid, what: format!("{} ({why})", command_line(pid)) });
    }
    found
}

/// The state letter of a process; `None` when it is gone.
///
/// A process that was killed is no zombie (`Z`) here before its last thread has ended: until then
/// it may still hold what it had open.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    let letter = proc::stat(pid, 3)?;
    let has_threads = letter == 'Z' && proc::stat(pid, 20).is_some_and(|count: u32| count > 1);
    Some(if has_threads { 'R' } else { letter })
}

/// The command line of a process, as one line.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

fn belongs(process: &Path, token: &str) -> Option<&'static str> {
    let holds = |file: &str| {
        fs::read(process.join(file)).is_ok_and(|bytes| contains(&bytes, token.as_bytes()))
    };
    let points = |link: &str| {
        fs::read_link(process.join(link)).is_ok_and(|path| path.to_string_lossy().contains(token))
    };
    // A process between fork and exec still shows its parent's.
    if holds("cmdline") {
        Some("command line")
    } else if holds("environ") {
        Some("environment")
    } else if holds("cgroup") {
        Some("cgroup")
    } else if points("cwd") {
        Some("working directory")
    } else if points("root") {
        Some("root directory")
    } else if points("exe") {
        Some("executable")
    } else {
        None
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn mounts(scope: &Scope) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(&scope.token))
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .collect()
}

fn cgroups(scope: &Scope) -> Vec<PathBuf> {
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), 8, &mut |path, kind| {
        if kind.is_dir() && path.to_string_lossy().contains(&scope.token) {
            found.push(path.to_owned());
        }
    });
    found
}

fn listeners(scope: &Scope) -> Vec<Trace> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.contains(&scope.token))
        .map(|path| Trace::Socket(format!("{path} (still held by a process)")))
        .collect()
}

fn loops(scope: &Scope) -> Vec<Trace> {
    fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            file.contains(&scope.token).then(|| {
                Trace::Loop(format!("{} over {}", entry.file_name().display(), file.trim()))
            })
        })
        .collect()
}

/// A fifo that an image brought along lies in a snapshot, not among the streams.
fn in_image(path: &Path) -> bool {
    let path = path.to_string_lossy();
    path.contains("/snapshot") || path.contains("snapshotter") || path.contains("/unpacked")
}

/// Empty but for dotted names, which caches have (compiled seccomp profiles).
fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| {
        entries.flatten().all(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
    })
}

fn below(directory: &Path, depth: usize, see: &mut impl FnMut(&Path, fs::FileType)) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        see(&path, kind);
        if kind.is_dir() && depth > 0 {
            below(&path, depth - 1, see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    #[test]
    fn a_root_that_left_nothing_is_clean() {
        let root = Root::new();
        let path = root.path().to_owned();
        let _ = root.dir("a/b");
        drop(root);
        assert!(!path.exists());
    }

    #[test]
    fn a_process_that_stays_is_found_by_its_environment_and_ended() {
        let root = Root::new();
        let mut child = root.command("/bin/sleep").arg("600").spawn().expect("start sleep");
        let scope = Scope {
            token: root.namespace().to_owned(),
            directory: root.path().to_owned(),
            sockets: Vec::new(),
            namespace_cgroup_may_stay: false,
        };
        let pid = i32::try_from(child.id()).expect("pids are small");
        crate::eventually(Duration::from_secs(5), "the process shows up", || {
            processes(&scope)
                .iter()
                .any(|trace| matches!(trace, Trace::Process { pid: found, .. } if *found == pid))
                .then_some(())
        });
        sweep(&scope);
        child.wait().expect("it was killed");
        assert_eq!(processes(&scope), []);
    }

    #[test]
    fn a_child_that_has_ended_is_a_zombie_until_it_is_waited_for() {
        let mut child = std::process::Command::new("/bin/true").spawn().expect("start true");
        let pid = i32::try_from(child.id()).expect("pids are small");
        crate::eventually(Duration::from_secs(20), "it ends", || {
            (state(pid) == Some('Z')).then_some(())
        });
        child.wait().expect("it ended");
        assert_eq!(state(pid), None);
    }

    #[test]
    fn a_fifo_and_a_container_directory_that_stay_are_found() {
        let root = Root::new();
        let id = root.id("stays");
        nix::unistd::mkfifo(&root.path().join("stream"), nix::sys::stat::Mode::S_IRUSR)
            .expect("make a fifo");
        let left = root.dir(&format!("bundles/{id}"));
        let scope = Scope {
            token: root.namespace().to_owned(),
            directory: root.path().to_owned(),
            sockets: Vec::new(),
            namespace_cgroup_may_stay: false,
        };
        let found = look(&scope);
        assert!(found.contains(&Trace::Fifo(root.path().join("stream"))), "{found:?}");
        assert!(found.contains(&Trace::Entry(left)), "{found:?}");
        sweep(&scope);
    }
}
