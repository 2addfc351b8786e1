//! The shim's side of a helper: starts it, asks it one thing at a time, notices its end.
//!
//! ```text
//!             spawn                 answer
//!   (none) ---------> idle --ask--> busy ----> idle
//!     ^                |              |
//!     |   left (quiet) |              | died, stopped, past the deadline
//!     +----------------+--------------+ killed, reaped
//! ```
//!
//! Promise: every question is answered by its deadline, with an error if need be, whatever has
//! become of the helper; a helper that failed once is never asked again. What a helper has cloned is
//! known exactly: until it executes another program, a clone has the helper's own command line, and
//! each helper has a number in its own that nothing else has. None executes before the shim was told.
//! Not here: what a request means, and what must be cleaned up after a helper that died half way
//! (the engine).
//! See pidfd_open(2), posix_spawn(3), unix(7).

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use shim_sdk::{ProcessHandle, Program};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::helper_executable::Image;
use super::wire::{self, Frame, HelperReply, HelperRequest};
use super::{HELPER_ARGUMENT, HELPER_SOCKET};
use crate::process_tree;
use crate::sys;

/// How long a killed helper may take to disappear.
const KILLED: Duration = Duration::from_secs(2);

/// How often, a millisecond apart, it is looked whether killed clones have gone.
const CLONE_LOOKS: usize = 2000;

/// How many times in turn no clone must be seen for there to be none.
const EMPTY_LOOKS: usize = 3;

/// What the helper is called on its command line.
const NAME: &str = "containerd-shim-libcontainer";

/// How often a helper that has not answered is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("start the libcontainer helper: {step}")]
    Spawn {
        step: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("the libcontainer helper was gone before it was asked")]
    Unheard {
        #[source]
        cause: io::Error,
    },
    #[error("the libcontainer helper's answer cannot be read")]
    Socket {
        #[source]
        cause: io::Error,
    },
    #[error("the libcontainer helper answered what was not asked")]
    Nonsense,
    #[error("the libcontainer helper ended without an answer ({how})")]
    Died { how: String },
    #[error("the libcontainer helper did not answer within {} s and was killed", .after.as_secs())]
    Late { after: Duration },
    #[error("the libcontainer helper was stopped from outside and was killed")]
    Stopped,
    #[error("the container's init has ended")]
    Ended,
}

/// An answer with the descriptors beside it.
pub(super) struct Answer {
    pub(super) reply: HelperReply,
    pub(super) fds: Vec<OwnedFd>,
}

/// A running helper.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    process: AsyncFd<OwnedFd>,
    pid: i32,
    sequence: Cell<u64>,
    /// What `/proc/<pid>/cmdline` shows of the helper and of its clones.
    command_line: Vec<u8>,
}

impl Connection {
    /// Starts a helper. It is a child of the calling process and dies with the calling thread, so
    /// this must run on the shim's main thread.
    pub(super) fn spawn(image: &Image) -> Result<Self, AskError> {
        let step = |step| move |cause: io::Error| AskError::Spawn { step, cause };
        let image = image.get().map_err(step("open the shim's binary"))?;
        let (near, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|cause| step("socketpair")(cause.into()))?;
        // This end alone; the helper's waits.
        rustix::io::ioctl_fionbio(&near, true)
            .map_err(|cause| step("ioctl(FIONBIO)")(cause.into()))?;
        let token = format!("{:016x}", std::hash::RandomState::new().build_hasher().finish());
        let command_line = [NAME, HELPER_ARGUMENT, &token, ""].join("\0").into_bytes();
        let helper =
            exec(image, far, &token).map_err(|cause| step("run it")(io::Error::other(cause)))?;
        let (pid, pidfd) = (helper.pid().get().cast_signed(), helper.pidfd());
        let pidfd = pidfd.ok_or_else(|| io::ErrorKind::NotFound.into());
        let pidfd = pidfd.and_then(|pidfd| pidfd.try_clone_to_owned()).map_err(step("hold it"))?;
        let socket = sys::poll::async_fd(near, Interest::READABLE | Interest::WRITABLE)
            .map_err(step("watch the socket"))?;
        let process =
            sys::poll::async_fd(pidfd, Interest::READABLE).map_err(step("watch the child"))?;
        log::debug!("started libcontainer helper {pid}");
        Ok(Self { socket, process, pid, sequence: Cell::new(0), command_line })
    }

    /// The helper's process id.
    #[cfg(test)]
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Says what wants no answer. Whether it was heard shows with the next question.
    pub(super) fn tell(&self, request: &HelperRequest) -> io::Result<()> {
        let bytes = wire::encode(self.sequence.get(), request)?;
        wire::send(self.socket.get_ref(), &bytes, &[])
    }

    /// Asks one question and waits for its answer. After an error the connection is of no use.
    ///
    /// # Cancel safety
    ///
    /// An answer to a question whose asker has gone is dropped when the next one is asked.
    pub(super) async fn ask(
        &self,
        request: &HelperRequest,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, AskError> {
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let bytes = wire::encode(sequence, request).map_err(|cause| AskError::Socket { cause })?;
        let asked = async {
            self.socket
                .async_io(Interest::WRITABLE, |socket| wire::send(socket, &bytes, fds))
                .await
                .map_err(|cause| AskError::Unheard { cause })?;
            self.answer(sequence).await
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Late { after: deadline }),
        }
    }

    async fn answer(&self, sequence: u64) -> Result<Answer, AskError> {
        loop {
            let received = tokio::select! {
                // In this order: what the helper said before it died comes first.
                biased;
                received = self.socket.async_io(Interest::READABLE, |socket| wire::receive(socket)) => received,
                _ = self.process.readable() => {
                    match wire::receive(self.socket.get_ref()) {
                        Err(nothing) if nothing.kind() == io::ErrorKind::WouldBlock => {
                            return Err(AskError::Died { how: self.reap() });
                        }
                        received => received,
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    if self.is_stopped() { return Err(AskError::Stopped) }
                    continue;
                }
            };
            let received = received.map_err(|cause| match cause.kind() {
                // The other end was closed with our question unread.
                io::ErrorKind::ConnectionReset => AskError::Unheard { cause },
                _ => AskError::Socket { cause },
            })?;
            let Some((bytes, fds)) = received else {
                // The socket alone can close first, in a helper that is on its way out.
                let _ = tokio::time::timeout(KILLED, self.process.readable()).await;
                return Err(AskError::Died { how: self.reap() });
            };
            let Frame { sequence: answered, body: reply, .. } =
                wire::decode(&bytes).map_err(|cause| AskError::Socket { cause })?;
            match reply {
                HelperReply::Leaving => return Ok(Answer { reply, fds }),
                _ if answered == sequence => return Ok(Answer { reply, fds }),
                _ if answered < sequence => {}
                _ => return Err(AskError::Nonsense),
            }
        }
    }

    /// Whether the helper is stopped by a signal, which nobody who wishes it well would send.
    fn is_stopped(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        // The command's name, in parentheses, may hold anything; the state follows the last one.
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    }

    /// Kills the helper and its clones, except those that were handed over to the engine. Waits until
    /// they are gone. Other children of the shim live on.
    pub(super) async fn kill(self, is_handed_over: impl Fn(i32) -> bool) {
        if !self.has_ended()
            && let Some(helper) = Pid::from_raw(self.pid)
        {
            // Hooks that it waits for are its own children.
            process_tree::kill_all(helper);
        }
        self.wait().await;
        let (mut empty, mut left) = (0, Vec::new());
        for _ in 0..CLONE_LOOKS {
            // The kernel's list may leave out a child while another one ends.
            self.kill_clones(&mut left, &is_handed_over);
            empty = if left.is_empty() { empty + 1 } else { 0 };
            if empty == EMPTY_LOOKS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        log::warn!("what libcontainer helper {} has cloned does not go away", self.pid);
    }

    /// Kills those that are there, beside those that are left from before; keeps what is not over yet.
    fn kill_clones(&self, left: &mut Vec<OwnedFd>, is_handed_over: impl Fn(i32) -> bool) {
        // Our children, and not reaped: each pid is still its own.
        let clones = self.clones(is_handed_over).into_iter();
        left.extend(clones.filter_map(|clone| pidfd_open(clone, PidfdFlags::empty()).ok()));
        // One that was killed has no command line any more, and is not over yet.
        left.retain(|process| !is_over(process));
        for process in &*left {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Live children of the shim that this helper has cloned, that have executed nothing yet and were
    /// not handed over.
    fn clones(&self, is_handed_over: impl Fn(i32) -> bool) -> Vec<Pid> {
        let is_clone = |pid: &i32| {
            *pid != self.pid
                && !is_handed_over(*pid)
                // Empty for one that is dead and not reaped.
                && beginning(&format!("/proc/{pid}/cmdline"), self.command_line.len() + 1)
                    .is_ok_and(|line| line == self.command_line)
        };
        children().into_iter().filter(is_clone).filter_map(Pid::from_raw).collect()
    }

    /// Waits for a helper that is leaving.
    pub(super) async fn wait(&self) {
        if tokio::time::timeout(KILLED, self.process.readable()).await.is_err() {
            log::warn!("libcontainer helper {} is still there {KILLED:?} after SIGKILL", self.pid);
        }
        self.reap();
    }

    /// Whether the helper has ended. Its socket may still be open, in what it cloned.
    pub(super) fn has_ended(&self) -> bool {
        let ended = is_over(self.process.get_ref());
        if ended {
            self.reap();
        }
        ended
    }

    /// Collects the exit status, if nobody else has.
    fn reap(&self) -> String {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.process.get_ref().as_fd()), options) {
            Ok(Some(status)) => describe(&status),
            // ECHILD: whoever collects the shim's unknown children was faster.
            Ok(None) | Err(_) => format!("process {}", self.pid),
        }
    }
}

/// Whether a pidfd's process has ended.
fn is_over(process: &OwnedFd) -> bool {
    let mut process = [PollFd::new(process, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut process, Some(&now)), Ok(1..))
}

fn describe(status: &WaitIdStatus) -> String {
    if let Some(code) = status.exit_status() {
        format!("exit status {code}")
    } else if let Some(signal) = status.terminating_signal() {
        format!("signal {signal}")
    } else {
        "unknown end".to_owned()
    }
}

/// At most so many bytes of a file: a process may have a command line as large as its memory.
fn beginning(path: &str, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(most);
    std::fs::File::open(path)?.take(most as u64).read_to_end(&mut line)?;
    Ok(line)
}

/// When the kernel started a process: with its pid, what tells it from every other. See proc(5), stat.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field; the second, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The children of the calling thread, which is the shim's only one to have any.
pub(super) fn children() -> Vec<i32> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    std::fs::read_to_string(format!("/proc/self/task/{thread}/children"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Runs the image with null streams, the socket at its fixed number, and nothing else.
fn exec(image: OwnedFd, socket: OwnedFd, token: &str) -> Result<ProcessHandle, shim_sdk::Error> {
    let program = Program::in_file(image, NAME);
    let program = program.args([HELPER_ARGUMENT, token]).bare_env().directory("/");
    // Its first descriptor beside the streams.
    const { assert!(HELPER_SOCKET == 3) };
    shim_sdk::spawn_now(program.descriptor(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_of_a_command_line_than_is_compared() {
        assert_eq!(beginning("/dev/zero", 7).unwrap(), [0; 7]);
    }

    #[test]
    fn a_process_has_a_start_time_until_it_is_reaped() {
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        assert!(start_time(pid) >= start_time(i32::try_from(std::process::id()).unwrap()));
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(start_time(pid), None);
    }
}
