//! The socket on which shims deliver their events.
//!
//! Its path is the same as long as the state directory is: shims that outlive this daemon find the
//! next one there. Connections to it do not count as clients.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use prost_types::Any;
use protos::ttrpc::api::ForwardRequest;
use protos::ttrpc::protobuf::well_known_types::empty::Empty;
use protos::ttrpc::shim_async::{Events, create_events};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::asynchronous::transport::Listener;

use super::table::Tasks;
use crate::error::DaemonError;
use crate::events::Event;

struct Intake {
    tasks: Tasks,
}

/// Begins to take events; they stop when the server that is returned is dropped or shut down.
pub(crate) async fn listen(
    listener: std::os::unix::net::UnixListener,
    address: &Path,
    tasks: Tasks,
) -> Result<Server, DaemonError> {
    let failed =
        |cause| DaemonError::File { what: "listen for events on", path: address.to_owned(), cause };
    let listener = Listener::try_from(listener).map_err(failed)?;
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(create_events(Arc::new(Intake { tasks })));
    server.start().await.map_err(|error| failed(std::io::Error::other(error)))?;
    Ok(server)
}

#[tonic::async_trait]
impl Events for Intake {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let refused = |message: String| {
            ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, message))
        };
        let Some(envelope) = request.envelope.into_option() else {
            return Err(refused("no envelope".to_owned()));
        };
        let event = envelope.event.into_option().unwrap_or_default();
        let event = Event {
            timestamp: super::driver::time(envelope.timestamp.as_ref())
                .unwrap_or_else(SystemTime::now),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: Any { type_url: event.type_url, value: event.value },
        };
        self.tasks.deliver(event).map_err(|error| refused(error.to_string()))?;
        Ok(Empty::new())
    }
}
