//! Events as containerd's messages, and the fields that a filter can read of them.

use std::borrow::Cow;
use std::cell::OnceCell;

use prost_types::Any;
use protos::any::pack;
use protos::grpc::containerd::events as wire;
use protos::grpc::containerd::services::images::v1 as image;

use super::translate::wire_labels;
use crate::events::{Envelope, Event, TaskEnd};
use crate::metadata::filter::{Fields, Filters};

/// The message of an event.
pub(super) fn message(event: &Event) -> Any {
    match event.clone() {
        Event::ContainerCreated { id, image, runtime, options } => {
            let options = options.map(Any::from);
            let runtime = Some(wire::container_create::Runtime { name: runtime, options });
            pack(&wire::ContainerCreate { id, image, runtime })
        }
        Event::ContainerUpdated { id, image, labels, snapshot_key } => {
            let labels = wire_labels(labels);
            pack(&wire::ContainerUpdate { id, image, labels, snapshot_key })
        }
        Event::ContainerDeleted { id } => pack(&wire::ContainerDelete { id }),
        Event::ImageCreated { name, labels } => {
            pack(&image::ImageCreate { name, labels: wire_labels(labels) })
        }
        Event::ImageUpdated { name, labels } => {
            pack(&image::ImageUpdate { name, labels: wire_labels(labels) })
        }
        Event::ImageDeleted { name } => pack(&image::ImageDelete { name }),
        Event::NamespaceCreated { name, labels } => {
            pack(&wire::NamespaceCreate { name, labels: wire_labels(labels) })
        }
        Event::NamespaceUpdated { name, labels } => {
            pack(&wire::NamespaceUpdate { name, labels: wire_labels(labels) })
        }
        Event::NamespaceDeleted { name } => pack(&wire::NamespaceDelete { name }),
        Event::SnapshotPrepared { key, parent, snapshotter } => {
            pack(&wire::SnapshotPrepare { key, parent, snapshotter })
        }
        Event::SnapshotCommitted { key, name, snapshotter } => {
            pack(&wire::SnapshotCommit { key, name, snapshotter })
        }
        Event::SnapshotRemoved { key, snapshotter } => {
            pack(&wire::SnapshotRemove { key, snapshotter })
        }
        Event::TaskExited(TaskEnd { container_id, id, pid, exit_status, exited_at }) => {
            let (pid, exited_at) = (pid.unwrap_or_default(), Some(exited_at.into()));
            pack(&wire::TaskExit { container_id, id, pid, exit_status, exited_at })
        }
        Event::TaskDeleted(TaskEnd { container_id, id, pid, exit_status, exited_at }) => {
            let (pid, exited_at) = (pid.unwrap_or_default(), Some(exited_at.into()));
            pack(&wire::TaskDelete { container_id, id, pid, exit_status, exited_at })
        }
        Event::Forwarded { message, .. } => message.into(),
    }
}

/// A test of events against `filters`, for a subscription.
pub(super) fn accepts(filters: Filters) -> impl Fn(&Envelope) -> bool + Send + 'static {
    move |envelope| filters.matches(&Filtered { envelope, message: OnceCell::new() })
}

/// An event as a filter reads it. The message is made only for a filter that reads a field of it.
struct Filtered<'a> {
    envelope: &'a Envelope,
    message: OnceCell<Any>,
}

impl Fields for Filtered<'_> {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["topic"] => Some(self.envelope.topic().into()),
            ["namespace"] => Some(self.envelope.namespace.as_str().into()),
            ["event", path @ ..] => {
                let message = self.message.get_or_init(|| message(&self.envelope.event));
                field(message, path).map(Cow::Owned)
            }
            _ => None,
        }
    }
}

/// A text field of one of containerd's messages. Other messages have no known fields.
fn field(message: &Any, path: &[&str]) -> Option<String> {
    /// Decodes the message as each type in turn and looks the field up by its name.
    macro_rules! text_fields {
        ($($package:ident::$message:ident { $($field:ident),* } $([$labels:ident])?),* $(,)?) => {
            $(if let Some(message) = protos::any::unpack::<$package::$message>(message) {
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::events::Bus;

    #[tokio::test]
    async fn a_filter_looks_into_containerds_events() {
        use protos::grpc::containerd::events::TaskExit;
        use protos::grpc::containerd::services::images::v1::ImageCreate;
        let bus = Bus::new();
        let wanted = [
            "topic~=|^/tasks/|,event.container_id==web",
            "event.labels.\"a.b\"==c,namespace==default",
        ];
        let mut wanted = bus.subscribe(accepts(Filters::parse(&wanted).unwrap()));
        let exit = |id: &str| TaskExit { container_id: id.to_owned(), ..TaskExit::default() };
        let labels = [("a.b".to_owned(), "c".to_owned())].into();
        let image = ImageCreate { name: "x".to_owned(), labels };
        for (topic, any) in [
            ("/tasks/exit", pack(&exit("other"))),
            ("/tasks/exit", pack(&exit("web"))),
            ("/images/create", pack(&image)),
        ] {
            let event = Event::Forwarded { topic: topic.to_owned(), message: any.into() };
            let (timestamp, namespace) = (SystemTime::UNIX_EPOCH, "default".to_owned());
            bus.forward(Envelope { timestamp, namespace, event }).unwrap();
        }
        bus.close();
        assert_eq!(wanted.next().await.unwrap().topic(), "/tasks/exit");
        assert_eq!(wanted.next().await.unwrap().topic(), "/images/create");
        assert!(wanted.next().await.is_none());
    }

    #[test]
    fn every_field_of_the_daemons_own_events_is_in_their_messages() {
        let labels = [("k".to_owned(), "v".to_owned())].into();
        let event = Event::ImageCreated { name: "x:1".to_owned(), labels };
        let message = message(&event);
        assert_eq!(message.type_url, "containerd.services.images.v1.ImageCreate");
        assert_eq!(field(&message, &["name"]).as_deref(), Some("x:1"));
        assert_eq!(field(&message, &["labels", "k"]).as_deref(), Some("v"));
    }
}
