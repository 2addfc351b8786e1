//! Named pipes for ttrpc. The default access applies: the owner and administrators may connect,
//! clients on other machines may not.

use protos::ttrpc::ttrpc::asynchronous::transport::{Listener, Socket};

use crate::{Error, Result};

/// Accepts connections to a named pipe, which must not exist yet. Must be called within the event
/// loop.
pub(crate) fn listen(pipe: &str) -> std::io::Result<Listener> {
    Listener::bind_named_pipe(pipe)
}

/// Connects to the daemon's events service.
pub(crate) async fn dial(events_address: &str) -> Result<Socket> {
    let pipe = events_address.strip_prefix("npipe://").unwrap_or(events_address);
    let pipe = pipe.replace('/', r"\");
    let connected = Socket::connect_named_pipe(&pipe).await;
    connected.map_err(|cause| Error::io(format!("connect to {events_address}"), cause))
}
