//! `rm`: containers, with their tasks and snapshots.

use nix::sys::signal::Signal;
use protos::grpc::containerd::services::tasks::v1::{DeleteTaskRequest, KillRequest, WaitRequest};
use tonic::Code;

use super::client::Client;
use super::error::CliError;
use super::{Context, container, for_each, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kill them first if they run
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
            stop(client, &id).await?;
        }
        let request = DeleteTaskRequest { container_id: id.clone() };
        match client.tasks().delete(request).await {
            Err(status) if status.code() != Code::NotFound => {
                return Err(CliError::call(format!("remove {id}"), status));
            }
            _ => {}
        }
        if record.snapshot_key != id {
            container::remove_snapshot(client, &record.snapshotter, &record.snapshot_key).await?;
        }
        container::remove(client, &id, &record.snapshotter).await?;
        say(id);
        Ok(())
    })
    .await
}

/// Kills a task, if there is one, and waits until it has exited.
pub(crate) async fn stop(client: &Client, id: &str) -> Result<(), CliError> {
    let request = KillRequest {
        container_id: id.to_owned(),
        exec_id: String::new(),
        signal: Signal::SIGKILL as u32,
        all: true,
    };
    match client.tasks().kill(request).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => return Ok(()),
        Err(status) => return Err(CliError::call(format!("kill {id}"), status)),
    }
    let request = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
    match client.tasks().wait(request).await {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("wait for {id}"), status))
        }
        _ => Ok(()),
    }
}
