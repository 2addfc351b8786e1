//! The content service as a [`ContentStore`].

use conformance::content::{ContentStore, Info};
use conformance::{Kind, Labels, Refused, Result};
use protos::grpc::containerd::services::content::v1 as wire;
use tonic::transport::Channel;
use wire::content_client::ContentClient;

use super::{Daemon, mask, owned, refuse};

fn known(info: Option<wire::Info>) -> Info {
    let info = info.expect("an answer has what it is about");
    let size = u64::try_from(info.size).expect("a size is not negative");
    Info { digest: info.digest, size, labels: info.labels.into_iter().collect() }
}

impl Daemon {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    /// One message to an ingest, after a first one that asks for its size. The answer to the second.
    async fn tell(
        &self,
        reference: &str,
        then: wire::WriteContentRequest,
    ) -> Result<wire::WriteContentResponse> {
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        let stat = wire::WriteContentRequest {
            action: wire::WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            ..Default::default()
        };
        sender.send(stat).await.expect("the stream is open");
        let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
        let answers = self.content().write(self.request(stream)).await.map_err(refuse)?;
        let mut answers = answers.into_inner();
        let ended = || Refused { kind: Kind::Unknown, text: "the answers ended".to_owned() };
        let stat = answers.message().await.map_err(refuse)?.ok_or_else(ended)?;
        let then =
            wire::WriteContentRequest { r#ref: reference.to_owned(), offset: stat.offset, ..then };
        sender.send(then).await.map_err(|_| ended())?;
        let answer = answers.message().await.map_err(refuse)?.ok_or_else(ended)?;
        drop(sender);
        // The daemon lets go of the ingest before it ends its answers.
        while answers.message().await.map_err(refuse)?.is_some() {}
        Ok(answer)
    }
}

impl ContentStore for Daemon {
    async fn append(&self, reference: &str, bytes: &[u8]) -> Result<u64> {
        let then = wire::WriteContentRequest {
            action: wire::WriteAction::Write.into(),
            data: bytes.to_vec(),
            ..Default::default()
        };
        let answer = self.tell(reference, then).await?;
        Ok(u64::try_from(answer.offset).expect("an offset is not negative"))
    }

    async fn commit(
        &self,
        reference: &str,
        size: u64,
        digest: &str,
        labels: &Labels,
    ) -> Result<String> {
        let then = wire::WriteContentRequest {
            action: wire::WriteAction::Commit.into(),
            total: i64::try_from(size).expect("a small size"),
            expected: digest.to_owned(),
            labels: labels.clone().into_iter().collect(),
            ..Default::default()
        };
        Ok(self.tell(reference, then).await?.digest)
    }

    async fn status(&self, reference: &str) -> Result<u64> {
        let request = self.request(wire::StatusRequest { r#ref: reference.to_owned() });
        let answer = self.content().status(request).await.map_err(refuse)?.into_inner();
        let status = answer.status.expect("an answer has a status");
        Ok(u64::try_from(status.offset).expect("an offset is not negative"))
    }

    async fn statuses(&self, filters: &[&str]) -> Result<Vec<String>> {
        let request = self.request(wire::ListStatusesRequest { filters: owned(filters) });
        let answer = self.content().list_statuses(request).await.map_err(refuse)?.into_inner();
        Ok(answer.statuses.into_iter().map(|status| status.r#ref).collect())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let request = self.request(wire::AbortRequest { r#ref: reference.to_owned() });
        self.content().abort(request).await.map(drop).map_err(refuse)
    }

    async fn info(&self, digest: &str) -> Result<Info> {
        let request = self.request(wire::InfoRequest { digest: digest.to_owned() });
        let answer = self.content().info(request).await.map_err(refuse)?;
        Ok(known(answer.into_inner().info))
    }

    async fn update(&self, digest: &str, labels: &Labels, paths: &[&str]) -> Result<Info> {
        let info = wire::Info {
            digest: digest.to_owned(),
            labels: labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let request = wire::UpdateRequest { info: Some(info), update_mask: mask(paths) };
        let answer = self.content().update(self.request(request)).await.map_err(refuse)?;
        Ok(known(answer.into_inner().info))
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<String>> {
        let request = self.request(wire::ListContentRequest { filters: owned(filters) });
        let mut answers = self.content().list(request).await.map_err(refuse)?.into_inner();
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await.map_err(refuse)? {
            found.extend(answer.info.into_iter().map(|info| info.digest));
        }
        Ok(found)
    }

    async fn read(&self, digest: &str, offset: u64, size: u64) -> Result<Vec<u8>> {
        let request = wire::ReadContentRequest {
            digest: digest.to_owned(),
            offset: i64::try_from(offset).expect("a small offset"),
            size: i64::try_from(size).expect("a small size"),
        };
        let answers = self.content().read(self.request(request)).await.map_err(refuse)?;
        let (mut answers, mut bytes) = (answers.into_inner(), Vec::new());
        while let Some(answer) = answers.message().await.map_err(refuse)? {
            bytes.extend(answer.data);
        }
        Ok(bytes)
    }

    async fn delete(&self, digest: &str) -> Result<()> {
        let request = self.request(wire::DeleteContentRequest { digest: digest.to_owned() });
        self.content().delete(request).await.map(drop).map_err(refuse)
    }
}
