//! The bus that carries events from whoever makes them to whoever subscribed.
//!
//! Promise: a subscriber sees events in the order they were published, or is told that it was too
//! slow and is cut off; a publisher never waits. Events are not stored: what must survive a crash
//! (exits, records) is durable elsewhere.
//! Not here: the filter language ([`crate::metadata::filter`]) and the wire.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use crate::metadata::Namespace;
use crate::metadata::filter::{Fields, Filters};
use crate::text::{QUOTED_BYTES, escaped};

/// Events that a subscriber may be behind before it is cut off.
const BACKLOG: usize = 4096;
/// As large as an event may be. Containerd's own have hundreds of bytes; a subscriber may be behind
/// by all of its backlog.
const EVENT_BYTES: usize = 64 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) timestamp: SystemTime,
    pub(crate) namespace: String,
    /// A path such as `/tasks/exit`.
    pub(crate) topic: String,
    pub(crate) event: Any,
}

impl Fields for Event {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["topic"] => Some(self.topic.as_str().into()),
            ["namespace"] => Some(self.namespace.as_str().into()),
            ["event", path @ ..] => inner_field(&self.event, path).map(Cow::Owned),
            _ => None,
        }
    }
}

/// A text field of one of containerd's events; of others nothing is known.
fn inner_field(event: &Any, path: &[&str]) -> Option<String> {
    use protos::grpc::containerd::events as wire;
    use protos::grpc::containerd::services::images::v1 as image;
    /// Decodes the event as each type in turn and looks the field up by its name.
    macro_rules! text_fields {
        ($($package:ident::$message:ident { $($field:ident),* } $([$labels:ident])?),* $(,)?) => {
            $(if let Some(message) = protos::any::unpack::<$package::$message>(event) {
                let message = message.ok()?;
                return match path {
                    $([stringify!($field)] => Some(message.$field),)*
                    $(["labels", key @ ..] => message.$labels.get(&key.join(".")).cloned(),)?
                    _ => None,
                };
            })*
        };
    }
    text_fields! {
        wire::TaskCreate { container_id, bundle, checkpoint },
        wire::TaskStart { container_id },
        wire::TaskDelete { container_id, id },
        wire::TaskExit { container_id, id },
        wire::TaskOom { container_id },
        wire::TaskExecAdded { container_id, exec_id },
        wire::TaskExecStarted { container_id, exec_id },
        wire::TaskPaused { container_id },
        wire::TaskResumed { container_id },
        wire::TaskCheckpointed { container_id, checkpoint },
        wire::ContainerCreate { id, image },
        wire::ContainerUpdate { id, image, snapshot_key } [labels],
        wire::ContainerDelete { id },
        image::ImageCreate { name } [labels],
        image::ImageUpdate { name } [labels],
        image::ImageDelete { name },
        wire::ContentCreate { digest },
        wire::ContentDelete { digest },
        wire::SnapshotPrepare { key, parent, snapshotter },
        wire::SnapshotCommit { key, name, snapshotter },
        wire::SnapshotRemove { key, snapshotter },
        wire::NamespaceCreate { name } [labels],
        wire::NamespaceUpdate { name } [labels],
        wire::NamespaceDelete { name },
        wire::SandboxCreate { sandbox_id },
        wire::SandboxStart { sandbox_id },
        wire::SandboxExit { sandbox_id },
    }
    None
}

/// An event that cannot be published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadEvent {
    #[error("event topic {} must be a path of identifiers that begins with /", quoted(.0))]
    Topic(String),
    #[error("event of {bytes} bytes is too large, {EVENT_BYTES} are allowed")]
    Size { bytes: usize },
}

fn quoted(topic: &str) -> String {
    format!("{:?}", escaped(topic, QUOTED_BYTES).to_string())
}

struct Subscriber {
    wanted: Filters,
    queue: mpsc::Sender<Arc<Event>>,
}

/// Where events go; clones are handles to the same bus.
#[derive(Clone, Default)]
pub(crate) struct Bus {
    /// `None` once closed. Never held across an await.
    subscribers: Arc<Mutex<Option<Vec<Subscriber>>>>,
}

/// The receiving end; dropping it unsubscribes.
pub(crate) struct Subscription {
    queue: mpsc::Receiver<Arc<Event>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { subscribers: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// Publishes an event of this daemon's own, now.
    pub(crate) fn publish(&self, namespace: &Namespace, topic: &str, event: Any) {
        let namespace = namespace.as_str().to_owned();
        let topic = topic.to_owned();
        self.deliver(Event { timestamp: SystemTime::now(), namespace, topic, event });
    }

    /// Passes on an event that a shim or a client made, with its own time.
    pub(crate) fn forward(&self, event: Event) -> Result<(), BadEvent> {
        if !is_topic(&event.topic) {
            return Err(BadEvent::Topic(event.topic));
        }
        let texts = event.namespace.len() + event.topic.len() + event.event.type_url.len();
        let bytes = texts + event.event.value.len();
        if bytes > EVENT_BYTES {
            return Err(BadEvent::Size { bytes });
        }
        self.deliver(event);
        Ok(())
    }

    fn deliver(&self, event: Event) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = subscribers.as_mut() else { return };
        let event = Arc::new(event);
        // A full queue drops its subscriber, which then sees its stream end; a closed one too.
        subscribers.retain(|subscriber| {
            if subscriber.queue.is_closed() {
                return false;
            }
            !subscriber.wanted.matches(&*event) || subscriber.queue.try_send(event.clone()).is_ok()
        });
    }

    /// Subscribes to the events, from now on, that `wanted` accepts.
    pub(crate) fn subscribe(&self, wanted: Filters) -> Subscription {
        let (sender, queue) = mpsc::channel(BACKLOG);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscribers) = subscribers.as_mut() {
            subscribers.push(Subscriber { wanted, queue: sender });
        }
        Subscription { queue }
    }

    /// Ends every subscription: the daemon is stopping.
    pub(crate) fn close(&self) {
        *self.subscribers.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Subscription {
    /// The next event; `None` when the subscriber was too slow or the bus has closed.
    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        self.queue.recv().await
    }

    /// The subscription as a stream.
    pub(crate) fn into_stream<T>(
        self,
        item: impl Fn(Arc<Event>) -> T,
    ) -> impl tokio_stream::Stream<Item = T> {
        tokio_stream::wrappers::ReceiverStream::new(self.queue).map(item)
    }
}

/// containerd's rule: `/` and at least one component, each an identifier.
fn is_topic(topic: &str) -> bool {
    topic.strip_prefix('/').is_some_and(|path| path.split('/').all(is_identifier))
}

fn is_identifier(text: &str) -> bool {
    text.len() <= 76
        && text
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str) -> Event {
        Event {
            timestamp: SystemTime::UNIX_EPOCH,
            namespace: "default".to_owned(),
            topic: topic.to_owned(),
            event: Any::default(),
        }
    }

    #[tokio::test]
    async fn a_subscriber_sees_what_it_wants_in_order() {
        let bus = Bus::new();
        let mut exits = bus.subscribe(Filters::parse(&[r#"topic=="/tasks/exit""#]).unwrap());
        for topic in ["/tasks/start", "/tasks/exit", "/tasks/delete", "/tasks/exit"] {
            bus.forward(event(topic)).unwrap();
        }
        bus.close();
        let mut seen = 0;
        while let Some(event) = exits.next().await {
            assert_eq!(event.topic, "/tasks/exit");
            seen += 1;
        }
        assert_eq!(seen, 2);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_cut_off_and_the_others_go_on() {
        let bus = Bus::new();
        let mut slow = bus.subscribe(Filters::default());
        for _ in 0..=BACKLOG {
            bus.forward(event("/tasks/start")).unwrap();
        }
        let mut quick = bus.subscribe(Filters::default());
        bus.forward(event("/tasks/exit")).unwrap();
        assert_eq!(quick.next().await.unwrap().topic, "/tasks/exit");
        let mut seen = 0;
        while slow.next().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, BACKLOG);
    }

    #[tokio::test]
    async fn a_filter_looks_into_containerds_events() {
        use protos::grpc::containerd::events::TaskExit;
        use protos::grpc::containerd::services::images::v1::ImageCreate;
        let bus = Bus::new();
        let wanted = [
            "topic~=|^/tasks/|,event.container_id==web",
            "event.labels.\"a.b\"==c,namespace==default",
        ];
        let mut wanted = bus.subscribe(Filters::parse(&wanted).unwrap());
        let exit = |id: &str| TaskExit { container_id: id.to_owned(), ..TaskExit::default() };
        let labels = [("a.b".to_owned(), "c".to_owned())].into();
        let image = ImageCreate { name: "x".to_owned(), labels };
        for (topic, any) in [
            ("/tasks/exit", protos::any::pack(&exit("other"))),
            ("/tasks/exit", protos::any::pack(&exit("web"))),
            ("/images/create", protos::any::pack(&image)),
        ] {
            bus.forward(Event { event: any, ..event(topic) }).unwrap();
        }
        bus.close();
        assert_eq!(wanted.next().await.unwrap().topic, "/tasks/exit");
        assert_eq!(wanted.next().await.unwrap().topic, "/images/create");
        assert!(wanted.next().await.is_none());
    }

    #[test]
    fn no_part_of_an_event_is_of_any_size() {
        let (bus, large) = (Bus::new(), "x".repeat(EVENT_BYTES + 1));
        let any = Any { type_url: large.clone(), value: Vec::new() };
        for event in [
            Event { namespace: large.clone(), ..event("/a") },
            Event { topic: format!("/{large}"), ..event("/a") },
            Event { event: any, ..event("/a") },
            Event { event: Any { value: large.into(), ..Any::default() }, ..event("/a") },
        ] {
            assert!(bus.forward(event).is_err());
        }
    }

    #[test]
    fn topics_are_paths_of_identifiers() {
        for good in ["/tasks/exit", "/tasks/exec-added", "/a"] {
            assert!(is_topic(good), "{good}");
        }
        for bad in ["", "/", "tasks/exit", "/tasks//exit", "/tasks/", "/ta sks"] {
            assert!(!is_topic(bad), "{bad}");
        }
    }
}
