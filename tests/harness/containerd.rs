//! A private stock containerd: Debian's, with its own root, state and socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Finished, run};
use crate::{Root, eventually, image, leak, programs, wait};

/// What a host has that has both versions of cgroups.
const UNIFIED: &str = "/sys/fs/cgroup/unified/cgroup.procs";

/// Becomes `$0 $@` where the v2 hierarchy beside those of v1 is not to be seen. crun makes
/// directories in its place all the same, which must not be on the host's own tmpfs.
const HIDE_UNIFIED: &str = r#"
unified=/sys/fs/cgroup/unified
if [ -e $unified/cgroup.procs ]; then
    umount $unified
    mount -t tmpfs none $unified
fi
exec "$0" "$@""#;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'r> {
    root: &'r Root,
    child: Option<Child>,
    directory: PathBuf,
    shims: Option<PathBuf>,
    log_level: &'static str,
    hides_unified: bool,
}

impl<'r> Containerd<'r> {
    /// Starts one that looks for shims in `shims` first; `None` leaves it to find its own.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    pub fn start(root: &'r Root, shims: Option<&Path>) -> Self {
        Self::start_in(root, shims, false)
    }

    /// The same; on a hybrid host in a mount namespace of its own, where the v2 hierarchy is hidden:
    /// crun takes it for the only one.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    pub fn start_for_crun(root: &'r Root, shims: Option<&Path>) -> Self {
        Self::start_in(root, shims, Path::new(UNIFIED).exists())
    }

    fn start_in(root: &'r Root, shims: Option<&Path>, hides_unified: bool) -> Self {
        root.tolerate_namespace_cgroup();
        let directory = root.dir("containerd");
        let config = format!(
            r#"version = 2
root = "{0}/root"
state = "{0}/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{0}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{0}/opt"
"#,
            directory.display()
        );
        fs::write(directory.join("config.toml"), config).expect("write containerd's config");
        let shims = shims.map(Path::to_owned);
        let mut this =
            Self { root, child: None, directory, shims, log_level: "info", hides_unified };
        this.launch();
        this
    }

    fn launch(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("open containerd's log");
        let program = programs::system("containerd");
        let mut command = if self.hides_unified {
            let mut command = self.root.command(programs::system("unshare"));
            command.args(["--mount", "--propagation", "slave", "sh", "-ec", HIDE_UNIFIED]);
            command.arg(program);
            command
        } else {
            self.root.command(program)
        };
        command
            .arg("--config")
            .arg(self.directory.join("config.toml"))
            .args(["--log-level", self.log_level])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(shims) = &self.shims {
            command.env("PATH", format!("{}:{}", shims.display(), programs::SEARCH_PATH));
        }
        self.child = Some(command.spawn().expect("start containerd"));
        let address = self.address();
        eventually(wait::SOON, "containerd listens", || UnixStream::connect(&address).ok());
    }

    /// The path of its socket.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A `ctr` command for it.
    #[must_use]
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.root.command(programs::system("ctr"));
        command
            .arg("--address")
            .arg(self.address())
            .args(["--namespace", self.root.namespace()])
            .args(arguments);
        command
    }

    /// `ctr run` of an image under a fresh id, with further flags; returns the command and the id.
    #[must_use]
    pub fn ctr_run(
        &self,
        runtime: &str,
        flags: &[&str],
        image: &str,
        words: &[&str],
    ) -> (Command, String) {
        let id = self.root.id("c");
        self.expect_shim(&id);
        let fifos = self.root.dir("fifo");
        let mut command = self.ctr(&["run", "--runtime", runtime, "--fifo-dir"]);
        command.arg(fifos).args(flags).arg(image).arg(&id).args(words);
        (command, id)
    }

    /// Has the leak check look for the socket that a shim of this container listens on.
    pub fn expect_shim(&self, id: &str) {
        self.root.watch_socket(self.shim_socket(id));
    }

    /// The socket that a shim of this container listens on, which is named after the daemon's
    /// address, the namespace and the group.
    #[must_use]
    pub fn shim_socket(&self, id: &str) -> PathBuf {
        let name = self.address().join(self.root.namespace()).join(id);
        let name = image::hex(name.to_string_lossy().as_bytes());
        Path::new("/run/containerd/s").join(name)
    }

    /// The directory of a container's bundle.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        let tasks = self.directory.join("state/io.containerd.runtime.v2.task");
        tasks.join(self.root.namespace()).join(id)
    }

    /// Imports an archive and unpacks it.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[track_caller]
    pub fn import(&self, archive: &Path) {
        let mut command = self.ctr(&["images", "import"]);
        let _ = run(command.arg(archive)).success();
    }

    /// Runs a `ctr` command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.ctr(arguments))
    }

    /// Its pid.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let child = self.child.as_ref().expect("it is running");
        i32::try_from(child.id()).expect("pids are small")
    }

    /// Stops it with a signal and waits for its end.
    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).expect("pids are small");
            // It may have ended; that is the same result.
            let _ = kill(Pid::from_raw(pid), signal);
            let _ = child.wait();
        }
    }

    /// Starts it again after [`stop`](Self::stop).
    pub fn restart(&mut self) {
        self.launch();
    }

    /// The shim process of a container.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn shim(&self, id: &str) -> i32 {
        shim_of(id).unwrap_or_else(|| panic!("no shim runs for {id}"))
    }
}

/// The process whose command line asks to serve this container as a shim.
#[must_use]
pub fn shim_of(id: &str) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = leak::command_line(pid);
        (line.contains("containerd-shim-")
            && line.split(' ').any(|word| word == id)
            && !matches!(leak::state(pid), Some('Z' | 'X') | None))
        .then_some(pid)
    })
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        self.stop(Signal::SIGTERM);
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            #[allow(clippy::print_stderr)] // shown with the failed test
            {
                eprintln!(
                    "--- containerd's log\n{}",
                    String::from_utf8_lossy(&log.as_bytes()[from..])
                );
            }
        }
    }
}
