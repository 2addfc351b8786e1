//! Publishes events to the daemon, one at a time, over one connection that is made when needed.
//!
//! Promise: events arrive in order. An event stays queued until the daemon has acknowledged it, so
//! events from a time without a daemon are sent when it is back. If a connection breaks before the
//! acknowledgement arrives, the event is sent twice.

use std::time::Duration;

use protos::ttrpc::api::ForwardRequest;
use protos::ttrpc::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::well_known_types::timestamp::Timestamp;
use protos::ttrpc::protobuf::{Message, MessageField};
use protos::ttrpc::shim::event::Envelope;
use protos::ttrpc::shim_async::EventsClient;
use protos::ttrpc::topics;
use protos::ttrpc::ttrpc::asynchronous::Client;
use protos::ttrpc::ttrpc::{Error as TtrpcError, context};

use crate::Error;
use crate::event::{Event, EventQueue, Stamped};
use crate::wire::{convert, socket};

/// How long the daemon may take for one event.
const CALL: Duration = Duration::from_secs(5);
/// The first wait after a failure; each further one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// After this many refusals by the daemon an event is dropped.
const MAX_REFUSALS: u32 = 5;

/// Publishes events. It never returns.
///
/// # Cancel safety
///
/// It may be dropped. An event that was not acknowledged stays in the queue.
pub(crate) async fn publish(queue: EventQueue, namespace: String, events_address: String) {
    let mut client: Option<EventsClient> = None;
    let mut wait = FIRST_WAIT;
    let mut refusals = 0;
    loop {
        let next = queue.first().await;
        if events_address.is_empty() {
            // The daemon has no events service.
            queue.pop(&next);
            continue;
        }
        let connected = match client.take() {
            Some(client) => Ok(client),
            None => connect(&events_address).await,
        };
        let told = match connected {
            Ok(connected) => {
                let told = forward(&connected, &namespace, &next).await;
                // A refusal shows that the connection works.
                if matches!(told, Ok(()) | Err(TtrpcError::RpcStatus(_))) {
                    client = Some(connected);
                }
                refusals += u32::from(matches!(told, Err(TtrpcError::RpcStatus(_))));
                told.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.report()),
        };
        match told {
            Ok(()) => {
                queue.pop(&next);
                (wait, refusals) = (FIRST_WAIT, 0);
            }
            Err(error) if refusals == MAX_REFUSALS => {
                // Dropped, so that the events behind it are sent.
                log::warn!("the daemon does not take {:?}: {error}", next.event);
                queue.pop(&next);
                (wait, refusals) = (FIRST_WAIT, 0);
            }
            Err(error) => {
                log::debug!("publish {:?}: {error}; again in {wait:?}", next.event);
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = LONGEST_WAIT.min(wait * 2),
                    () = queue.hurried() => wait = FIRST_WAIT,
                }
            }
        }
    }
}

async fn connect(events_address: &str) -> Result<EventsClient, Error> {
    Ok(EventsClient::new(Client::new(socket::dial(events_address).await?)))
}

async fn forward(
    client: &EventsClient,
    namespace: &str,
    stamped: &Stamped,
) -> Result<(), TtrpcError> {
    let at = stamped.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let timestamp = Timestamp {
        seconds: at.as_secs() as i64,
        nanos: at.subsec_nanos() as i32,
        ..Timestamp::default()
    };
    let (topic, event) = encode(stamped.event.clone());
    let envelope = Envelope {
        timestamp: MessageField::some(timestamp),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: MessageField::some(event),
        ..Envelope::default()
    };
    let request =
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
    client.forward(context::with_duration(CALL), &request).await.map(drop)
}

/// The topic and the message of an event.
fn encode(event: Event) -> (&'static str, Any) {
    fn any(name: &str, message: &impl Message) -> Any {
        Any {
            type_url: format!("containerd.events.{name}"),
            // Encoding to memory fails only for messages of 2 GiB and more.
            value: message.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        }
    }
    match event {
        Event::Created { container, bundle, rootfs, stdio, checkpoint, pid } => {
            let io = TaskIO {
                stdin: stdio.stdin,
                stdout: stdio.stdout,
                stderr: stdio.stderr,
                terminal: stdio.terminal,
                ..TaskIO::default()
            };
            let message = TaskCreate {
                container_id: container.into(),
                bundle: bundle.to_string_lossy().into_owned(),
                rootfs: rootfs.into_iter().map(convert::wire_mount).collect(),
                io: MessageField::some(io),
                checkpoint,
                pid: convert::pid(pid),
                ..TaskCreate::default()
            };
            (topics::TASK_CREATE_EVENT_TOPIC, any("TaskCreate", &message))
        }
        Event::Started { container, pid } => {
            let message = TaskStart {
                container_id: container.into(),
                pid: pid.get(),
                ..TaskStart::default()
            };
            (topics::TASK_START_EVENT_TOPIC, any("TaskStart", &message))
        }
        Event::ExecAdded { container, exec } => {
            let message = TaskExecAdded {
                container_id: container.into(),
                exec_id: exec.into(),
                ..TaskExecAdded::default()
            };
            (topics::TASK_EXEC_ADDED_EVENT_TOPIC, any("TaskExecAdded", &message))
        }
        Event::ExecStarted { container, exec, pid } => {
            let message = TaskExecStarted {
                container_id: container.into(),
                exec_id: exec.into(),
                pid: pid.get(),
                ..TaskExecStarted::default()
            };
            (topics::TASK_EXEC_STARTED_EVENT_TOPIC, any("TaskExecStarted", &message))
        }
        Event::Exited { container, exec, pid, exit } => {
            let container_id = String::from(container);
            let message = TaskExit {
                // For init the field `id` is the container's id.
                id: exec.map_or_else(|| container_id.clone(), String::from),
                container_id,
                pid: convert::pid(pid),
                exit_status: exit.status,
                exited_at: convert::exited_at(&exit),
                ..TaskExit::default()
            };
            (topics::TASK_EXIT_EVENT_TOPIC, any("TaskExit", &message))
        }
        Event::Deleted { container, pid, exit } => {
            let message = TaskDelete {
                container_id: container.into(),
                pid: convert::pid(pid),
                exit_status: exit.status,
                exited_at: convert::exited_at(&exit),
                ..TaskDelete::default()
            };
            (topics::TASK_DELETE_EVENT_TOPIC, any("TaskDelete", &message))
        }
        Event::OutOfMemory { container } => {
            let message = TaskOOM { container_id: container.into(), ..TaskOOM::default() };
            (topics::TASK_OOM_EVENT_TOPIC, any("TaskOOM", &message))
        }
        Event::Paused { container } => {
            let message = TaskPaused { container_id: container.into(), ..TaskPaused::default() };
            (topics::TASK_PAUSED_EVENT_TOPIC, any("TaskPaused", &message))
        }
        Event::Resumed { container } => {
            let message = TaskResumed { container_id: container.into(), ..TaskResumed::default() };
            (topics::TASK_RESUMED_EVENT_TOPIC, any("TaskResumed", &message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContainerId, Exit};

    /// Publishes one event while there is no daemon for an hour. Then runs the test with a listener
    /// of the daemon.
    #[cfg(unix)]
    async fn away(test: impl AsyncFnOnce(EventQueue, std::os::unix::net::UnixListener)) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("s");
        let queue = EventQueue::default();
        let container = ContainerId::new("web").expect("valid");
        queue.push(Event::Paused { container });
        let local = tokio::task::LocalSet::new();
        let address = format!("unix://{}", path.display());
        local.spawn_local(publish(queue.clone(), "n".to_owned(), address));
        local
            .run_until(async {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                assert_eq!(queue.len(), 1, "kept for a daemon that is back later");
                let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
                listener.set_nonblocking(true).expect("a socket");
                listener.accept().expect_err("not connected yet");
                test(queue, listener).await;
            })
            .await;
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_back_is_found_within_the_longest_wait() {
        away(async |_, listener| {
            tokio::time::sleep(LONGEST_WAIT + Duration::from_millis(1)).await;
            listener.accept().expect("connected");
        })
        .await;
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_shim_that_stops_does_not_wait_before_the_next_try() {
        away(async |queue, listener| {
            let begin = tokio::time::Instant::now();
            tokio::task::spawn_local(async move { queue.drained().await });
            while listener.accept().is_err() {
                assert!(begin.elapsed() < Duration::from_millis(100), "it still waits");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    #[test]
    fn an_inits_exit_bears_its_containers_id_twice() {
        let container = ContainerId::new("web").expect("valid");
        let exit = Exit::now(3);
        let (topic, any) = encode(Event::Exited { container, exec: None, pid: None, exit });
        assert_eq!(topic, "/tasks/exit");
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        let message = TaskExit::parse_from_bytes(&any.value).expect("just encoded");
        assert_eq!((message.container_id.as_str(), message.id.as_str()), ("web", "web"));
        assert_eq!(message.exit_status, 3);
    }
}
