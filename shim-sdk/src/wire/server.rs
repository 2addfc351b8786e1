//! The ttrpc server: which services there are, and who connects.

use std::collections::HashMap;
use std::sync::Arc;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use super::connection::{self, Services};
use super::method::Jobs;
use super::task;
use crate::{Capabilities, Runtime};

/// The task service's names; both are served by the same handlers.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// Services that a daemon may ask for and that are not offered. Registered without methods they
/// answer UNIMPLEMENTED; a service that is not known at all would answer INVALID_ARGUMENT.
const ABSENT: [&str; 4] = [
    "containerd.runtime.sandbox.v1.Sandbox",
    "containerd.services.streaming.v1.TTRPCStreaming",
    "containerd.services.streaming.v1.Streaming",
    "containerd.services.transfer.v1.Transfer",
];

/// A server that accepts connections until it is dropped. Connections go on until their clients go.
pub(crate) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts serving on a listener. Must be called within the event loop.
pub(crate) fn serve<R: Runtime>(
    mut listener: Listener,
    jobs: &Jobs<R>,
    capabilities: Capabilities,
) -> Server {
    let mut services = Services::new();
    for name in TASK {
        services.insert(name, task::methods(jobs, capabilities));
    }
    for name in ABSENT {
        services.insert(name, HashMap::new());
    }
    let services = Arc::new(services);
    Server(tokio::spawn(async move {
        while let Some(accepted) = listener.next().await {
            match accepted {
                Ok(socket) => {
                    tokio::spawn(connection::serve(socket, Arc::clone(&services)));
                }
                Err(cause) => log::warn!("accept: {cause}"),
            }
        }
    }))
}
