//! One row in a process of its own, with a directory, a token and a time limit.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::leak::{self, Scope};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::fixture;
use crate::options::{self, Options};
use crate::row::Row;
use crate::verdict::Verdict;

/// A row that is being checked.
pub(crate) struct Job {
    pub(crate) row: Row,
    place: PathBuf,
    child: Child,
    out: JoinHandle<String>,
    began: Instant,
    limit: Duration,
    /// `None` when it had to be ended.
    status: Option<ExitStatus>,
}

/// A row that has been checked.
pub(crate) struct Done {
    pub(crate) row: Row,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    /// How many processes, mounts, groups and files it left.
    pub(crate) swept: usize,
}

impl Job {
    /// Begins a row in the directory given; `left` is what all rows together still may take.
    pub(crate) fn begin(options: &Options, place: &Path, row: Row, left: Duration) -> Result<Self> {
        let mut child = spawn(options, place, &row)?;
        let mut out = child.stdout.take().context("its output is piped")?;
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            // What arrived before an error is still shown.
            let _ = out.read_to_string(&mut text);
            text
        });
        let limit = row.limit.min(left);
        let place = place.to_owned();
        Ok(Self { row, place, child, out, began: Instant::now(), limit, status: None })
    }

    /// Whether it has ended; it is made to when its time is up, or at once.
    pub(crate) fn is_over(&mut self, at_once: bool) -> Result<bool> {
        self.status = self.child.try_wait().context("wait for a row")?;
        if self.status.is_none() && (at_once || self.began.elapsed() > self.limit) {
            if let Ok(pid) = i32::try_from(self.child.id()) {
                // It may have ended; that is the same result.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = self.child.wait();
            return Ok(true);
        }
        Ok(self.status.is_some())
    }

    /// Cleans up after it, and says how it ended. The files of a broken one go to `keep`.
    pub(crate) fn end(self, keep: Option<&Path>) -> Done {
        let took = self.began.elapsed();
        // Before the output is read to its end: a process that the row left may hold it open.
        let swept = sweep(&self.place, &fixture::sockets(&self.place), keep.is_some());
        let text = self.out.join().unwrap_or_default();
        let verdict = match self.status {
            None => {
                let limit = self.limit.as_secs_f32();
                Verdict::Broken(format!("no verdict within {limit:.0} s"))
            }
            Some(status) => verdict(&text).unwrap_or_else(|| {
                Verdict::Broken(format!("the check ended without a verdict: {status}: {text}"))
            }),
        };
        if let Some(keep) = keep {
            if matches!(verdict, Verdict::Broken(_)) {
                // Without it there is less to look at, and no less known.
                let _ = fs::rename(&self.place, keep);
            } else {
                let _ = fs::remove_dir_all(&self.place);
            }
        }
        Done { row: self.row, verdict, took, swept }
    }
}

fn spawn(options: &Options, place: &Path, row: &Row) -> Result<Child> {
    // By this name it is the same program even when its file was replaced by a newer build.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(&options.shim)
        .args(["--row", row.id, "--execs", &options.execs.to_string()])
        .arg("--place")
        .arg(place)
        .arg("--rootfs")
        .arg(&options.rootfs);
    if let Some(dialect) = options.dialect {
        command.args(["--dialect", options::word(dialect)]);
    }
    if let Some(runtime) = &options.runtime {
        command.arg("--runtime-binary").arg(runtime);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    command.spawn().context("run a row")
}

fn verdict(text: &str) -> Option<Verdict> {
    let answer: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    let said = answer["text"].as_str().unwrap_or_default().to_owned();
    match answer["verdict"].as_str()? {
        "held" => Some(Verdict::Held),
        "not offered" => Some(Verdict::NotOffered(said)),
        _ => Some(Verdict::Broken(said)),
    }
}

/// Ends and removes what a row left, its files too unless they are to stay; returns how much there was.
pub(crate) fn sweep(place: &Path, sockets: &[PathBuf], files_stay: bool) -> usize {
    let mut scope = Scope {
        token: place.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        directory: place.to_owned(),
        sockets: sockets.to_vec(),
        namespace_cgroup_may_stay: true,
    };
    let found = leak::look(&scope).len();
    if files_stay {
        scope.directory = place.join("none");
    }
    leak::sweep(&scope);
    found
}
