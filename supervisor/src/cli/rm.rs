//! `rm`: removes containers with their tasks and snapshots.
//!
//! Promise: an id that is printed was removed, with its processes and mounts. Each step of a removal
//! ends within [`PATIENCE`], or the error says what stays.

use std::future::Future;
use std::time::Duration;

use nix::sys::signal::Signal;
use protos::grpc::containerd::services::tasks::v1::{
    DeleteTaskRequest, GetRequest, KillRequest, WaitRequest,
};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::client::Client;
use super::error::{CliError, unless_absent};
use super::{Context, container, for_each, say};
use crate::daemon::Idempotent;

/// How long each step of a removal may take. It is longer than the 10 s that the daemon waits for a shim
/// before it cleans up without it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kill containers that run
    #[arg(short, long)]
    force: bool,
    /// Ids of containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = &context.client().await?;
    let force = arguments.force;
    for_each(&arguments.ids, |id| async move {
        let record = container::get(client, &id).await?;
        if force {
            end(client, &id).await?;
        } else {
            delete(client, &id).await?;
        }
        let snapshots = async {
            if record.snapshot_key != id {
                let (snapshotter, key) = (&record.snapshotter, &record.snapshot_key);
                container::remove_snapshot(client, snapshotter, key).await?;
            }
            container::remove(client, &id, &record.snapshotter).await
        };
        within(&id, "its snapshot and record", snapshots).await?;
        say(id);
        Ok(())
    })
    .await
}

/// Kills and deletes a task in any state. It need not exist.
pub(crate) async fn end(client: &Client, id: &str) -> Result<(), CliError> {
    stop(client, id).await?;
    delete(client, id).await
}

/// Does a step of a removal within [`PATIENCE`]. `what` stays after that time.
async fn within<T>(
    id: &str,
    what: &str,
    step: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        let left = format!("{what} stayed after a wait of {seconds} s for the supervisor");
        Err(CliError::Stays { id: id.to_owned(), left })
    })
}

/// Kills a task, if it exists, and waits until it has exited.
pub(super) async fn stop(client: &Client, id: &str) -> Result<(), CliError> {
    let kill = async {
        let mut request = Request::new(KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: Signal::SIGKILL as u32,
            all: true,
        });
        // A second SIGKILL changes nothing, so the call may be sent again.
        request.extensions_mut().insert(Idempotent);
        match client.tasks().kill(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(CliError::call(format!("kill {id}"), status)),
        }
    };
    let process = process(client, id).await;
    if !within(id, &process, kill).await? {
        return Ok(());
    }
    let wait = async {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        unless_absent(client.tasks().wait(request).await, || format!("wait for {id}"))
    };
    within(id, &process, wait).await
}

/// Deletes a task. One that is still being created is ended.
async fn delete(client: &Client, id: &str) -> Result<(), CliError> {
    let delete = async {
        let request = DeleteTaskRequest { container_id: id.to_owned() };
        unless_absent(client.tasks().delete(request).await, || format!("remove {id}"))
    };
    within(id, "its task, with its mounts and bundle,", delete).await
}

/// The process of a task, as messages name it.
async fn process(client: &Client, id: &str) -> String {
    let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let answer = timeout(PATIENCE, client.tasks().get(request)).await;
    let process = answer.ok().and_then(Result::ok).and_then(|answer| answer.into_inner().process);
    match process {
        Some(process) if process.pid > 0 => format!("its process {}", process.pid),
        Some(_) | None => "its process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_does_not_end_says_what_stays() {
        let never = std::future::pending::<Result<(), CliError>>();
        let error = within("c", "its task", never).await.unwrap_err();
        assert!(matches!(error, CliError::Stays { .. }));
        assert!(error.report().contains("container c is not removed: its task stayed"), "{error}");
    }
}
