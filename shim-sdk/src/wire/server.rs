//! The ttrpc server: its services and its connections.

use std::collections::HashMap;
use std::sync::Arc;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use super::connection::{self, Services};
use super::method::Jobs;
use super::task;
use crate::{Capabilities, Runtime};

/// The names of the task service. Both have the same handlers.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// Services that a daemon may call and that do not exist here. They are registered without methods,
/// so calls get UNIMPLEMENTED; for an unregistered service it would be INVALID_ARGUMENT.
const ABSENT: [&str; 4] = [
    "containerd.runtime.sandbox.v1.Sandbox",
    "containerd.services.streaming.v1.TTRPCStreaming",
    "containerd.services.streaming.v1.Streaming",
    "containerd.services.transfer.v1.Transfer",
];

/// A server. It accepts connections until it is dropped. Open connections continue until their
/// clients close them.
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
