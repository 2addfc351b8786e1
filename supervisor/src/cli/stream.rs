//! Byte streams and progress beside a transfer, over the streaming service.
//!
//! Owns the client's half of containerd's protocol: a stream is opened by its id and acknowledged,
//! then bytes go out as far as the other side has widened the window.
//! See containerd's docs/transfer.md, streaming.proto.

use std::fs::File;
use std::io::Read as _;

use prost_types::Any;
use protos::any;
use protos::grpc::containerd::services::streaming::v1::StreamInit;
use protos::grpc::containerd::types::transfer::{Data, WindowUpdate};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::Client;
use super::error::CliError;
use super::random_hex;

/// As much as goes into one message, far below what a message may hold.
const PIECE_BYTES: usize = 1 << 20;
const QUEUE: usize = 8;

/// An open stream.
pub(crate) struct Stream {
    pub(crate) id: String,
    outgoing: mpsc::Sender<Any>,
    incoming: Streaming<Any>,
}

impl Stream {
    /// Opens a stream under a fresh id; the daemon knows it when this returns.
    pub(crate) async fn open(client: &Client, purpose: &str) -> Result<Self, CliError> {
        let failed = |status| CliError::call(format!("open stream for {purpose}"), status);
        let id = format!("{purpose}-{}", random_hex(8)?);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        // A channel this new and this deep has room.
        let _ = outgoing.try_send(any::pack(&StreamInit { id: id.clone() }));
        let mut incoming = client
            .streaming()
            .stream(ReceiverStream::new(queue))
            .await
            .map_err(failed)?
            .into_inner();
        incoming.message().await.map_err(failed)?;
        Ok(Self { id, outgoing, incoming })
    }

    /// The next message from the daemon; `None` at the stream's end.
    pub(crate) async fn message(&mut self) -> Result<Option<Any>, Status> {
        self.incoming.message().await
    }

    /// Sends a file as the daemon asks for it. Ends early when the daemon closes the stream: why it
    /// did, the transfer itself says.
    pub(crate) async fn send(mut self, mut file: File, path: &str) -> Result<(), CliError> {
        let mut window = 0_usize;
        loop {
            while window == 0 {
                match self.incoming.message().await {
                    Ok(Some(message)) => window += widened(&message),
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
            let mut piece = vec![0; window.min(PIECE_BYTES)];
            // Files are read in place: the page cache is faster than another thread.
            let n = file
                .read(&mut piece)
                .map_err(|cause| CliError::io(format!("read {path}"), cause))?;
            if n == 0 {
                // Closes our half. The other half must outlive it: dropping that too would cancel
                // the call, and with it what is still under way.
                drop(self.outgoing);
                while let Ok(Some(_)) = self.incoming.message().await {}
                return Ok(());
            }
            piece.truncate(n);
            window -= n;
            if self.outgoing.send(any::pack(&Data { data: piece })).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn widened(message: &Any) -> usize {
    match any::unpack::<WindowUpdate>(message) {
        Some(Ok(update)) => usize::try_from(update.update).unwrap_or(0),
        Some(Err(_)) | None => 0,
    }
}
