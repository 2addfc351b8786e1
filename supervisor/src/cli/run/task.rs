//! The container's task: created and started, in the foreground or detached.
//!
//! Promise: a task that was created and does not run, or whose exit status is lost, is removed before
//! the error is returned.

use protos::grpc::containerd::services::tasks::v1::{CreateTaskRequest, StartRequest};
use protos::grpc::containerd::types;

use super::arguments::Arguments;
use super::interrupt::{left_behind, unless_interrupted};
use crate::cli::attach::{self, Process};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::signals::Signals;
use crate::cli::stdio::{Fifos, Streams};
use crate::cli::terminal::RawTerminal;
use crate::cli::{container, rm};

/// Runs the task to its end, with this process's standard streams; returns its exit status.
pub(super) async fn foreground(
    client: &Client,
    id: &str,
    rootfs: Vec<types::Mount>,
    arguments: &Arguments,
    signals: &mut Signals,
) -> Result<u32, CliError> {
    let streams = Streams { stdin: arguments.interactive, terminal: arguments.tty };
    let mut fifos = Fifos::make(&client.fifo_directory(), id, streams)?;
    let [stdin, stdout, stderr] = fifos.paths();
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs,
        stdin,
        stdout,
        stderr,
        terminal: arguments.tty,
        ..CreateTaskRequest::default()
    };
    create(client, id, request, signals).await?;
    let process = Process { container: id.to_owned(), exec: String::new() };
    // Waits before the start, so that the exit of a short command is not missed.
    let exit = process.exit(client);
    let raw = if arguments.tty { Some(RawTerminal::enter()) } else { None };
    let outcome = async {
        let _raw = raw.transpose()?;
        let mut copies = fifos.copy()?;
        if let Err(error) = start(client, id, signals).await {
            exit.abandon();
            return Err(error);
        }
        let status = exit.attend(client, &process, &mut copies, signals).await?;
        attach::finish(&mut copies, container::delete_task(client, id)).await?;
        Ok(status)
    }
    .await;
    match outcome {
        Ok(status) => Ok(status),
        Err(error) => Err(remove_after(client, id, error).await),
    }
}

/// Starts a task that runs on without this process.
pub(super) async fn detached(
    client: &Client,
    id: &str,
    rootfs: Vec<types::Mount>,
    arguments: &Arguments,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let log = arguments.log_uri.clone().unwrap_or_default();
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs,
        stdout: log.clone(),
        stderr: log,
        ..CreateTaskRequest::default()
    };
    create(client, id, request, signals).await?;
    match start(client, id, signals).await {
        Ok(()) => Ok(()),
        Err(error) => Err(remove_after(client, id, error).await),
    }
}

/// Creates the task. After an error there is none.
async fn create(
    client: &Client,
    id: &str,
    request: CreateTaskRequest,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let create = async {
        let created = client.tasks().create(request).await;
        created.map(drop).map_err(|status| CliError::call(format!("start container {id}"), status))
    };
    match unless_interrupted(signals, id, create).await {
        // The daemon is still creating it; or it went away, and the next daemon has found it created.
        Err(error) if error.is_undecided() => Err(remove_after(client, id, error).await),
        made => made,
    }
}

async fn start(client: &Client, id: &str, signals: &mut Signals) -> Result<(), CliError> {
    let start = async {
        let request = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        let started = client.tasks().start(request).await;
        started.map(drop).map_err(|status| CliError::call(format!("start container {id}"), status))
    };
    unless_interrupted(signals, id, start).await
}

/// Removes the task after an error, and returns the error.
async fn remove_after(client: &Client, id: &str, error: CliError) -> CliError {
    match rm::end(client, id).await {
        Ok(()) => error,
        Err(also) => left_behind(error, &also.report()),
    }
}
