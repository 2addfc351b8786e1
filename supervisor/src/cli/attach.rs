//! A process in the foreground, from its start to its exit status.
//!
//! Promise: the status is returned only when all output has been written. A daemon that dies
//! meanwhile is started again; it gets the status from the shim, which keeps it.

use std::convert::Infallible;
use std::time::Duration;

use protos::grpc::containerd::services::tasks::v1::WaitRequest;
use tokio::time::{sleep, timeout};

use super::client::Client;
use super::error::{CliError, unless_absent};
use super::signals::Signals;
use super::stdio::Copies;
use crate::daemon::went_away;
use protos::grpc::containerd::services::tasks::v1::CloseIoRequest;

/// How long to wait for output after the shim has closed the streams.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// How many times a wait is sent again to a daemon that went away.
const RETRIES: u32 = 5;

/// A process of a container: its init, or an exec.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) container: String,
    /// Empty for init.
    pub(crate) exec: String,
}

/// A wait that was sent before the process was started.
pub(crate) struct Exit(tokio::task::JoinHandle<Result<u32, CliError>>);

impl Process {
    /// Sends the wait for the exit.
    pub(crate) fn exit(&self, client: &Client) -> Exit {
        let (process, client) = (self.clone(), client.clone());
        Exit(tokio::spawn(async move { process.wait(client).await }))
    }

    async fn wait(&self, mut client: Client) -> Result<u32, CliError> {
        let failed =
            |status| CliError::call(format!("wait for container {}", self.container), status);
        let mut left = RETRIES;
        loop {
            let request =
                WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
            match client.tasks().wait(request).await {
                Ok(answer) => return Ok(answer.into_inner().exit_status),
                Err(status) if went_away(&status) && left > 0 => {
                    log::debug!("the daemon is gone ({status}); starting it again");
                    left -= 1;
                    sleep(Duration::from_millis(50)).await;
                    client = client.reconnect().await?;
                }
                Err(status) => return Err(failed(status)),
            }
        }
    }

    /// Tells the shim that standard input has ended.
    async fn close_stdin(&self, client: &Client) {
        let request = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
        };
        let closed = client.tasks().close_io(request).await;
        if let Err(error) = unless_absent(closed, || "close standard input".to_owned()) {
            log::warn!("{}", error.report());
        }
    }
}

impl Exit {
    /// Passes the end of standard input, signals and sizes to a started process until it exits.
    pub(crate) async fn attend(
        mut self,
        client: &Client,
        process: &Process,
        copies: &mut Copies,
        signals: &mut Signals,
    ) -> Result<u32, CliError> {
        let stdin = copies.stdin.take();
        let close = async {
            if let Some(end) = stdin {
                let _ = end.await;
                process.close_stdin(client).await;
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            status = &mut self.0 => status.map_err(|cause| CliError::WaitLost {
                id: process.container.clone(),
                cause,
            })?,
            never = signals.forward(client, &process.container, &process.exec) => match never {},
            never = close => match never {},
        }
    }

    /// Gives up the wait, because the process was not started.
    pub(crate) fn abandon(self) {
        self.0.abort();
    }
}

/// Deletes the process, which closes its streams, and waits until their output has been written.
pub(crate) async fn finish<T>(
    copies: &mut Copies,
    delete: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut ended = false;
    let deleted = {
        let output = copies.outputs_end();
        tokio::pin!(output);
        tokio::pin!(delete);
        loop {
            tokio::select! {
                biased;
                () = &mut output, if !ended => ended = true,
                deleted = &mut delete => break deleted,
            }
        }
    };
    if !ended && timeout(LAST_OUTPUT, copies.outputs_end()).await.is_err() {
        log::warn!("output did not end within {} s", LAST_OUTPUT.as_secs());
    }
    deleted
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn output_that_does_not_end_delays_the_exit_by_two_seconds() {
        let (_open, output) = oneshot::channel();
        let mut copies = Copies::of(vec![output]);
        let begin = Instant::now();
        finish(&mut copies, async { Ok(()) }).await.unwrap();
        assert_eq!(begin.elapsed(), LAST_OUTPUT);
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_ends_during_the_deletion_is_not_waited_for_again() {
        let (open, output) = oneshot::channel();
        let mut copies = Copies::of(vec![output]);
        let begin = Instant::now();
        let delete = async {
            open.send(()).unwrap();
            sleep(Duration::from_millis(1)).await;
            Ok(7)
        };
        assert_eq!(finish(&mut copies, delete).await.unwrap(), 7);
        assert_eq!(begin.elapsed(), Duration::from_millis(1));
    }
}
