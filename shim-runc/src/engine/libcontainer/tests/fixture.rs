//! Real containers for the tests: a busybox root, containerd's default spec, a leak check.
#![allow(unsafe_code)] // the helper's entry, before the test harness has a thread

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use serde_json::{Value, json};
use shim_sdk::error::report;

use super::super::helper::{cgroup_directories, cgroup_pids, cgroup_remove};
use super::super::{BorrowedStreams, Libcontainer};

/// The helper runs the calling program's own binary, here the tests': this makes that binary a
/// helper too. It runs before `main`, so before libtest has started any thread.
#[used]
#[unsafe(link_section = ".init_array")]
static ENTRY: extern "C" fn() = {
    extern "C" fn entry() {
        if super::super::run_internal().is_some() {
            std::process::exit(0);
        }
    }
    entry
};

static COUNT: AtomicU32 = AtomicU32::new(0);

const APPLETS: [&str; 17] = [
    "sh", "true", "false", "cat", "sleep", "id", "env", "echo", "mount", "grep", "ls", "tty",
    "stat", "yes", "head", "touch", "cut",
];

/// One container's bundle and the engine that makes it; dropped, it must have left nothing.
pub(super) struct Fixture {
    pub(super) engine: Rc<Libcontainer>,
    pub(super) id: String,
    pub(super) spec: Value,
    pub(super) directory: tempfile::TempDir,
    pub(super) no_new_keyring: bool,
    started: Vec<i32>,
}

impl Fixture {
    pub(super) fn new(command: &[&str]) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests make containers: run as root");
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("bundle/rootfs");
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "run"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        // By another process: what another test starts while this one copies would hold the copy
        // open for writing until it executes, and such a file cannot be executed.
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("/bin/busybox").arg(rootfs.join("bin")).status().unwrap();
        assert!(copied.success(), "/bin/busybox, of package busybox-static");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        fs::write(rootfs.join("etc/passwd"), users).unwrap();
        fs::write(rootfs.join("etc/data"), "data").unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("shim-test-{}-{number}", std::process::id());
        let spec = spec(&id, command);
        let engine = Rc::new(Libcontainer::new(directory.path().join("state")));
        Self { engine, id, spec, directory, no_new_keyring: false, started: Vec::new() }
    }

    /// Has another container's engine make this one, as in a pod.
    pub(super) fn share_engine(&mut self, other: &Self) {
        self.engine = Rc::clone(&other.engine);
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(super) fn record(&self) -> PathBuf {
        self.engine.root.join(&self.id)
    }

    /// Writes the spec, unless it is there as it is.
    pub(super) fn write_spec(&self) {
        let (file, text) = (self.bundle().join("config.json"), self.spec.to_string());
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            fs::write(file, text).unwrap();
        }
    }

    /// Creates the container; what its init writes comes out of the returned pipe.
    pub(super) async fn create(&mut self) -> Result<(i32, OwnedFd), String> {
        self.write_spec();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let streams = BorrowedStreams {
            stdout: Some(write.as_fd()),
            stderr: Some(write.as_fd()),
            ..BorrowedStreams::default()
        };
        let pid = self
            .engine
            .create_container(&self.id, &self.bundle(), (false, self.no_new_keyring), &streams)
            .await
            .map_err(|error| report(&error))?;
        self.started.push(pid);
        Ok((pid, read))
    }

    pub(super) async fn start(&self) -> Result<(), String> {
        self.engine.start_container(&self.id).await.map_err(|error| report(&error))
    }

    /// Runs a further process; what it writes comes out of the returned pipe.
    pub(super) async fn exec(&mut self, process: Value) -> Result<(i32, OwnedFd), String> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let streams = BorrowedStreams {
            stdout: Some(write.as_fd()),
            stderr: Some(write.as_fd()),
            ..BorrowedStreams::default()
        };
        let pid = self
            .engine
            .exec_process(&self.id, process.to_string().as_bytes(), &streams)
            .await
            .map_err(|error| report(&error))?;
        self.started.push(pid);
        Ok((pid, read))
    }

    /// Runs the container to its end; returns its exit status and output.
    pub(super) async fn run(&mut self) -> (i32, String) {
        let (pid, output) = self.create().await.unwrap();
        self.start().await.unwrap();
        let output = read(output);
        let status = wait(pid);
        self.delete(false).await;
        (status, output)
    }

    pub(super) async fn delete(&self, force: bool) {
        self.engine.delete_container(&self.id, force).await.unwrap();
        self.assert_nothing_left();
    }

    /// Every process in the container that is not a zombie.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids = cgroup_pids(Path::new(&format!("/shim-test/{}", self.id)));
        pids.retain(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        });
        pids
    }

    pub(super) fn assert_nothing_left(&self) {
        let records = fs::read_dir(&self.engine.root).into_iter().flatten().flatten();
        let names = records.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<String> = names.filter(|name| name.contains(&self.id)).collect();
        assert_eq!(left, Vec::<String>::new(), "records are still there");
        for directory in cgroup_directories(Path::new(&format!("/shim-test/{}", self.id))) {
            assert!(!directory.exists(), "{} is still there", directory.display());
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Also what a failed test left frozen.
        cgroup_remove(Path::new(&format!("/shim-test/{}", self.id)));
        for pid in std::mem::take(&mut self.started) {
            if children().contains(&pid) {
                let process = Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
                wait(pid);
            }
        }
        for directory in cgroup_directories(Path::new("/shim-test")) {
            // Empty unless another test has a container there.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Makes an executable file, by another process for the same reason.
pub(super) fn executable(path: &Path, text: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .arg(text)
        .status();
    assert!(status.unwrap().success());
}

/// Reads a pipe to its end.
pub(super) fn read(pipe: OwnedFd) -> String {
    use std::io::Read;
    let mut text = String::new();
    fs::File::from(pipe).read_to_string(&mut text).unwrap();
    text
}

thread_local! {
    static EXITS: RefCell<HashMap<i32, i32>> = RefCell::default();
}

/// The exit status of a child, 128 + signal for one that was killed.
///
/// Reaps whatever else this thread has for children, as the shim does: an init cannot go before
/// the processes of its pid namespace have been reaped, a failed exec among them.
pub(super) fn wait(pid: i32) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for child in children() {
            if let Ok(Some((_, status))) = waitpid(Pid::from_raw(child), WaitOptions::NOHANG) {
                EXITS.with_borrow_mut(|exits| exits.insert(child, exit_status(status)));
            }
        }
        if let Some(status) = EXITS.with_borrow_mut(|exits| exits.remove(&pid)) {
            return status;
        }
        assert!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The children of this thread.
pub(super) fn children() -> Vec<i32> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/self/task/{thread}/children")).unwrap();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The descriptor that comes over a console socket.
pub(super) fn receive_one(connection: &std::os::unix::net::UnixStream) -> OwnedFd {
    let (_, mut fds) = super::super::wire::receive(connection).unwrap().unwrap();
    fds.pop().expect("a descriptor")
}

fn exit_status(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

/// Runs a test on a current-thread runtime, as the shim has.
pub(super) fn on_the_shims_thread(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A process that runs a shell script in the container.
pub(super) fn shell(script: &str) -> Value {
    process(&["/bin/sh", "-c", script])
}

pub(super) fn process(command: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": command,
        "env": ["PATH=/bin:/usr/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
        "capabilities": {
            "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    })
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// containerd's default spec, with a seccomp profile that denies one harmless call by a telling
/// error.
fn spec(id: &str, command: &[&str]) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": process(command),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        "linux": {
            "cgroupsPath": format!("/shim-test/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{
                    // EDOM, which no system call returns by itself.
                    "names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33,
                }],
            },
        },
    })
}
