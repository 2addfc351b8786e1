//! `ps`: lists containers with the state of their tasks.

use std::collections::HashMap;

use protos::grpc::containerd::services::containers::v1::ListContainersRequest;
use protos::grpc::containerd::services::tasks::v1::ListTasksRequest;
use protos::grpc::containerd::v1::types::{Process, Status};

use super::error::CliError;
use super::{Context, say, table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show containers that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = context.client().await?;
    let (mut containers_client, mut tasks_client) = (client.containers(), client.tasks());
    let (containers, tasks) = tokio::join!(
        containers_client.list(ListContainersRequest::default()),
        tasks_client.list(ListTasksRequest::default()),
    );
    let failed = |status| CliError::call("list containers", status);
    let mut containers = containers.map_err(failed)?.into_inner().containers;
    let tasks: HashMap<String, Process> = tasks
        .map_err(failed)?
        .into_inner()
        .tasks
        .into_iter()
        .map(|task| {
            (if task.container_id.is_empty() { &task.id } else { &task.container_id }.clone(), task)
        })
        .collect();
    containers.sort_by(|a, b| a.id.cmp(&b.id));
    let mut rows = Vec::new();
    for container in containers {
        let task = tasks.get(&container.id);
        let runs = task.is_some_and(|task| {
            matches!(task.status(), Status::Running | Status::Paused | Status::Pausing)
        });
        if !runs && !arguments.all {
            continue;
        }
        if arguments.quiet {
            say(&container.id);
            continue;
        }
        rows.push(vec![
            container.id,
            container.image,
            container.runtime.map(|runtime| runtime.name).unwrap_or_default(),
            status(task),
            task.filter(|_| runs).map(|task| task.pid.to_string()).unwrap_or_default(),
            table::moment(container.created_at.as_ref()),
        ]);
    }
    if !arguments.quiet {
        table::print(&["ID", "IMAGE", "RUNTIME", "STATUS", "PID", "CREATED"], &rows);
    }
    Ok(0)
}

fn status(task: Option<&Process>) -> String {
    let Some(task) = task else { return "no task".to_owned() };
    match task.status() {
        Status::Unknown => "unknown".to_owned(),
        Status::Created => "created".to_owned(),
        Status::Running => "running".to_owned(),
        Status::Stopped => format!("exited ({})", task.exit_status),
        Status::Paused => "paused".to_owned(),
        Status::Pausing => "pausing".to_owned(),
    }
}
