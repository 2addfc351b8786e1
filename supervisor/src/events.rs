//! Events, and the bus that carries them from their publishers to their subscribers.
//!
//! Promise: a subscriber receives events in the order in which they were published. A subscriber
//! that falls too far behind is unsubscribed, so a publisher never waits. Events are not stored:
//! what must survive a crash (exits, records) is durable elsewhere.
//! Not here: the messages of the wire, and the fields that a filter can read of them
//! (`api/event_message.rs`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use shim_sdk::is_identifier;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use crate::any::Any;
use crate::metadata::{Labels, Namespace};
use crate::text::{QUOTED_BYTES, escaped};

/// How many events can wait for a subscriber before it is unsubscribed.
const BACKLOG: usize = 4096;
/// The size limit of an event. containerd's own events have hundreds of bytes; the limit bounds the
/// memory that a full backlog takes.
const EVENT_BYTES: usize = 64 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A container's record was created.
    ContainerCreated { id: String, image: String, runtime: String, options: Option<Any> },
    /// A container's record was changed.
    ContainerUpdated { id: String, image: String, labels: Labels, snapshot_key: String },
    /// A container's record was deleted.
    ContainerDeleted { id: String },
    /// An image's record was created.
    ImageCreated { name: String, labels: Labels },
    /// An image's record was changed.
    ImageUpdated { name: String, labels: Labels },
    /// An image's record was deleted.
    ImageDeleted { name: String },
    /// A namespace was created.
    NamespaceCreated { name: String, labels: Labels },
    /// A namespace's labels were changed.
    NamespaceUpdated { name: String, labels: Labels },
    /// A namespace was deleted.
    NamespaceDeleted { name: String },
    /// An active snapshot or a view was made.
    SnapshotPrepared { key: String, parent: String, snapshotter: String },
    /// An active snapshot was committed.
    SnapshotCommitted { key: String, name: String, snapshotter: String },
    /// A snapshot was removed.
    SnapshotRemoved { key: String, snapshotter: String },
    /// A process exited whose shim cannot report it any more.
    TaskExited(TaskEnd),
    /// A task was deleted whose shim cannot report it any more.
    TaskDeleted(TaskEnd),
    /// An event of a shim or a client, which is passed on as it came.
    Forwarded { topic: String, message: Any },
}

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskEnd {
    /// The container.
    pub(crate) container_id: String,
    /// The exec, or the container's id again for its init.
    pub(crate) id: String,
    /// Its pid, if one is known.
    pub(crate) pid: Option<u32>,
    /// Its exit status.
    pub(crate) exit_status: u32,
    /// When it exited.
    pub(crate) exited_at: SystemTime,
}

impl Event {
    /// The topic, a path such as `/tasks/exit`.
    pub(crate) fn topic(&self) -> &str {
        match self {
            Self::ContainerCreated { .. } => "/containers/create",
            Self::ContainerUpdated { .. } => "/containers/update",
            Self::ContainerDeleted { .. } => "/containers/delete",
            Self::ImageCreated { .. } => "/images/create",
            Self::ImageUpdated { .. } => "/images/update",
            Self::ImageDeleted { .. } => "/images/delete",
            Self::NamespaceCreated { .. } => "/namespaces/create",
            Self::NamespaceUpdated { .. } => "/namespaces/update",
            Self::NamespaceDeleted { .. } => "/namespaces/delete",
            Self::SnapshotPrepared { .. } => "/snapshot/prepare",
            Self::SnapshotCommitted { .. } => "/snapshot/commit",
            Self::SnapshotRemoved { .. } => "/snapshot/remove",
            Self::TaskExited(_) => "/tasks/exit",
            Self::TaskDeleted(_) => "/tasks/delete",
            Self::Forwarded { topic, .. } => topic,
        }
    }
}

/// An event with its time and its namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) timestamp: SystemTime,
    pub(crate) namespace: String,
    pub(crate) event: Event,
}

impl Envelope {
    /// The event's topic.
    pub(crate) fn topic(&self) -> &str {
        self.event.topic()
    }
}

/// An event that cannot be published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EventError {
    #[error("event topic {} must be a path of identifiers that begins with /", quoted(.0))]
    Topic(String),
    #[error("event of {bytes} bytes is too large, {EVENT_BYTES} are allowed")]
    Size { bytes: usize },
}

fn quoted(topic: &str) -> String {
    format!("{:?}", escaped(topic, QUOTED_BYTES).to_string())
}

/// Whether a subscriber receives an event.
type Accepts = Box<dyn Fn(&Envelope) -> bool + Send>;

struct Subscriber {
    accepts: Accepts,
    queue: mpsc::Sender<Arc<Envelope>>,
}

/// Carries events to subscribers. A clone is a handle to the same bus.
#[derive(Clone, Default)]
pub(crate) struct Bus {
    /// `None` once closed. Never held across an await.
    subscribers: Arc<Mutex<Option<Vec<Subscriber>>>>,
}

/// The receiving end. Dropping it unsubscribes.
pub(crate) struct Subscription {
    queue: mpsc::Receiver<Arc<Envelope>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { subscribers: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// Publishes an event of this daemon, with the present time.
    pub(crate) fn publish(&self, namespace: &Namespace, event: Event) {
        let namespace = namespace.as_str().to_owned();
        self.deliver(Envelope { timestamp: SystemTime::now(), namespace, event });
    }

    /// Passes on an event that a shim or a client published, with its own time.
    pub(crate) fn forward(&self, envelope: Envelope) -> Result<(), EventError> {
        if let Event::Forwarded { topic, message } = &envelope.event {
            if !is_topic(topic) {
                return Err(EventError::Topic(topic.clone()));
            }
            let texts = envelope.namespace.len() + topic.len() + message.type_url.len();
            let bytes = texts + message.value.len();
            if bytes > EVENT_BYTES {
                return Err(EventError::Size { bytes });
            }
        }
        self.deliver(envelope);
        Ok(())
    }

    fn deliver(&self, envelope: Envelope) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = subscribers.as_mut() else { return };
        let envelope = Arc::new(envelope);
        // A subscriber whose queue is full is dropped, and its stream ends. So is one that has gone.
        subscribers.retain(|subscriber| {
            if subscriber.queue.is_closed() {
                return false;
            }
            !(subscriber.accepts)(&envelope) || subscriber.queue.try_send(envelope.clone()).is_ok()
        });
    }

    /// Subscribes to the events, from now on, that `accepts` holds for. It is called under the bus's
    /// lock, so it must not use the bus.
    pub(crate) fn subscribe(
        &self,
        accepts: impl Fn(&Envelope) -> bool + Send + 'static,
    ) -> Subscription {
        let (sender, queue) = mpsc::channel(BACKLOG);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscribers) = subscribers.as_mut() {
            subscribers.push(Subscriber { accepts: Box::new(accepts), queue: sender });
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
    pub(crate) async fn next(&mut self) -> Option<Arc<Envelope>> {
        self.queue.recv().await
    }

    /// The subscription as a stream.
    pub(crate) fn into_stream<T>(
        self,
        item: impl Fn(Arc<Envelope>) -> T,
    ) -> impl tokio_stream::Stream<Item = T> {
        tokio_stream::wrappers::ReceiverStream::new(self.queue).map(item)
    }
}

/// containerd's rule: `/` and at least one component, each an identifier.
fn is_topic(topic: &str) -> bool {
    topic.strip_prefix('/').is_some_and(|path| path.split('/').all(is_identifier))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str, message: Any) -> Envelope {
        Envelope {
            timestamp: SystemTime::UNIX_EPOCH,
            namespace: "default".to_owned(),
            event: Event::Forwarded { topic: topic.to_owned(), message },
        }
    }

    fn empty(topic: &str) -> Envelope {
        event(topic, Any::default())
    }

    #[tokio::test]
    async fn a_subscriber_sees_what_it_wants_in_order() {
        let bus = Bus::new();
        let mut exits = bus.subscribe(|event| event.topic() == "/tasks/exit");
        for topic in ["/tasks/start", "/tasks/exit", "/tasks/delete", "/tasks/exit"] {
            bus.forward(empty(topic)).unwrap();
        }
        bus.close();
        let mut seen = 0;
        while let Some(event) = exits.next().await {
            assert_eq!(event.topic(), "/tasks/exit");
            seen += 1;
        }
        assert_eq!(seen, 2);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_cut_off_and_the_others_go_on() {
        let bus = Bus::new();
        let mut slow = bus.subscribe(|_| true);
        for _ in 0..=BACKLOG {
            bus.forward(empty("/tasks/start")).unwrap();
        }
        let mut quick = bus.subscribe(|_| true);
        bus.forward(empty("/tasks/exit")).unwrap();
        assert_eq!(quick.next().await.unwrap().topic(), "/tasks/exit");
        let mut seen = 0;
        while slow.next().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, BACKLOG);
    }

    #[test]
    fn no_part_of_an_event_is_of_any_size() {
        let (bus, large) = (Bus::new(), "x".repeat(EVENT_BYTES + 1));
        let any = Any { type_url: large.clone(), value: Vec::new() };
        for event in [
            Envelope { namespace: large.clone(), ..empty("/a") },
            empty(&format!("/{large}")),
            event("/a", any),
            event("/a", Any { value: large.into(), ..Any::default() }),
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
