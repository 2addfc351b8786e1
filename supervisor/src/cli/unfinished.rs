//! Removes what a killed `run` left, when another `run` is to use the same id.

use std::collections::HashMap;

use protos::grpc::containerd::services::snapshots::v1::StatSnapshotRequest;
use protos::grpc::containerd::services::tasks::v1::GetRequest;
use protos::grpc::containerd::v1::types::Status;
use tonic::Code;

use super::client::Client;
use super::container::{self, SNAPSHOTTER};
use super::error::CliError;
use super::rm;
use crate::creator::{self, Creator, Fate};

/// The labels of the snapshot and record that this process makes. With `goes_too` they are removed
/// when this process is gone, also after the container's start.
pub(crate) fn labels(goes_too: bool) -> Result<HashMap<String, String>, CliError> {
    let creator =
        Creator::this_process().map_err(|cause| CliError::io("read /proc/self", cause))?;
    let mut labels = HashMap::from([(creator::LABEL.to_owned(), creator.to_string())]);
    if goes_too {
        labels.insert(creator::GOES_TOO.to_owned(), String::new());
    }
    Ok(labels)
}

/// Removes the snapshot, record and task of `id` if a `run` that is gone made them and did not start
/// the task. Returns whether the id is free now.
pub(crate) async fn reclaim(client: &Client, id: &str) -> Result<bool, CliError> {
    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
    match client.snapshots().stat(request).await {
        Ok(answer) => {
            // `prepare` alone sets a snapshot's labels; those of a record may come from an image.
            if !is_left(&answer.into_inner().info.unwrap_or_default().labels) {
                return Ok(false);
            }
        }
        // Removed since `prepare` found it.
        Err(status) if status.code() == Code::NotFound => return Ok(true),
        Err(status) => return Err(CliError::call(format!("look at snapshot {id}"), status)),
    }
    match container::get(client, id).await {
        Err(CliError::NoContainer { .. }) => {}
        Err(other) => return Err(other),
        Ok(record) if !is_left(&record.labels) => return Ok(false),
        Ok(_) => {
            let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
            match client.tasks().get(request).await {
                Err(status) if status.code() == Code::NotFound => {
                    // Get does not show a task that is still being created, but Delete ends it.
                    rm::end(client, id).await?;
                }
                Err(status) => return Err(CliError::call(format!("look at task {id}"), status)),
                Ok(answer) => {
                    let process = answer.into_inner().process.unwrap_or_default();
                    if process.status() != Status::Created {
                        return Ok(false);
                    }
                    rm::stop(client, id).await?;
                    container::delete_task(client, id).await?;
                }
            }
        }
    }
    container::remove(client, id, SNAPSHOTTER).await?;
    Ok(true)
}

fn is_left(labels: &HashMap<String, String>) -> bool {
    let creator = labels.get(creator::LABEL).and_then(|text| Creator::parse(text));
    creator.is_some_and(|creator| matches!(creator.fate(), Ok(Fate::Gone)))
}
