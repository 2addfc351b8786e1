//! Waiting for a child without blocking and without SIGCHLD.
#![allow(unsafe_code)]

use std::io;
use std::process::Child;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ends when the child has exited; it remains to be reaped.
pub(super) async fn exited(child: &Child) -> io::Result<()> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    // SAFETY: the descriptor is owned by what registers it, is closed only after it has been
    // deregistered, and nobody else has its number.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    let pidfd = pidfd.map_err(|error| io::Error::other(error.to_string()))?;
    let _readable = pidfd.readable().await?;
    Ok(())
}
