//! Steps on containers that several commands share.

use protos::grpc::containerd::services::containers::v1::{
    Container, DeleteContainerRequest, GetContainerRequest,
};
use protos::grpc::containerd::services::snapshots::v1::RemoveSnapshotRequest;
use tonic::Code;

use super::client::Client;
use super::error::CliError;

/// The snapshotter of containers that this command line makes.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

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

/// Removes a container's record and its snapshot, neither of which need be there.
pub(crate) async fn remove(client: &Client, id: &str, snapshotter: &str) -> Result<(), CliError> {
    let record =
        async { client.containers().delete(DeleteContainerRequest { id: id.to_owned() }).await };
    let (record, snapshot) = tokio::join!(record, remove_snapshot(client, snapshotter, id));
    match record {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("remove container {id}"), status))
        }
        _ => snapshot,
    }
}

/// Removes a snapshot, which need not be there.
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
    match client.snapshots().remove(request).await {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("remove snapshot {key}"), status))
        }
        _ => Ok(()),
    }
}
