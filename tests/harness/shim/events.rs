//! The daemon's end of the event stream: a ttrpc server that can be prompt, slow, silent, or gone.

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protos::ttrpc::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::shim::events::ForwardRequest;
use protos::ttrpc::ttrpc::Request;

use super::ttrpc::{hold, read_frame, success};
use crate::wait;

/// How the endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// At once.
    #[default]
    Prompt,
    /// After this long, one event at a time on each connection.
    Slow(Duration),
    /// Reads and records nothing, answers nothing.
    Silent,
}

/// An event as its own type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is named as the event of containerd
pub enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    Exit(TaskExit),
    Delete(TaskDelete),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
    Oom(TaskOOM),
    Paused(TaskPaused),
    Resumed(TaskResumed),
    Other(String),
}

/// An event that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The namespace in its envelope.
    pub namespace: String,
    /// The topic in its envelope.
    pub topic: String,
    /// What it says.
    pub event: Event,
}

impl Event {
    fn unpack(any: &Any) -> Self {
        let bytes = any.value.as_slice();
        let event = match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.events.TaskCreate" => TaskCreate::parse_from_bytes(bytes).map(Self::Create),
            "containerd.events.TaskStart" => TaskStart::parse_from_bytes(bytes).map(Self::Start),
            "containerd.events.TaskExit" => TaskExit::parse_from_bytes(bytes).map(Self::Exit),
            "containerd.events.TaskDelete" => TaskDelete::parse_from_bytes(bytes).map(Self::Delete),
            "containerd.events.TaskExecAdded" => {
                TaskExecAdded::parse_from_bytes(bytes).map(Self::ExecAdded)
            }
            "containerd.events.TaskExecStarted" => {
                TaskExecStarted::parse_from_bytes(bytes).map(Self::ExecStarted)
            }
            "containerd.events.TaskOOM" => TaskOOM::parse_from_bytes(bytes).map(Self::Oom),
            "containerd.events.TaskPaused" => TaskPaused::parse_from_bytes(bytes).map(Self::Paused),
            "containerd.events.TaskResumed" => {
                TaskResumed::parse_from_bytes(bytes).map(Self::Resumed)
            }
            _ => return Self::Other(any.type_url.clone()),
        };
        event.unwrap_or_else(|why| Self::Other(format!("{}: {why}", any.type_url)))
    }

    /// The container it is about.
    #[must_use]
    pub fn container(&self) -> &str {
        match self {
            Self::Create(event) => &event.container_id,
            Self::Start(event) => &event.container_id,
            Self::Exit(event) => &event.container_id,
            Self::Delete(event) => &event.container_id,
            Self::ExecAdded(event) => &event.container_id,
            Self::ExecStarted(event) => &event.container_id,
            Self::Oom(event) => &event.container_id,
            Self::Paused(event) => &event.container_id,
            Self::Resumed(event) => &event.container_id,
            Self::Other(_) => "",
        }
    }
}

/// What it is, and of which exec: `exit`, `exit:e1`. Init's exit carries the container's own id.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(_) => f.write_str("create"),
            Self::Start(_) => f.write_str("start"),
            Self::Exit(event) if event.id == event.container_id => f.write_str("exit"),
            Self::Exit(event) => write!(f, "exit:{}", event.id),
            Self::Delete(event) if event.id.is_empty() || event.id == event.container_id => {
                f.write_str("delete")
            }
            Self::Delete(event) => write!(f, "delete:{}", event.id),
            Self::ExecAdded(event) => write!(f, "exec-added:{}", event.exec_id),
            Self::ExecStarted(event) => write!(f, "exec-started:{}", event.exec_id),
            Self::Oom(_) => f.write_str("oom"),
            Self::Paused(_) => f.write_str("paused"),
            Self::Resumed(_) => f.write_str("resumed"),
            Self::Other(what) => write!(f, "?{what}"),
        }
    }
}

/// The endpoint. What it has seen stays known while it is down.
pub struct Events {
    path: PathBuf,
    shared: Arc<Shared>,
    listener: Option<UnixListener>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    manner: Manner,
    seen: Vec<Seen>,
    connections: Vec<UnixStream>,
    accepted: usize,
}

impl Events {
    /// An endpoint at `path`, listening.
    ///
    /// # Errors
    ///
    /// As bind(2).
    pub fn serve(path: &Path) -> io::Result<Self> {
        let mut events = Self { path: path.to_owned(), shared: Arc::default(), listener: None };
        events.up()?;
        Ok(events)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes how it answers from now on.
    pub fn answer(&self, manner: Manner) {
        hold(&self.shared.state).manner = manner;
    }

    /// Takes it down: no listener, no connection, no socket file.
    pub fn down(&mut self) {
        if let Some(listener) = self.listener.take() {
            // Wakes the thread that accepts.
            let _ =
                nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        self.hang_up();
        let _ = std::fs::remove_file(&self.path);
    }

    /// Ends the connections, and goes on listening.
    pub fn hang_up(&self) {
        for connection in hold(&self.shared.state).connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Listens again.
    ///
    /// # Errors
    ///
    /// As bind(2).
    pub fn up(&mut self) -> io::Result<()> {
        let listener = UnixListener::bind(&self.path)?;
        let (accepting, shared) = (listener.try_clone()?, self.shared.clone());
        std::thread::spawn(move || accept(&accepting, &shared));
        self.listener = Some(listener);
        Ok(())
    }

    /// Everything seen so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        hold(&self.shared.state).seen.clone()
    }

    /// How often a client connected.
    #[must_use]
    pub fn accepted(&self) -> usize {
        hold(&self.shared.state).accepted
    }

    /// What was seen of one container, in order.
    #[must_use]
    pub fn of(&self, container: &str) -> Vec<Event> {
        let seen = self.seen();
        seen.into_iter()
            .map(|seen| seen.event)
            .filter(|event| event.container() == container)
            .collect()
    }

    /// The same as words; see [`Event`]'s display.
    #[must_use]
    pub fn words(&self, container: &str) -> Vec<String> {
        self.of(container).iter().map(ToString::to_string).collect()
    }

    /// Waits until what was seen satisfies `enough`; whether it did in time.
    pub fn wait(&self, limit: Duration, mut enough: impl FnMut(&[Seen]) -> bool) -> bool {
        let state = hold(&self.shared.state);
        let waited = self.shared.news.wait_timeout_while(state, limit, |now| !enough(&now.seen));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits for an event of a container by its word.
    pub fn wait_for(&self, limit: Duration, container: &str, word: &str) -> bool {
        self.wait(limit, |seen| {
            seen.iter()
                .any(|seen| seen.event.container() == container && seen.event.to_string() == word)
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.down();
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while let Ok((connection, _)) = listener.accept() {
        let Ok(kept) = connection.try_clone() else { return };
        {
            let mut state = hold(&shared.state);
            state.connections.push(kept);
            state.accepted += 1;
        }
        let shared = shared.clone();
        std::thread::spawn(move || receive(connection, &shared));
    }
}

fn receive(mut connection: UnixStream, shared: &Shared) {
    while let Ok((stream, _, payload)) = read_frame(&mut connection) {
        let Ok(request) = Request::parse_from_bytes(&payload) else { return };
        let manner = hold(&shared.state).manner;
        match manner {
            Manner::Prompt => {}
            Manner::Slow(pause) => wait::pass(pause),
            Manner::Silent => continue,
        }
        if let Some(seen) = understand(&request) {
            hold(&shared.state).seen.push(seen);
            shared.news.notify_all();
        }
        if connection.write_all(&success(stream, Vec::new())).is_err() {
            return;
        }
    }
}

fn understand(request: &Request) -> Option<Seen> {
    if request.service != "containerd.services.events.ttrpc.v1.Events"
        || request.method != "Forward"
    {
        return None;
    }
    let envelope = ForwardRequest::parse_from_bytes(&request.payload).ok()?.envelope.take()?;
    Some(Seen {
        at: Instant::now(),
        event: Event::unpack(envelope.event.get_or_default()),
        namespace: envelope.namespace,
        topic: envelope.topic,
    })
}

#[cfg(test)]
mod tests {
    use protos::ttrpc::api::Empty;
    use protos::ttrpc::protobuf::MessageField;
    use protos::ttrpc::shim::event::Envelope;

    use super::super::ttrpc::{CallError, Client};
    use super::*;

    const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
    const SOON: Duration = Duration::from_secs(5);

    fn exit(id: &str, exec: &str) -> ForwardRequest {
        let exit = TaskExit {
            container_id: id.to_owned(),
            id: exec.to_owned(),
            exit_status: 3,
            ..TaskExit::default()
        };
        let event = Any {
            type_url: "containerd.events.TaskExit".to_owned(),
            value: exit.write_to_bytes().expect("encode"),
            ..Any::default()
        };
        ForwardRequest {
            envelope: MessageField::some(Envelope {
                namespace: "n".to_owned(),
                topic: "/tasks/exit".to_owned(),
                event: MessageField::some(event),
                ..Envelope::default()
            }),
            ..ForwardRequest::default()
        }
    }

    fn forward(client: &Client, request: &ForwardRequest) -> Result<Empty, CallError> {
        client.call(SERVICE, "Forward", request, Duration::ZERO, SOON)
    }

    #[test]
    fn an_exit_is_told_from_an_execs_exit_and_outlives_the_endpoints_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("e");
        let mut events = Events::serve(&path).expect("listen");
        let address = format!("unix://{}", path.display());
        let client = Client::connect(&address).expect("connect");
        forward(&client, &exit("c", "c")).expect("init's exit");
        forward(&client, &exit("c", "e1")).expect("an exec's exit");
        assert_eq!(events.words("c"), ["exit", "exit:e1"]);
        events.down();
        assert!(Client::connect(&address).is_err(), "it is down");
        assert!(forward(&client, &exit("c", "e2")).is_err(), "the connection was cut");
        events.up().expect("listen again");
        let client = Client::connect(&address).expect("connect again");
        forward(&client, &exit("c", "e2")).expect("after the restart");
        assert!(events.wait_for(SOON, "c", "exit:e2"));
        assert_eq!(events.words("c"), ["exit", "exit:e1", "exit:e2"]);
        assert_eq!(events.accepted(), 2);
    }

    #[test]
    fn a_silent_endpoint_records_nothing_and_answers_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("e");
        let events = Events::serve(&path).expect("listen");
        events.answer(Manner::Silent);
        let client = Client::connect(&path.display().to_string()).expect("connect");
        let limit = Duration::from_millis(200);
        let answer: Result<Empty, CallError> =
            client.call(SERVICE, "Forward", &exit("c", "c"), Duration::ZERO, limit);
        assert_eq!(answer, Err(CallError::Silent(limit)));
        assert_eq!(events.words("c"), Vec::<String>::new());
    }
}
