//! The shim's side of a helper: starts it, sends it one request at a time, notices its end.
//!
//! ```text
//!             spawn                 answer
//!   (none) ---------> idle --ask--> busy ----> idle
//!     ^                |              |
//!     |   left (quiet) |              | died, stopped, past the deadline
//!     +----------------+--------------+ killed, reaped
//! ```
//!
//! Promise: every request is answered by its deadline, with an error if the helper dies, stops or hangs. A
//! helper that failed once gets no further request. The clones of a helper are known exactly: until it
//! executes another program, a clone has the helper's command line, which has a random number of its own.
//! A clone executes only after the shim has its pid.
//! Not here: what a request means, and the clean-up after a helper that died in a request (the engine).
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

/// How long a killed helper may take to end.
const KILLED: Duration = Duration::from_secs(2);

/// How often the children are listed, a millisecond apart, until the killed clones have ended.
const CLONE_LOOKS: usize = 2000;

/// How many lists in a row must have no clone.
const EMPTY_LOOKS: usize = 3;

/// The first word of the helper's command line.
const NAME: &str = "containerd-shim-libcontainer";

/// How often a helper that has not answered is checked for a stop.
const LOOK: Duration = Duration::from_millis(500);

/// A request was not answered.
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
        // Only this end does not block; the helper's end does.
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

    /// Sends a request that has no answer. An error shows at the next request.
    pub(super) fn tell(&self, request: &HelperRequest) -> io::Result<()> {
        let bytes = wire::encode(self.sequence.get(), request)?;
        wire::send(self.socket.get_ref(), &bytes, &[])
    }

    /// Sends one request and waits for its answer. After an error the connection must not be used again.
    ///
    /// # Cancel safety
    ///
    /// The answer to a request whose caller was dropped is skipped by the next request.
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
                // In this order: an answer that the helper sent before it died counts.
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
                // The helper closed its end with our request unread.
                io::ErrorKind::ConnectionReset => AskError::Unheard { cause },
                _ => AskError::Socket { cause },
            })?;
            let Some((bytes, fds)) = received else {
                // The socket of a helper that is exiting may close before the process ends.
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

    /// Whether the helper is stopped by a signal (state T). It counts as hanging.
    fn is_stopped(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        // The command's name, in parentheses, may have any characters; the state follows the last ")".
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

    /// Kills the clones that exist now and those in `left`. `left` keeps the ones that have not ended.
    fn kill_clones(&self, left: &mut Vec<OwnedFd>, is_handed_over: impl Fn(i32) -> bool) {
        // They are our children and not reaped, so no pid was reused.
        let clones = self.clones(is_handed_over).into_iter();
        left.extend(clones.filter_map(|clone| pidfd_open(clone, PidfdFlags::empty()).ok()));
        // A killed process may have lost its command line before it ends.
        left.retain(|process| !is_over(process));
        for process in &*left {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// The live children of the shim that this helper has cloned, that have executed no program and were
    /// not handed over.
    fn clones(&self, is_handed_over: impl Fn(i32) -> bool) -> Vec<Pid> {
        let is_clone = |pid: &i32| {
            *pid != self.pid
                && !is_handed_over(*pid)
                // The command line of a zombie is empty.
                && beginning(&format!("/proc/{pid}/cmdline"), self.command_line.len() + 1)
                    .is_ok_and(|line| line == self.command_line)
        };
        children().into_iter().filter(is_clone).filter_map(Pid::from_raw).collect()
    }

    /// Waits until a helper that exits has ended.
    pub(super) async fn wait(&self) {
        if tokio::time::timeout(KILLED, self.process.readable()).await.is_err() {
            log::warn!("libcontainer helper {} is still there {KILLED:?} after SIGKILL", self.pid);
        }
        self.reap();
    }

    /// Whether the helper has ended. Its clones may still hold its socket.
    pub(super) fn has_ended(&self) -> bool {
        let ended = is_over(self.process.get_ref());
        if ended {
            self.reap();
        }
        ended
    }

    /// Reaps the helper, if that was not done.
    fn reap(&self) -> String {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.process.get_ref().as_fd()), options) {
            Ok(Some(status)) => describe(&status),
            // ECHILD: the SDK's reaper has reaped it.
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

/// Reads at most `most` bytes of a file: a command line may be as large as the process's memory.
fn beginning(path: &str, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(most);
    std::fs::File::open(path)?.take(most as u64).read_to_end(&mut line)?;
    Ok(line)
}

/// The start time of a process. With its pid it identifies the process. See proc(5), stat.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field. The second, in parentheses, may have any characters.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The children of the calling thread. No other thread of the shim has children.
pub(super) fn children() -> Vec<i32> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    std::fs::read_to_string(format!("/proc/self/task/{thread}/children"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Runs the image with null streams and the socket at its fixed number.
fn exec(image: OwnedFd, socket: OwnedFd, token: &str) -> Result<ProcessHandle, shim_sdk::Error> {
    let program = Program::in_file(image, NAME);
    let program = program.args([HELPER_ARGUMENT, token]).bare_env().directory("/");
    // The first descriptor after the streams.
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
