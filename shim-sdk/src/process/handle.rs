//! A process, held so that its number cannot come to mean another one.

use crate::{Error, Pid, Result, Signal};

/// A process of a container: its pid and a pidfd.
///
/// See pidfd_open(2), pidfd_send_signal(2).
#[derive(Debug)]
pub struct ProcessHandle {
    pid: Pid,
    pidfd: Option<std::os::fd::OwnedFd>,
}

impl ProcessHandle {
    /// Takes hold of a process. One that is gone already is held as such: signals to it answer
    /// "not found".
    pub fn open(pid: Pid) -> Result<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let number = rustix::process::Pid::from_raw(pid.get().cast_signed())
            .ok_or_else(|| Error::invalid(format!("pid {pid} is out of range")))?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd: Some(pidfd) }),
            Err(rustix::io::Errno::SRCH) => Ok(Self { pid, pidfd: None }),
            Err(cause) => Err(Error::io(format!("pidfd_open({pid})"), cause.into())),
        }
    }

    /// Takes hold of a process by the pidfd that was made with it.
    #[cfg(feature = "serve")]
    pub(crate) fn made(pid: Pid, pidfd: std::os::fd::OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd) }
    }

    /// The pidfd, unless the process was gone when this was opened.
    pub fn pidfd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Sends a signal. A process that has ended answers "not found".
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pidfd) = self.pidfd() else { return Err(finished()) };
        match crate::sys::pidfd_send_signal(pidfd, signal.number()) {
            Ok(()) => Ok(()),
            Err(cause) if cause.raw_os_error() == Some(libc::ESRCH) => Err(finished()),
            Err(cause) => {
                Err(Error::io(format!("pidfd_send_signal({}, {signal})", self.pid), cause))
            }
        }
    }
}

impl ProcessHandle {
    /// The process as the host numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

fn finished() -> Error {
    // containerd and its clients look for these words.
    Error::not_found("process already finished")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_signal_to_a_finished_process_is_not_found() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let handle = ProcessHandle::open(Pid::new(child.id()).expect("a pid")).expect("open");
        handle.signal(Signal::PROBE).expect("it runs");
        handle.signal(Signal::KILL).expect("it runs");
        child.wait().expect("wait");
        let error = handle.signal(Signal::TERM).expect_err("it is gone");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.message(), "process already finished");
    }
}
