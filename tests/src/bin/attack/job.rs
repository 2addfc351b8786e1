//! Runs attacks, each in a process of its own, and reports how each ended.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::wait;
use harness::{Root, leak, programs};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::attack::Attack;
use crate::say;

/// The longest text that is printed of what was seen.
const SEEN_BYTES: usize = 500;

/// Runs them, some side by side; whether all were held off.
pub(crate) fn all(attacks: Vec<Attack>, jobs: usize) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("watch for signals")?;
    }
    let total = attacks.len();
    let waiting = Mutex::new(VecDeque::from(attacks));
    let (held, broken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(attack) = next else { break };
            let (name, began) = (attack.name(), Instant::now());
            let seen = Job::begin(attack)?.end(&stop)?;
            let took = began.elapsed().as_secs_f32();
            match seen {
                None => {
                    held.fetch_add(1, Ordering::Relaxed);
                    say(&format!("held {name} ({took:.1} s)"));
                }
                Some(seen) => {
                    broken.fetch_add(1, Ordering::Relaxed);
                    say(&format!("BROKEN {name}: {seen} ({took:.1} s)"));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })?;
    let (held, broken) = (held.into_inner(), broken.into_inner());
    say(&format!("# {held} held, {broken} broken, of {total} attacks"));
    Ok(held == total)
}

struct Job {
    attack: Attack,
    root: Root,
    child: Child,
    told: JoinHandle<String>,
    began: Instant,
}

impl Job {
    fn begin(attack: Attack) -> Result<Self> {
        let root = Root::new();
        root.tolerate_namespace_cgroup();
        // By this name it is the same program even when its file was replaced by a newer build.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--one", &attack.name()])
            .arg(root.path())
            .env(programs::BINARIES, programs::directory())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().context("run an attack")?;
        let mut errors = child.stderr.take().context("its errors are piped")?;
        let told = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What arrived before an error is still shown.
            let _ = errors.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { attack, root, child, told, began: Instant::now() })
    }

    /// How it ended; it is made to when its time is up, or when everything stops.
    fn wait(&mut self, stop: &AtomicBool) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait().context("wait for an attack")? {
                return Ok(Some(status));
            }
            if stop.load(Ordering::Relaxed) || self.began.elapsed() > self.attack.limit {
                if let Ok(pid) = i32::try_from(self.child.id()) {
                    // It may have ended; that is the same result.
                    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                }
                self.child.wait().context("wait for an attack")?;
                return Ok(None);
            }
            wait::pass(Duration::from_millis(10));
        }
    }

    /// Cleans up after it; what was seen, if it won.
    fn end(mut self, stop: &AtomicBool) -> Result<Option<String>> {
        let status = self.wait(stop)?;
        let succeeded = status.is_some_and(|status| status.success());
        // An attack that succeeded is reported; what it left is not reported too.
        let remains = if succeeded { self.root.remains() } else { Vec::new() };
        self.root.sweep();
        let told = self.told.join().unwrap_or_default();
        Ok(match status {
            None => Some(format!("no end within {} s", self.attack.limit.as_secs())),
            Some(_) if succeeded && remains.is_empty() => None,
            Some(_) if succeeded => {
                Some(shorten(&format!("left behind:\n{}", leak::list(&remains))))
            }
            Some(status) => Some(shorten(&message(&told).unwrap_or_else(|| status.to_string()))),
        })
    }
}

/// What a panic said, without where.
fn message(told: &str) -> Option<String> {
    let (_, after) = told.split_once("panicked at ")?;
    let (_, message) = after.split_once('\n')?;
    let end = message.find("\nnote: ").unwrap_or(message.len());
    Some(message[..end].to_owned())
}

/// One line, not too long, and without anything that a terminal would obey.
fn shorten(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().flat_map(char::escape_debug).collect();
    let line = line.replace("\\\"", "\"").replace("\\'", "'");
    match line.char_indices().nth(SEEN_BYTES) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
