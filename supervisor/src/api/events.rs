//! The Events service: publish, forward, subscribe.

use std::time::SystemTime;

use protos::grpc::containerd::services::events::v1 as wire;
use protos::grpc::containerd::types::Envelope;
use tokio_stream::Stream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::events::{Bus, Event, Subscription};
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
        let event = Event {
            timestamp: SystemTime::now(),
            namespace: namespace.as_str().to_owned(),
            topic,
            event: event.unwrap_or_default(),
        };
        forward(&self.bus, event)
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
    ) -> Result<Response<BoxStream<Envelope>>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)
            .map_err(|error| Status::invalid_argument(super::status::chain(&error)))?;
        let subscription = self.bus.subscribe(filters);
        Ok(Response::new(Box::pin(stream(subscription))))
    }
}

fn forward(bus: &Bus, event: Event) -> Result<Response<()>, Status> {
    bus.forward(event).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Response::new(()))
}

/// The stream of a subscription, which ends when the subscription does.
fn stream(subscription: Subscription) -> impl Stream<Item = Result<Envelope, Status>> + Send {
    subscription.into_stream(|event| Ok(to_wire(&event)))
}

fn from_wire(envelope: Envelope) -> Event {
    let timestamp = envelope.timestamp.and_then(|at| SystemTime::try_from(at).ok());
    Event {
        timestamp: timestamp.unwrap_or_else(SystemTime::now),
        namespace: envelope.namespace,
        topic: envelope.topic,
        event: envelope.event.unwrap_or_default(),
    }
}

fn to_wire(event: &Event) -> Envelope {
    Envelope {
        timestamp: Some(event.timestamp.into()),
        namespace: event.namespace.clone(),
        topic: event.topic.clone(),
        event: Some(event.event.clone()),
    }
}
