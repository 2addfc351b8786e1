//! The snapshots service as a [`Snapshotter`].

use conformance::snapshot::{Info, Kind, Usage};
use conformance::{Labels, Mount, Result, Snapshotter};
use protos::grpc::containerd::services::snapshots::v1 as wire;
use protos::grpc::containerd::types;
use tonic::transport::Channel;
use wire::snapshots_client::SnapshotsClient;

use super::{Daemon, mask, owned, refuse};

/// The snapshotter that both daemons have.
const OVERLAY: &str = "overlayfs";

impl Daemon {
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }
}

fn mounts(sent: Vec<types::Mount>) -> Vec<Mount> {
    sent.into_iter()
        .map(|mount| Mount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

fn known(info: Option<wire::Info>) -> Info {
    let info = info.expect("an answer has what it is about");
    let kind = match wire::Kind::try_from(info.kind) {
        Ok(wire::Kind::View) => Kind::View,
        Ok(wire::Kind::Active) => Kind::Active,
        Ok(wire::Kind::Committed) => Kind::Committed,
        other => panic!("a snapshot has the kind {other:?}"),
    };
    Info { name: info.name, parent: info.parent, kind, labels: info.labels.into_iter().collect() }
}

impl Snapshotter for Daemon {
    async fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let request = wire::PrepareSnapshotRequest {
            snapshotter: OVERLAY.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        let answer = self.snapshots().prepare(self.request(request)).await.map_err(refuse)?;
        Ok(mounts(answer.into_inner().mounts))
    }

    async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = wire::ViewSnapshotRequest {
            snapshotter: OVERLAY.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        let answer = self.snapshots().view(self.request(request)).await.map_err(refuse)?;
        Ok(mounts(answer.into_inner().mounts))
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let request = wire::MountsRequest { snapshotter: OVERLAY.to_owned(), key: key.to_owned() };
        let answer = self.snapshots().mounts(self.request(request)).await.map_err(refuse)?;
        Ok(mounts(answer.into_inner().mounts))
    }

    async fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        let request = wire::CommitSnapshotRequest {
            snapshotter: OVERLAY.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        self.snapshots().commit(self.request(request)).await.map(drop).map_err(refuse)
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        let request =
            wire::StatSnapshotRequest { snapshotter: OVERLAY.to_owned(), key: key.to_owned() };
        let answer = self.snapshots().stat(self.request(request)).await.map_err(refuse)?;
        Ok(known(answer.into_inner().info))
    }

    async fn update(&self, key: &str, labels: &Labels, paths: &[&str]) -> Result<Info> {
        let info = wire::Info {
            name: key.to_owned(),
            labels: labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let request = wire::UpdateSnapshotRequest {
            snapshotter: OVERLAY.to_owned(),
            info: Some(info),
            update_mask: mask(paths),
        };
        let answer = self.snapshots().update(self.request(request)).await.map_err(refuse)?;
        Ok(known(answer.into_inner().info))
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let request =
            wire::RemoveSnapshotRequest { snapshotter: OVERLAY.to_owned(), key: key.to_owned() };
        self.snapshots().remove(self.request(request)).await.map(drop).map_err(refuse)
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Info>> {
        let request =
            wire::ListSnapshotsRequest { snapshotter: OVERLAY.to_owned(), filters: owned(filters) };
        let answers = self.snapshots().list(self.request(request)).await.map_err(refuse)?;
        let (mut answers, mut found) = (answers.into_inner(), Vec::new());
        while let Some(answer) = answers.message().await.map_err(refuse)? {
            found.extend(answer.info.into_iter().map(|info| known(Some(info))));
        }
        Ok(found)
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let request = wire::UsageRequest { snapshotter: OVERLAY.to_owned(), key: key.to_owned() };
        let usage = self.snapshots().usage(self.request(request)).await.map_err(refuse)?;
        let usage = usage.into_inner();
        let unsigned = |value: i64| u64::try_from(value).expect("usage is not negative");
        Ok(Usage { size: unsigned(usage.size), inodes: unsigned(usage.inodes) })
    }
}
