//! Unix sockets for ttrpc: accepts connections of this user, and connects to the daemon.

use std::time::Duration;

use protos::ttrpc::ttrpc::asynchronous::transport::{Listener, Socket};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Error, Result, address};

/// The pause after an error of accept(2), such as too many open descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of a listener. Must be called within the event loop.
pub(crate) fn listen(listener: std::os::unix::net::UnixListener) -> std::io::Result<Listener> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(accept(listener, accepted));
    Ok(Listener::new(ReceiverStream::new(connections)))
}

/// Connects to the daemon's events service.
pub(crate) async fn dial(events_address: &str) -> Result<Socket> {
    let path = address::unix_path(events_address).ok_or_else(|| {
        Error::invalid(format!("events address {events_address} is no unix socket"))
    })?;
    let stream = UnixStream::connect(path).await;
    let stream =
        stream.map_err(|cause| Error::io(format!("connect to {events_address}"), cause))?;
    Ok(Socket::from(stream))
}

/// Accepts connections of this user until the server is dropped.
async fn accept(listener: UnixListener, accepted: mpsc::Sender<std::io::Result<UnixStream>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The socket's mode excludes other users; this check works also if it was changed.
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
