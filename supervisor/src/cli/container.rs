//! Calls about containers that several commands make.

use protos::grpc::containerd::services::containers::v1::{
    Container, DeleteContainerRequest, GetContainerRequest,
};
use protos::grpc::containerd::services::snapshots::v1::RemoveSnapshotRequest;
use protos::grpc::containerd::services::tasks::v1::DeleteTaskRequest;
use tonic::Code;

use super::client::Client;
use super::error::{CliError, unless_absent};

/// The snapshotter of containers that this command line makes.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";
/// The label with the signal that an image's config asks for as STOPSIGNAL; containerd's.
pub(crate) const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

/// A container's record.
pub(crate) async fn get(client: &Client, id: &str) -> Result<Container, CliError> {
    let answer = client.containers().get(GetContainerRequest { id: id.to_owned() }).await;
    match answer {
        Ok(answer) => {
            answer.into_inner().container.ok_or_else(|| CliError::NoContainer { id: id.to_owned() })
        }
        Err(status) if status.code() == Code::NotFound => {
            Err(CliError::NoContainer { id: id.to_owned() })
        }
        Err(status) => Err(CliError::call(format!("container {id}"), status)),
    }
}

/// Removes a container's record and its snapshot. Neither need exist.
pub(crate) async fn remove(client: &Client, id: &str, snapshotter: &str) -> Result<(), CliError> {
    let record =
        async { client.containers().delete(DeleteContainerRequest { id: id.to_owned() }).await };
    let (record, snapshot) = tokio::join!(record, remove_snapshot(client, snapshotter, id));
    unless_absent(record, || format!("remove container {id}"))?;
    snapshot
}

/// Removes a snapshot. It need not exist.
pub(crate) async fn remove_snapshot(
    client: &Client,
    snapshotter: &str,
    key: &str,
) -> Result<(), CliError> {
    if key.is_empty() || snapshotter.is_empty() {
        return Ok(());
    }
    let request =
        RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let removed = client.snapshots().remove(request).await;
    unless_absent(removed, || format!("remove snapshot {key}"))
}

/// Deletes a task that does not run. It need not exist.
pub(crate) async fn delete_task(client: &Client, id: &str) -> Result<(), CliError> {
    let request = DeleteTaskRequest { container_id: id.to_owned() };
    unless_absent(client.tasks().delete(request).await, || format!("delete task {id}"))
}
