//! The ttrpc server: which services there are.

use std::collections::HashMap;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;
use protos::ttrpc::ttrpc::asynchronous::{Server, Service};

use super::method::Jobs;
use super::task;
use crate::{Capabilities, Error, Kind, Result, Runtime};

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

/// Starts serving on a listener.
pub(crate) async fn serve<R: Runtime>(
    listener: Listener,
    jobs: &Jobs<R>,
    capabilities: Capabilities,
) -> Result<Server> {
    let mut services = HashMap::new();
    for name in TASK {
        let methods = task::methods(jobs, capabilities);
        services.insert(name.to_owned(), Service { methods, streams: HashMap::new() });
    }
    for name in ABSENT {
        let nothing = Service { methods: HashMap::new(), streams: HashMap::new() };
        services.insert(name.to_owned(), nothing);
    }
    let mut server = Server::new().register_service(services).add_listener(listener);
    server
        .start()
        .await
        .map_err(|cause| Error::new(Kind::Internal, "start the ttrpc server").with_source(cause))?;
    Ok(server)
}
