//! The ttrpc server: which services there are, and who may connect.

use std::collections::HashMap;
use std::time::Duration;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;
use protos::ttrpc::ttrpc::asynchronous::{Server, Service};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

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

/// How long to wait when no connection can be accepted, say for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts serving on a listener.
pub(crate) async fn serve<R: Runtime>(
    listener: UnixListener,
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
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(accept(listener, accepted));
    let listener = Listener::new(ReceiverStream::new(connections));
    let mut server = Server::new().register_service(services).add_listener(listener);
    server
        .start()
        .await
        .map_err(|cause| Error::new(Kind::Internal, "start the ttrpc server").with_source(cause))?;
    Ok(server)
}

/// Accepts connections of this user, as long as the server takes them.
async fn accept(listener: UnixListener, accepted: mpsc::Sender<std::io::Result<UnixStream>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The socket's mode keeps others out; this holds when the mode was changed.
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == nix::unistd::geteuid().as_raw() => {}
                    Ok(peer) => {
                        log::warn!("refused a connection of user {}", peer.uid());
                        continue;
                    }
                    Err(cause) => {
                        log::warn!("refused a connection of unknown origin: {cause}");
                        continue;
                    }
                }
                if accepted.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
            Err(cause) => {
                log::warn!("accept: {cause}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
