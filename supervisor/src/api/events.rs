//! containerd.services.events.v1.Events.

use std::time::SystemTime;

use protos::grpc::containerd::services::events::v1 as wire;
use protos::grpc::containerd::types;
use tokio_stream::Stream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::event_message::{accepts, message};
use crate::events::{Bus, Envelope, Event, Subscription};
use crate::metadata::filter::Filters;

/// containerd.services.events.v1.Events over the bus.
pub(crate) struct Events {
    bus: Bus,
}

impl Events {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus }
    }
}

#[tonic::async_trait]
impl wire::events_server::Events for Events {
    async fn publish(
        &self,
        request: Request<wire::PublishRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request)?;
        let wire::PublishRequest { topic, event } = request.into_inner();
        let event = Event::Forwarded { topic, message: event.unwrap_or_default().into() };
        let (timestamp, namespace) = (SystemTime::now(), namespace.as_str().to_owned());
        forward(&self.bus, Envelope { timestamp, namespace, event })
    }

    async fn forward(
        &self,
        request: Request<wire::ForwardRequest>,
    ) -> Result<Response<()>, Status> {
        let envelope = request.into_inner().envelope;
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("no envelope"))?;
        if envelope.timestamp.is_none() {
            return Err(Status::invalid_argument("envelope has no timestamp"));
        }
        if crate::metadata::Namespace::new(&envelope.namespace).is_err() {
            return Err(Status::invalid_argument(format!(
                "envelope names no namespace: {:?}",
                envelope.namespace
            )));
        }
        forward(&self.bus, from_wire(envelope))
    }

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<BoxStream<types::Envelope>>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)
            .map_err(|error| Status::invalid_argument(shim_sdk::error::report(&error)))?;
        let subscription = self.bus.subscribe(accepts(filters));
        Ok(Response::new(Box::pin(stream(subscription))))
    }
}

fn forward(bus: &Bus, event: Envelope) -> Result<Response<()>, Status> {
    bus.forward(event).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Response::new(()))
}

/// The stream of a subscription, which ends when the subscription does.
fn stream(
    subscription: Subscription,
) -> impl Stream<Item = Result<types::Envelope, Status>> + Send {
    subscription.into_stream(|event| Ok(to_wire(&event)))
}

fn from_wire(envelope: types::Envelope) -> Envelope {
    let timestamp = envelope.timestamp.and_then(|at| SystemTime::try_from(at).ok());
    Envelope {
        timestamp: timestamp.unwrap_or_else(SystemTime::now),
        namespace: envelope.namespace,
        event: Event::Forwarded {
            topic: envelope.topic,
            message: envelope.event.unwrap_or_default().into(),
        },
    }
}

fn to_wire(envelope: &Envelope) -> types::Envelope {
    types::Envelope {
        timestamp: Some(envelope.timestamp.into()),
        namespace: envelope.namespace.clone(),
        topic: envelope.topic().to_owned(),
        event: Some(message(&envelope.event)),
    }
}
