//! Our supervisor on a private root: its command line, and its daemon.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Finished, run, run_with_input};
use crate::{Root, eventually, leak, programs, wait};

/// A supervisor's directories, and the daemon if it was started by hand.
#[derive(Debug)]
pub struct Supervisor<'r> {
    root: &'r Root,
    directory: PathBuf,
    config: Option<PathBuf>,
    idle_timeout: Option<u32>,
    binary: PathBuf,
    served: Option<Child>,
}

impl<'r> Supervisor<'r> {
    /// One on fresh directories; the first command starts the daemon.
    #[must_use]
    pub fn new(root: &'r Root) -> Self {
        Self::named(root, "s")
    }

    /// One on fresh directories of this name.
    #[must_use]
    pub fn named(root: &'r Root, name: &str) -> Self {
        let directory = root.dir(name);
        let binary = programs::ours("supervisor");
        Self { root, directory, config: None, idle_timeout: None, binary, served: None }
    }

    /// The same, run from another binary.
    #[must_use]
    pub fn with_binary(mut self, binary: PathBuf) -> Self {
        self.binary = binary;
        self
    }

    /// The same, with a configuration file of this content.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    #[must_use]
    pub fn with_config(mut self, content: &str) -> Self {
        let path = self.directory.join("config.toml");
        fs::write(&path, content).expect("write the configuration");
        self.config = Some(path);
        self
    }

    /// The same, with a daemon that leaves after this many seconds without clients.
    #[must_use]
    pub fn with_idle_timeout(mut self, seconds: u32) -> Self {
        self.idle_timeout = Some(seconds);
        self
    }

    /// The persistent directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// The run-time directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The managed directory for installed binaries.
    #[must_use]
    pub fn opt(&self) -> PathBuf {
        self.directory.join("opt")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state().join("supervisor.sock")
    }

    /// A command of its command line.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.root.command(&self.binary);
        command
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state())
            .arg("--opt")
            .arg(self.opt())
            .args(["--namespace", self.root.namespace()]);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if let Some(seconds) = self.idle_timeout {
            command.arg("--idle-timeout").arg(seconds.to_string());
        }
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.cli(arguments))
    }

    /// Runs a command to its end, with input.
    #[track_caller]
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Finished {
        run_with_input(&mut self.cli(arguments), input)
    }

    /// Imports an archive.
    #[track_caller]
    pub fn import(&self, archive: &Path) {
        let mut command = self.cli(&["import"]);
        let _ = run(command.arg(archive)).success();
    }

    /// A stock `ctr` that talks to our socket.
    #[must_use]
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.root.command(programs::system("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", self.root.namespace()])
            .args(arguments);
        command
    }

    /// Starts the daemon by hand; it stays until [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn serve(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("served.log"))
            .expect("open the log");
        let child = self
            .cli(&["serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start the daemon");
        self.served = Some(child);
        let socket = self.socket();
        eventually(wait::SOON, "the daemon listens", || UnixStream::connect(&socket).ok());
    }

    /// Every daemon that runs on this root, by pid.
    #[must_use]
    pub fn daemons(&self) -> Vec<i32> {
        let root = self.root().to_string_lossy().into_owned();
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = leak::command_line(*pid);
                let words: Vec<_> = line.split(' ').collect();
                words.contains(&"serve")
                    && words.iter().any(|word| *word == root || *word == format!("--root={root}"))
                    && !matches!(leak::state(*pid), Some('Z' | 'X') | None)
            })
            .collect()
    }

    /// The one daemon on this root.
    ///
    /// # Panics
    ///
    /// When there is none, or more than one.
    #[must_use]
    pub fn daemon(&self) -> i32 {
        let found = self.daemons();
        assert!(found.len() == 1, "expected one daemon, found {found:?}");
        found[0]
    }

    /// Ends the daemon, however it was started, and waits until it is gone.
    pub fn stop(&mut self, signal: Signal) {
        for pid in self.daemons() {
            // It may have ended; that is the same result.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        if let Some(mut child) = self.served.take() {
            let _ = child.wait();
        }
        eventually(wait::SOON, "the daemon ends", || self.daemons().is_empty().then_some(()));
    }

    /// Everything any daemon of this root logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        for directory in [self.directory.clone(), self.state(), self.root()] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    text += &fs::read_to_string(entry.path()).unwrap_or_default();
                }
            }
        }
        text
    }
}

impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            #[allow(clippy::print_stderr)] // shown with the failed test
            {
                eprintln!(
                    "--- the daemon's log\n{}",
                    String::from_utf8_lossy(&log.as_bytes()[from..])
                );
            }
            for pid in self.daemons() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            if let Some(mut child) = self.served.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        } else {
            self.stop(Signal::SIGTERM);
        }
    }
}
