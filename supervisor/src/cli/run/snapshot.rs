//! The container's snapshot on the layers of its image.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use protos::grpc::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use protos::grpc::containerd::types;
use tokio::time::timeout;
use tonic::Code;

use super::interrupt::{left_behind, to_its_end};
use crate::cli::client::Client;
use crate::cli::container::{self, SNAPSHOTTER};
use crate::cli::error::CliError;
use crate::cli::resolve::RunImage;
use crate::cli::rm::PATIENCE;
use crate::cli::signals::Signals;
use crate::cli::{unfinished, unpack};

/// Makes the snapshot; returns its mounts, and the signal that arrived meanwhile.
pub(super) async fn make(
    client: &Client,
    id: &str,
    image: &RunImage,
    labels: &HashMap<String, String>,
    signals: &mut Signals,
) -> Result<(Vec<types::Mount>, Option<Signal>), CliError> {
    match to_its_end(signals, id, prepare(client, id, image, labels)).await {
        Err(error) if error.is_undecided() => Err(remove_if_ours(client, id, error).await),
        decided => decided,
    }
}

async fn prepare(
    client: &Client,
    id: &str,
    image: &RunImage,
    labels: &HashMap<String, String>,
) -> Result<Vec<types::Mount>, CliError> {
    let parent = image.layers.last().map(|layer| layer.chain_id.clone()).unwrap_or_default();
    let request = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: id.to_owned(),
        parent,
        labels: labels.clone(),
    };
    let mut answer = client.snapshots().prepare(request.clone()).await;
    if answer.as_ref().is_err_and(|status| status.code() == Code::AlreadyExists)
        && unfinished::reclaim(client, id).await?
    {
        answer = client.snapshots().prepare(request.clone()).await;
    }
    if answer.as_ref().is_err_and(|status| status.code() == Code::NotFound) {
        // Imported by a client that left unpacking to others.
        unpack::unpack(client, image).await?;
        answer = client.snapshots().prepare(request).await;
    }
    match answer {
        Ok(answer) => Ok(answer.into_inner().mounts),
        Err(status) if status.code() == Code::AlreadyExists => {
            Err(CliError::IdInUse { id: id.to_owned() })
        }
        Err(status) => Err(CliError::call(format!("prepare snapshot {id}"), status)),
    }
}

/// After an answer that did not arrive: removes the snapshot, unless a container of this id exists,
/// which may have it. Returns the error.
async fn remove_if_ours(client: &Client, id: &str, error: CliError) -> CliError {
    let remove = async {
        match container::get(client, id).await {
            Err(CliError::NoContainer { .. }) => {
                container::remove_snapshot(client, SNAPSHOTTER, id).await
            }
            other => other.map(drop),
        }
    };
    match timeout(PATIENCE, remove).await {
        Ok(Ok(())) => error,
        Ok(Err(also)) => left_behind(error, &format!("its snapshot may stay: {}", also.report())),
        Err(_) => left_behind(error, "its snapshot may stay: the supervisor does not answer"),
    }
}
