//! The exit of one process, to come.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::Exit;

/// What is reported of a process whose status cannot be had: the kernel told it to another parent,
/// say.
pub(crate) const UNKNOWN_STATUS: u32 = 255;

/// The exit of one process, to come; the same again once it is known.
///
/// # Cancel safety
///
/// Dropping it loses the exit to this watcher only; the process is reaped all the same.
#[derive(Debug)]
pub(crate) struct ExitWatch(Result<oneshot::Receiver<Exit>, Exit>);

impl ExitWatch {
    /// An exit that somebody will send.
    pub(crate) fn pending(receiver: oneshot::Receiver<Exit>) -> Self {
        Self(Ok(receiver))
    }

    /// An exit that is known.
    pub(crate) fn known(exit: Exit) -> Self {
        Self(Err(exit))
    }
}

impl Future for ExitWatch {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Exit> {
        let exit = match &mut self.0 {
            Err(exit) => return Poll::Ready(*exit),
            Ok(receiver) => match Pin::new(receiver).poll(context) {
                Poll::Pending => return Poll::Pending,
                // Dropped unsent by whoever could not wait for it, or at a shutdown.
                Poll::Ready(received) => received.unwrap_or_else(|_| Exit::now(UNKNOWN_STATUS)),
            },
        };
        self.0 = Err(exit);
        Poll::Ready(exit)
    }
}
