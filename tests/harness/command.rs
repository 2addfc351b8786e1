//! Runs one command to its end, within a time limit, and keeps its output and exit status.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::wait::until;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a command may take before it is killed and the test fails.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a command ended, and what it wrote.
pub struct Finished {
    /// The command as one line.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From start to exit.
    pub took: Duration,
}

impl Finished {
    /// The exit code, or 128 and the signal that ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => -1,
        }
    }

    /// Standard output as text, without the white space around it.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard error as text, without the white space around it.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// Asserts success, and passes it on.
    #[track_caller]
    #[must_use]
    pub fn success(self) -> Self {
        self.ended_with(0)
    }

    /// Asserts an exit code, and passes it on.
    #[track_caller]
    #[must_use]
    pub fn ended_with(self, code: i32) -> Self {
        assert!(self.code() == code, "expected exit code {code}: {self:?}");
        self
    }

    /// Asserts that standard error mentions each of these.
    #[track_caller]
    pub fn complains_of(&self, words: &[&str]) {
        for word in words {
            assert!(
                self.err().to_lowercase().contains(&word.to_lowercase()),
                "the message does not mention {word:?}: {self:?}"
            );
        }
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn tail(bytes: &[u8]) -> String {
            let text = String::from_utf8_lossy(bytes);
            let from = text.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            text[from..].trim_end().to_owned()
        }
        write!(
            f,
            "`{}` ended with {} after {:.2} s\n--- stdout ({} bytes)\n{}\n--- stderr\n{}\n---",
            self.command,
            self.status,
            self.took.as_secs_f32(),
            self.stdout.len(),
            tail(&self.stdout),
            tail(&self.stderr),
        )
    }
}

/// Runs a command without input.
///
/// # Panics
///
/// As [`run_with_input`] does.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    run_with_input(command, &[])
}

/// Runs a command with `input` on its standard input, which is then closed.
///
/// # Panics
///
/// When the command cannot be started, takes longer than [`LIMIT`], or leaves a process that
/// holds its standard output or error open.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Finished {
    let line = line(command);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Its own process group, so that a command over its limit goes together with its children.
    command.process_group(0);
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|why| panic!("start `{line}`: {why}"));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A command that ends without reading its input closes the pipe, which is no fault here.
        std::thread::spawn(move || stdin.write_all(&input));
    }
    let stdout = collect(child.stdout.take().expect("piped above"));
    let stderr = collect(child.stderr.take().expect("piped above"));
    let status = wait(&mut child, &line, began);
    let took = began.elapsed();
    let held = |what: &str| -> ! {
        panic!("`{line}` has ended, but a process it left behind holds its {what} open")
    };
    let patience = Duration::from_secs(10);
    let stdout = stdout.recv_timeout(patience).unwrap_or_else(|_| held("stdout"));
    let stderr = stderr.recv_timeout(patience).unwrap_or_else(|_| held("stderr"));
    Finished { command: line, status, stdout, stderr, took }
}

/// A command as one line.
#[must_use]
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still shown.
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

fn wait(child: &mut Child, line: &str, began: Instant) -> ExitStatus {
    let left = LIMIT.saturating_sub(began.elapsed());
    let ended = until(left, || child.try_wait().expect("a child of this process"));
    ended.unwrap_or_else(|| {
        let group = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
        panic!("`{line}` did not end within {} s", LIMIT.as_secs());
    })
}
