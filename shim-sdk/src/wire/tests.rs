//! The services over a real socket, as a daemon sees them.

use std::rc::Rc;
use std::time::Duration;

use protos::ttrpc::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, KillRequest, PauseRequest, PidsRequest,
    ShutdownRequest, StartRequest, StateRequest, Status as WireStatus, WaitRequest,
};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::shim_async::TaskClient;
use protos::ttrpc::ttrpc::asynchronous::Client;
use protos::ttrpc::ttrpc::asynchronous::transport::Socket;
use protos::ttrpc::ttrpc::proto::GenMessage;
use protos::ttrpc::ttrpc::{Code, Error as TtrpcError, MessageHeader, Request, Response, context};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use super::{server, socket};
use crate::event::EventQueue;
use crate::process::shim::{Job, ShimState};
use crate::{
    Bundle, Capabilities, ContainerId, Create, Created, Description, Exec, Io, Pid, Program,
    Result, Runtime, spawn_process,
};

/// Sleeps in every container; its Create of one named "slow" waits until it is let go.
struct Sleeper {
    /// Its slow Create has begun.
    making: Rc<Notify>,
    go: Rc<Notify>,
}

impl Runtime for Sleeper {
    type Container = ();

    fn describe(&self) -> Description {
        let capabilities = Capabilities::default();
        Description { name: "sleeper", version: "", revision: "", capabilities, features: None }
    }

    async fn create(&self, request: Create, _: Io) -> Result<Created<()>> {
        if request.id.as_str() == "slow" {
            self.making.notify_one();
            self.go.notified().await;
        }
        Ok(Created { container: (), pid: None })
    }

    async fn start(&self, (): &()) -> Result<Pid> {
        spawn_process(Program::new("sleep").args(["100"])).await
    }

    async fn exec(&self, (): &(), _: Exec, _: Io) -> Result<Pid> {
        self.start(&()).await
    }

    async fn delete(&self, (): &()) -> Result<()> {
        Ok(())
    }

    async fn clean_up(&self, _: &ContainerId, _: &Bundle) -> Result<()> {
        Ok(())
    }
}

struct Daemon {
    folder: tempfile::TempDir,
    client: Client,
    task: TaskClient,
    stop: Rc<Notify>,
    making: Rc<Notify>,
    go: Rc<Notify>,
}

impl Daemon {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let listener = socket::listen(listener).expect("listen");
        let stop = Rc::new(Notify::new());
        let (notes, _) = mpsc::unbounded_channel();
        let events = EventQueue::default();
        let go = Rc::new(Notify::new());
        let making = Rc::new(Notify::new());
        let sleeper = Sleeper { making: Rc::clone(&making), go: Rc::clone(&go) };
        let shim = ShimState::new(sleeper, "n".to_owned(), events, notes, Rc::clone(&stop));
        let shim = Rc::new(shim);
        let (jobs, mut asked) = mpsc::unbounded_channel::<Job<Sleeper>>();
        let server = server::serve(listener, &jobs, shim.capabilities);
        tokio::task::spawn_local(async move {
            let _server = server;
            while let Some(job) = asked.recv().await {
                job(&shim);
            }
        });
        let stream = UnixStream::connect(&path).await.expect("connect");
        let client = Client::new(Socket::from(stream));
        Self { folder, task: TaskClient::new(client.clone()), client, stop, making, go }
    }

    async fn create(&self, id: &str, limit: Duration) -> Result<(), TtrpcError> {
        let bundle = self.folder.path().join(id);
        // A repeated Create finds it there.
        let _ = std::fs::create_dir(&bundle);
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.display().to_string(),
            ..CreateTaskRequest::default()
        };
        self.task.create(context::with_duration(limit), &request).await.map(drop)
    }

    /// Calls a method by name; answers with the code.
    async fn code(&self, service: &str, method: &str, payload: &impl Message) -> Code {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.write_to_bytes().expect("encode"),
            ..Request::default()
        };
        match self.client.request(request).await {
            Ok(_) => Code::OK,
            Err(error) => code_of(&error),
        }
    }
}

fn code_of(error: &TtrpcError) -> Code {
    match error {
        TtrpcError::RpcStatus(status) => status.code(),
        other => panic!("no status: {other}"),
    }
}

fn test(test: impl AsyncFnOnce(Daemon)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let limited = async { test(Daemon::new().await).await };
        tokio::time::timeout(Duration::from_secs(20), limited).await.expect("in time");
    });
}

const LONG: Duration = Duration::from_secs(10);

#[test]
fn versions_2_and_3_are_served_by_the_same_table() {
    test(async |daemon| {
        daemon.create("c", LONG).await.expect("create by version 3");
        let start = StartRequest { id: "c".to_owned(), ..StartRequest::default() };
        assert_eq!(daemon.code("containerd.task.v2.Task", "Start", &start).await, Code::OK);
        let state = StateRequest { id: "c".to_owned(), ..StateRequest::default() };
        let state = daemon.task.state(context::with_duration(LONG), &state).await.expect("state");
        assert_eq!(state.status.enum_value(), Ok(WireStatus::RUNNING));
        // Go's zero time, as containerd's own shim answers.
        assert_eq!(state.exited_at.seconds, -62_135_596_800);
        let kill = KillRequest { id: "c".to_owned(), signal: 9, ..KillRequest::default() };
        assert_eq!(daemon.code("containerd.task.v2.Task", "Kill", &kill).await, Code::OK);
        let wait = WaitRequest { id: "c".to_owned(), ..WaitRequest::default() };
        let wait = daemon.task.wait(context::with_duration(LONG), &wait).await.expect("wait");
        assert_eq!(wait.exit_status, 137);
    });
}

#[test]
fn what_is_not_offered_is_unimplemented_and_not_missing() {
    test(async |daemon| {
        let pause = PauseRequest { id: "c".to_owned(), ..PauseRequest::default() };
        for method in ["Pause", "Resume", "Stats", "Update", "Checkpoint"] {
            let code = daemon.code("containerd.task.v3.Task", method, &pause).await;
            assert_eq!(code, Code::UNIMPLEMENTED, "{method}");
        }
        for (service, method) in [
            ("containerd.runtime.sandbox.v1.Sandbox", "CreateSandbox"),
            ("containerd.services.transfer.v1.Transfer", "Transfer"),
            ("containerd.services.streaming.v1.TTRPCStreaming", "Stream"),
        ] {
            assert_eq!(
                daemon.code(service, method, &pause).await,
                Code::UNIMPLEMENTED,
                "{service}"
            );
        }
    });
}

#[test]
fn connect_succeeds_for_a_container_that_is_not_there() {
    test(async |daemon| {
        let request = ConnectRequest { id: "none".to_owned(), ..ConnectRequest::default() };
        let answer = daemon.task.connect(context::with_duration(LONG), &request).await;
        let answer = answer.expect("a probe of the shim, not of the container");
        assert_eq!((answer.shim_pid, answer.task_pid), (std::process::id(), 0));
        let task = "containerd.task.v3.Task";
        let state = StateRequest { id: "none".to_owned(), ..StateRequest::default() };
        assert_eq!(daemon.code(task, "State", &state).await, Code::NOT_FOUND);
        let pids = PidsRequest { id: "none".to_owned(), ..PidsRequest::default() };
        assert_eq!(daemon.code(task, "Pids", &pids).await, Code::NOT_FOUND);
        let delete = DeleteRequest { id: "none".to_owned(), ..DeleteRequest::default() };
        assert_eq!(daemon.code(task, "Delete", &delete).await, Code::NOT_FOUND);
    });
}

#[test]
fn a_create_whose_client_gave_up_goes_on_and_is_found() {
    test(async |daemon| {
        let given_up = daemon.create("slow", Duration::from_millis(50)).await;
        assert!(given_up.is_err(), "the deadline has passed");
        let taken = daemon.create("slow", LONG).await.expect_err("it is being made");
        assert_eq!(code_of(&taken), Code::ALREADY_EXISTS);
        daemon.go.notify_one();
        let request = StateRequest { id: "slow".to_owned(), ..StateRequest::default() };
        let state = loop {
            // Bounded by the time that a test has.
            match daemon.task.state(context::with_duration(LONG), &request).await {
                Ok(state) => break state,
                Err(error) => assert_eq!(code_of(&error), Code::NOT_FOUND),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(state.status.enum_value(), Ok(WireStatus::CREATED));
    });
}

#[test]
fn state_is_answered_at_once_while_a_container_is_being_made() {
    test(async |daemon| {
        daemon.create("c", LONG).await.expect("create");
        let slow = daemon.create("slow", LONG);
        let state = async {
            daemon.making.notified().await;
            let state = StateRequest { id: "c".to_owned(), ..StateRequest::default() };
            daemon.task.state(context::with_duration(LONG), &state).await.expect("state");
            // Only now: State was answered without it.
            daemon.go.notify_one();
        };
        let (slow, ()) = tokio::join!(slow, state);
        slow.expect("create");
    });
}

#[test]
fn a_shutdown_is_answered_before_the_shim_leaves() {
    test(async |daemon| {
        daemon.create("c", LONG).await.expect("create");
        let request = ShutdownRequest { id: "c".to_owned(), ..ShutdownRequest::default() };
        let task = "containerd.task.v3.Task";
        assert_eq!(daemon.code(task, "Shutdown", &request).await, Code::OK, "and nothing happens");
        let delete = DeleteRequest { id: "c".to_owned(), ..DeleteRequest::default() };
        assert_eq!(daemon.code(task, "Delete", &delete).await, Code::OK);
        assert_eq!(daemon.code(task, "Shutdown", &request).await, Code::OK);
        daemon.stop.notified().await;
    });
}

/// A request as it is on the wire.
fn frame(stream_id: u32, method: &str, payload: &impl Message) -> Vec<u8> {
    let request = Request {
        service: "containerd.task.v3.Task".to_owned(),
        method: method.to_owned(),
        payload: payload.write_to_bytes().expect("encode"),
        ..Request::default()
    };
    let payload = request.write_to_bytes().expect("encode");
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame: Vec<u8> = MessageHeader::new_request(stream_id, length).into();
    frame.extend(payload);
    frame
}

/// The next answer of a connection: its stream and its code.
async fn answer(reader: impl AsyncRead + Unpin) -> (u32, Code) {
    let message = GenMessage::read_from(reader).await.expect("an answer");
    let response = Response::parse_from_bytes(&message.payload).expect("a response");
    (message.header.stream_id, response.status.code())
}

/// A client that only ever wrote made the shim keep 1.2 GB of requests and answers in 8 seconds.
#[test]
fn a_client_that_does_not_read_its_answers_is_not_read() {
    test(async |daemon| {
        daemon.create("c", LONG).await.expect("create");
        let stream = UnixStream::connect(daemon.folder.path().join("s")).await.expect("connect");
        let (mut reader, mut writer) = stream.into_split();
        let state = StateRequest { id: "c".to_owned(), ..StateRequest::default() };
        let mut sent: u32 = 0;
        loop {
            let frame = frame(2 * sent + 1, "State", &state);
            let written =
                tokio::time::timeout(Duration::from_millis(500), writer.write_all(&frame));
            match written.await {
                // Part of the last one may have been written.
                Err(_) => break,
                Ok(written) => written.expect("it listens"),
            }
            sent += 1;
            assert!(sent < 100_000, "it reads on, whatever becomes of the answers");
        }
        // Another connection is served in between, and nothing that was read is lost.
        assert_eq!(daemon.code("containerd.task.v3.Task", "State", &state).await, Code::OK);
        let mut answered = std::collections::BTreeSet::new();
        for _ in 0..sent {
            let (stream_id, code) = answer(&mut reader).await;
            assert_eq!(code, Code::OK);
            assert!(answered.insert(stream_id) && stream_id < 2 * sent, "{stream_id}");
        }
    });
}

/// What is at work may be Waits alone, so a limit that stopped reading would hold up the Kill that
/// ends them.
#[test]
fn waits_beyond_the_limit_are_refused_and_a_kill_behind_them_arrives() {
    test(async |daemon| {
        daemon.create("c", LONG).await.expect("create");
        let start = StartRequest { id: "c".to_owned(), ..StartRequest::default() };
        assert_eq!(daemon.code("containerd.task.v3.Task", "Start", &start).await, Code::OK);
        let stream = UnixStream::connect(daemon.folder.path().join("s")).await.expect("connect");
        let (mut reader, mut writer) = stream.into_split();
        let wait = WaitRequest { id: "c".to_owned(), ..WaitRequest::default() };
        let (waits, refused) = (4096, 10);
        for number in 0..waits + refused {
            let frame = frame(2 * number + 1, "Wait", &wait);
            writer.write_all(&frame).await.expect("it listens");
        }
        for number in 0..refused {
            let refused = (2 * (waits + number) + 1, Code::RESOURCE_EXHAUSTED);
            assert_eq!(answer(&mut reader).await, refused);
        }
        let kill = KillRequest { id: "c".to_owned(), signal: 9, ..KillRequest::default() };
        assert_eq!(daemon.code("containerd.task.v3.Task", "Kill", &kill).await, Code::OK);
        for _ in 0..waits {
            assert_eq!(answer(&mut reader).await.1, Code::OK);
        }
        // And there is room again.
        writer.write_all(&frame(99_999, "Wait", &wait)).await.expect("it listens");
        assert_eq!(answer(&mut reader).await, (99_999, Code::OK));
    });
}

#[test]
fn large_requests_are_bounded_together_and_what_is_no_request_is_refused() {
    test(async |daemon| {
        let stream = UnixStream::connect(daemon.folder.path().join("s")).await.expect("connect");
        let (mut reader, mut writer) = stream.into_split();
        let large = StateRequest { id: "x".repeat(3 << 20), ..StateRequest::default() };
        let slow = |id: &str| CreateTaskRequest {
            id: id.to_owned(),
            bundle: "x".repeat(3 << 20),
            ..CreateTaskRequest::default()
        };
        // Alone each of them is well below the limit of a message.
        let writes = async {
            for number in 0..40 {
                writer.write_all(&frame(2 * number + 1, "State", &large)).await.expect("written");
            }
            writer.write_all(&frame(2, "State", &large)).await.expect("written");
            let mut data: Vec<u8> = MessageHeader::new_data(201, 0).into();
            data.extend(frame(203, "Create", &slow("../../etc")));
            let oversized = MessageHeader::new_request(205, 5 << 20);
            data.extend(Vec::<u8>::from(oversized));
            data.extend(vec![0; 5 << 20]);
            writer.write_all(&data).await.expect("written");
        };
        let reads = async {
            for _ in 0..40 {
                let (_, code) = answer(&mut reader).await;
                let expected = [Code::NOT_FOUND, Code::INVALID_ARGUMENT, Code::RESOURCE_EXHAUSTED];
                assert!(expected.contains(&code), "{code:?}");
            }
            for stream_id in [2, 201, 203, 205] {
                assert_eq!(answer(&mut reader).await, (stream_id, Code::INVALID_ARGUMENT));
            }
        };
        tokio::join!(writes, reads);
    });
}

#[path = "fuzz.rs"]
mod fuzz;
