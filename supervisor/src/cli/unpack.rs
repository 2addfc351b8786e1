//! Unpacks the layers of an image that has no snapshots, as containerd's clients do.

use std::collections::HashMap;

use protos::grpc::containerd::services::diff::v1::ApplyRequest;
use protos::grpc::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest,
};
use tonic::Code;

use super::client::Client;
use super::container::{self, SNAPSHOTTER};
use super::error::CliError;
use super::random_hex;
use super::resolve::{Layer, RunImage};

/// Makes the snapshots of an image's layers that do not exist.
pub(crate) async fn unpack(client: &Client, image: &RunImage) -> Result<(), CliError> {
    let mut parent = String::new();
    for layer in &image.layers {
        let request = StatSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: layer.chain_id.clone(),
        };
        match client.snapshots().stat(request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {
                let key = format!("extract-{} {}", random_hex(8)?, layer.chain_id);
                if let Err(error) = unpack_layer(client, image, layer, &parent, &key).await {
                    if let Err(also) = container::remove_snapshot(client, SNAPSHOTTER, &key).await {
                        log::warn!("clean up: {}", also.report());
                    }
                    return Err(error);
                }
            }
            Err(status) => return Err(failed(image, layer, status)),
        }
        parent.clone_from(&layer.chain_id);
    }
    Ok(())
}

async fn unpack_layer(
    client: &Client,
    image: &RunImage,
    layer: &Layer,
    parent: &str,
    key: &str,
) -> Result<(), CliError> {
    let failed = |status| failed(image, layer, status);
    let prepare = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: HashMap::new(),
    };
    let mounts = client.snapshots().prepare(prepare).await.map_err(failed)?.into_inner().mounts;
    let apply = ApplyRequest {
        diff: Some(layer.blob.clone()),
        mounts,
        sync_fs: true,
        ..ApplyRequest::default()
    };
    client.diff().apply(apply).await.map_err(failed)?;
    let commit = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: layer.chain_id.clone(),
        key: key.to_owned(),
        labels: HashMap::new(),
    };
    match client.snapshots().commit(commit).await {
        // Another client has committed it first. Remove this one.
        Err(status) if status.code() == Code::AlreadyExists => {
            container::remove_snapshot(client, SNAPSHOTTER, key).await
        }
        outcome => outcome.map(drop).map_err(failed),
    }
}

fn failed(image: &RunImage, layer: &Layer, status: tonic::Status) -> CliError {
    CliError::call(format!("image {}: unpack layer {}", image.name, layer.blob.digest), status)
}
