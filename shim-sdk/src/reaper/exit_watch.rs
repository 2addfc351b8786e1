//! A future for the exit of one process.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::Exit;

/// The status that is reported if the real one is unknown, for example because another parent
/// reaped the process.
pub(crate) const UNKNOWN_STATUS: u32 = 255;

/// A future for the exit of one process. Polled again, it returns the same exit.
///
/// # Cancel safety
///
/// It may be dropped. The process is still reaped, and other watchers still get the exit.
#[derive(Debug)]
pub(crate) struct ExitWatch(Result<oneshot::Receiver<Exit>, Exit>);

impl ExitWatch {
    /// An exit that the reaper will send.
    pub(crate) fn pending(receiver: oneshot::Receiver<Exit>) -> Self {
        Self(Ok(receiver))
    }

    /// An exit that is already known.
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
                // The sender was dropped: waiting failed, or the event loop shuts down.
                Poll::Ready(received) => received.unwrap_or_else(|_| Exit::now(UNKNOWN_STATUS)),
            },
        };
        self.0 = Err(exit);
        Poll::Ready(exit)
    }
}
