//! Streams of bytes and of progress for a transfer, by the Streaming service.
//!
//! This is the client's half of containerd's protocol: the client opens a stream by its id, the server
//! acknowledges it, then bytes are sent as far as the server's window updates allow.
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

/// The bytes in one message; far below the limit of a message.
const PIECE_BYTES: usize = 1 << 20;
const QUEUE: usize = 8;

/// An open stream.
pub(crate) struct Stream {
    pub(crate) id: String,
    outgoing: mpsc::Sender<Any>,
    incoming: Streaming<Any>,
}

impl Stream {
    /// Opens a stream with a new id. The daemon knows it when this returns.
    pub(crate) async fn open(client: &Client, purpose: &str) -> Result<Self, CliError> {
        let failed = |status| CliError::call(format!("open stream for {purpose}"), status);
        let id = format!("{purpose}-{}", random_hex(8)?);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        // Cannot fail: the channel is empty.
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

    /// Sends a file as the daemon's window allows. Ends early when the daemon closes the stream; the
    /// result of the transfer says why.
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
            // A blocking read: the page cache is faster than another thread.
            let n = file
                .read(&mut piece)
                .map_err(|cause| CliError::io(format!("read {path}"), cause))?;
            if n == 0 {
                // Closes the sending half. The receiving half must stay open: its drop would cancel
                // the call, and data that is not yet delivered with it.
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
