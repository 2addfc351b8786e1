//! Speaks the task service to one shim; generated types stop here.
//!
//! Task v2 and v3 are the same messages under two names of the service, so one client does both.
//! Promise: a call ends when its limit is over or the connection closes, whatever the shim does.

pub(in crate::task) mod bootstrap;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protos::grpc::containerd::events as wire;
use protos::ttrpc::api;
use protos::ttrpc::protobuf::well_known_types::{any, empty, timestamp};
use protos::ttrpc::protobuf::{EnumOrUnknown, Message, MessageField};
use protos::ttrpc::types;
use shim_sdk::{ContainerId, ExecId, Exit, Kind, Mount};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use ttrpc::asynchronous::transport::Socket;

use self::bootstrap::Bootstrap;
use crate::any::Any;
use crate::events::{Envelope, Event, TaskEnd};
use crate::task::{Create, Deleted, Exec, Process, State, Status, Stdio};

/// Clients may show a state before anything else, so it must not hang; containerd allows as much.
const STATE: Duration = Duration::from_secs(2);
/// To find out whether a shim lives.
const CONNECT: Duration = Duration::from_secs(5);
/// A shim that does not shut down in this time is left to itself.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// How long after a failed call the end of its connection may be seen. ttrpc fails the calls first, and
/// lets go of the connection then.
const CLOSING: Duration = Duration::from_secs(1);

/// The header that carries a call's namespace over ttrpc.
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// A connection to the shim of one task.
#[derive(Clone)]
pub(in crate::task) struct Client {
    connection: ttrpc::r#async::Client,
    service: &'static str,
    metadata: HashMap<String, Vec<String>>,
    id: String,
    closed: watch::Receiver<bool>,
}

/// No shim listens at an address.
#[derive(Debug, thiserror::Error)]
#[error("connect to shim at {address}")]
pub(crate) struct ConnectError {
    address: String,
    #[source]
    cause: io::Error,
}

/// What a shim answered instead of doing it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CallError {
    kind: Kind,
    message: String,
    /// The connection closed during the call, and [`Client::closed`] has ended.
    closed: bool,
}

impl CallError {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(in crate::task) fn closed(&self) -> bool {
        self.closed
    }
}

impl Client {
    /// Connects to the shim of a task.
    pub(in crate::task) async fn connect(
        bootstrap: &Bootstrap,
        namespace: &str,
        id: &ContainerId,
    ) -> Result<Self, ConnectError> {
        let failed = |cause| ConnectError { address: bootstrap.address.clone(), cause };
        let path = shim_sdk::address::unix_path(&bootstrap.address)
            .ok_or_else(|| failed(io::Error::other("not the address of a unix socket")))?;
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let (sender, closed) = watch::channel(false);
        let service = match bootstrap.version {
            2 => "containerd.task.v2.Task",
            _ => "containerd.task.v3.Task",
        };
        let metadata = HashMap::from([(NAMESPACE.to_owned(), vec![namespace.to_owned()])]);
        Ok(Self {
            connection: ttrpc::r#async::Client::new(Socket::new(Watched { stream, sender })),
            service,
            metadata,
            id: id.as_str().to_owned(),
            closed,
        })
    }

    /// Ends when the shim has closed the connection.
    pub(in crate::task) async fn closed(&self) {
        // The sender lives in the connection, so its end is the connection's.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    async fn call<Q: Message, A: Message>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<A, CallError> {
        let broken = |message: String| CallError { kind: Kind::Internal, message, closed: false };
        let payload = request.write_to_bytes().map_err(|error| broken(error.to_string()))?;
        let request = ttrpc::Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: limit.map_or(0, |limit| limit.as_nanos() as i64),
            metadata: ttrpc::context::to_pb(self.metadata.clone()),
            ..Default::default()
        };
        let late = |limit: Duration| CallError {
            kind: Kind::DeadlineExceeded,
            message: format!("shim did not answer {method} within {limit:?}"),
            closed: false,
        };
        let asked = Instant::now();
        let answered = self.connection.request(request);
        let answer = match limit {
            None => answered.await,
            Some(limit) => match tokio::time::timeout(limit, answered).await {
                Ok(answer) => answer,
                Err(_) => return Err(late(limit)),
            },
        };
        match answer {
            Ok(response) => A::parse_from_bytes(&response.payload)
                .map_err(|error| broken(format!("answer of shim to {method}: {error}"))),
            Err(ttrpc::Error::RpcStatus(status)) => {
                Err(CallError { kind: kind(status.code), message: status.message, closed: false })
            }
            Err(error) => {
                log::debug!("{method} of {}: {error}", self.id);
                // ttrpc has the limit too, and its error for that has no kind of its own.
                if let Some(limit) = limit.filter(|limit| asked.elapsed() >= *limit) {
                    return Err(late(limit));
                }
                // Only the connection tells whether it closed: ttrpc has the same error for a lost
                // connection and for an answer that it cannot decode.
                if tokio::time::timeout(CLOSING, self.closed()).await.is_err() {
                    return Err(broken(format!("answer of shim to {method}: {error}")));
                }
                Err(CallError {
                    kind: Kind::Unavailable,
                    message: "ttrpc: closed".to_owned(),
                    closed: true,
                })
            }
        }
    }

    async fn order<Q: Message>(&self, method: &'static str, request: &Q) -> Result<(), CallError> {
        self.call::<_, empty::Empty>(method, request, None).await.map(drop)
    }

    pub(in crate::task) async fn create(
        &self,
        bundle: &str,
        create: &Create,
    ) -> Result<u32, CallError> {
        let path = create.checkpoint.as_ref().map(|path| path.display().to_string());
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_owned(),
            rootfs: create.rootfs.iter().map(mount).collect(),
            terminal: create.stdio.terminal,
            stdin: create.stdio.stdin.clone(),
            stdout: create.stdio.stdout.clone(),
            stderr: create.stdio.stderr.clone(),
            checkpoint: path.unwrap_or_default(),
            options: payload(create.options.as_ref()),
            ..Default::default()
        };
        let answer: api::CreateTaskResponse = self.call("Create", &request, None).await?;
        Ok(answer.pid)
    }

    pub(in crate::task) async fn start(&self, exec: Option<&ExecId>) -> Result<u32, CallError> {
        let request =
            api::StartRequest { id: self.id.clone(), exec_id: exec_id(exec), ..Default::default() };
        let answer: api::StartResponse = self.call("Start", &request, None).await?;
        Ok(answer.pid)
    }

    pub(in crate::task) async fn delete(
        &self,
        exec: Option<&ExecId>,
    ) -> Result<Deleted, CallError> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id(exec),
            ..Default::default()
        };
        let answer: api::DeleteResponse = self.call("Delete", &request, None).await?;
        let exit = exit(answer.exit_status, answer.exited_at.as_ref());
        Ok(Deleted { pid: pid(answer.pid), exit })
    }

    pub(in crate::task) async fn state(&self, exec: Option<&ExecId>) -> Result<State, CallError> {
        let request =
            api::StateRequest { id: self.id.clone(), exec_id: exec_id(exec), ..Default::default() };
        let answer: api::StateResponse = self.call("State", &request, Some(STATE)).await?;
        let status = status(answer.status);
        let stopped = status == Status::Stopped;
        Ok(State {
            pid: pid(answer.pid),
            status,
            exit: stopped.then(|| exit(answer.exit_status, answer.exited_at.as_ref())),
            stdio: Stdio {
                stdin: answer.stdin,
                stdout: answer.stdout,
                stderr: answer.stderr,
                terminal: answer.terminal,
            },
        })
    }

    /// Waits, for as long as it takes, for a process to exit.
    pub(in crate::task) async fn wait(&self, exec: Option<&ExecId>) -> Result<Exit, CallError> {
        let request =
            api::WaitRequest { id: self.id.clone(), exec_id: exec_id(exec), ..Default::default() };
        let answer: api::WaitResponse = self.call("Wait", &request, None).await?;
        Ok(exit(answer.exit_status, answer.exited_at.as_ref()))
    }

    pub(in crate::task) async fn kill(
        &self,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<(), CallError> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id(exec),
            signal,
            all,
            ..Default::default()
        };
        self.order("Kill", &request).await
    }

    pub(in crate::task) async fn exec(&self, exec: &Exec) -> Result<(), CallError> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.id.as_str().to_owned(),
            terminal: exec.stdio.terminal,
            stdin: exec.stdio.stdin.clone(),
            stdout: exec.stdio.stdout.clone(),
            stderr: exec.stdio.stderr.clone(),
            spec: payload(Some(&exec.process)),
            ..Default::default()
        };
        self.order("Exec", &request).await
    }

    pub(in crate::task) async fn resize(
        &self,
        exec: Option<&ExecId>,
        width: u32,
        height: u32,
    ) -> Result<(), CallError> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id(exec),
            width,
            height,
            ..Default::default()
        };
        self.order("ResizePty", &request).await
    }

    pub(in crate::task) async fn close_stdin(
        &self,
        exec: Option<&ExecId>,
    ) -> Result<(), CallError> {
        let request = api::CloseIORequest {
            id: self.id.clone(),
            exec_id: exec_id(exec),
            stdin: true,
            ..Default::default()
        };
        self.order("CloseIO", &request).await
    }

    pub(in crate::task) async fn pause(&self) -> Result<(), CallError> {
        let request = api::PauseRequest { id: self.id.clone(), ..Default::default() };
        self.order("Pause", &request).await
    }

    pub(in crate::task) async fn resume(&self) -> Result<(), CallError> {
        let request = api::ResumeRequest { id: self.id.clone(), ..Default::default() };
        self.order("Resume", &request).await
    }

    pub(in crate::task) async fn pids(&self) -> Result<Vec<Process>, CallError> {
        let request = api::PidsRequest { id: self.id.clone(), ..Default::default() };
        let answer: api::PidsResponse = self.call("Pids", &request, None).await?;
        let process = |process: types::task::ProcessInfo| Process {
            pid: process.pid,
            details: process.info.into_option().map(typed),
        };
        Ok(answer.processes.into_iter().map(process).collect())
    }

    pub(in crate::task) async fn checkpoint(
        &self,
        path: &str,
        options: Option<&Any>,
    ) -> Result<(), CallError> {
        let request = api::CheckpointTaskRequest {
            id: self.id.clone(),
            path: path.to_owned(),
            options: payload(options),
            ..Default::default()
        };
        self.order("Checkpoint", &request).await
    }

    pub(in crate::task) async fn update(
        &self,
        resources: Option<&Any>,
        annotations: HashMap<String, String>,
    ) -> Result<(), CallError> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: payload(resources),
            annotations,
            ..Default::default()
        };
        self.order("Update", &request).await
    }

    pub(in crate::task) async fn stats(&self) -> Result<Any, CallError> {
        let request = api::StatsRequest { id: self.id.clone(), ..Default::default() };
        let answer: api::StatsResponse = self.call("Stats", &request, Some(STATE)).await?;
        Ok(answer.stats.into_option().map(typed).unwrap_or_default())
    }

    /// Whether the shim answers at all.
    pub(in crate::task) async fn probe(&self) -> Result<(), CallError> {
        let request = api::ConnectRequest { id: self.id.clone(), ..Default::default() };
        self.call::<_, api::ConnectResponse>("Connect", &request, Some(CONNECT)).await.map(drop)
    }

    /// The pid of the shim itself.
    pub(in crate::task) async fn server(&self) -> Result<Option<u32>, CallError> {
        let request = api::ConnectRequest { id: self.id.clone(), ..Default::default() };
        let answer: api::ConnectResponse = self.call("Connect", &request, Some(CONNECT)).await?;
        Ok(pid(answer.shim_pid))
    }

    /// Asks the shim to exit, which it does if it has no other task.
    pub(in crate::task) async fn shut_down(&self) -> Result<(), CallError> {
        let request = api::ShutdownRequest { id: self.id.clone(), ..Default::default() };
        self.call::<_, empty::Empty>("Shutdown", &request, Some(SHUTDOWN)).await.map(drop)
    }
}

fn exec_id(exec: Option<&ExecId>) -> String {
    exec.map(|exec| exec.as_str().to_owned()).unwrap_or_default()
}

fn pid(pid: u32) -> Option<u32> {
    (pid > 0).then_some(pid)
}

fn exit(status: u32, at: Option<&timestamp::Timestamp>) -> Exit {
    Exit { status, at: time(at).unwrap_or_else(SystemTime::now) }
}

fn mount(mount: &Mount) -> types::mount::Mount {
    types::mount::Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
        ..Default::default()
    }
}

/// The exit that an event of a shim reports, if it is one.
pub(super) fn task_exit(envelope: &Envelope) -> Option<TaskEnd> {
    let Event::Forwarded { message, .. } = &envelope.event else { return None };
    let exit = protos::any::unpack::<wire::TaskExit>(&message.clone().into())?.ok()?;
    let exited_at = exit.exited_at.and_then(|at| at.try_into().ok());
    Some(TaskEnd {
        container_id: exit.container_id,
        id: exit.id,
        pid: (exit.pid != 0).then_some(exit.pid),
        exit_status: exit.exit_status,
        exited_at: exited_at.unwrap_or(envelope.timestamp),
    })
}

fn payload(payload: Option<&Any>) -> MessageField<any::Any> {
    let payload = payload.map(|payload| any::Any {
        type_url: payload.type_url.clone(),
        value: payload.value.clone(),
        ..Default::default()
    });
    payload.into()
}

fn typed(any: any::Any) -> Any {
    Any { type_url: any.type_url, value: any.value }
}

/// A time from the wire; `None` for none, and for Go's zero time, which stands for none.
pub(in crate::task) fn time(at: Option<&timestamp::Timestamp>) -> Option<SystemTime> {
    let at = at.filter(|at| at.seconds >= 0)?;
    let since = Duration::new(at.seconds.try_into().ok()?, at.nanos.try_into().ok()?);
    UNIX_EPOCH.checked_add(since)
}

/// A status that the protocol does not have is unknown.
fn status(status: EnumOrUnknown<types::task::Status>) -> Status {
    use types::task::Status as Wire;
    match status.enum_value() {
        Ok(Wire::CREATED) => Status::Created,
        Ok(Wire::RUNNING) => Status::Running,
        Ok(Wire::STOPPED) => Status::Stopped,
        Ok(Wire::PAUSED) => Status::Paused,
        Ok(Wire::PAUSING) => Status::Pausing,
        Ok(Wire::UNKNOWN) | Err(_) => Status::Unknown,
    }
}

/// The kind of a code; one that gRPC does not have is unknown.
fn kind(code: EnumOrUnknown<ttrpc::Code>) -> Kind {
    use ttrpc::Code;
    match code.enum_value() {
        Ok(Code::CANCELLED) => Kind::Cancelled,
        Ok(Code::INVALID_ARGUMENT) => Kind::InvalidArgument,
        Ok(Code::DEADLINE_EXCEEDED) => Kind::DeadlineExceeded,
        Ok(Code::NOT_FOUND) => Kind::NotFound,
        Ok(Code::ALREADY_EXISTS) => Kind::AlreadyExists,
        Ok(Code::PERMISSION_DENIED | Code::UNAUTHENTICATED) => Kind::PermissionDenied,
        Ok(Code::RESOURCE_EXHAUSTED) => Kind::ResourceExhausted,
        Ok(Code::FAILED_PRECONDITION) => Kind::FailedPrecondition,
        Ok(Code::ABORTED) => Kind::Aborted,
        Ok(Code::OUT_OF_RANGE) => Kind::OutOfRange,
        Ok(Code::UNIMPLEMENTED) => Kind::Unimplemented,
        Ok(Code::INTERNAL) => Kind::Internal,
        Ok(Code::UNAVAILABLE) => Kind::Unavailable,
        Ok(Code::DATA_LOSS) => Kind::DataLoss,
        Ok(Code::OK | Code::UNKNOWN) | Err(_) => Kind::Unknown,
    }
}

/// A stream that tells when the other side has closed it: how the death of a shim is noticed.
struct Watched {
    stream: UnixStream,
    sender: watch::Sender<bool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let ended = match &read {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => buffer.filled().len() == before && buffer.remaining() > 0,
            Poll::Ready(Err(_)) => true,
        };
        if ended {
            self.sender.send_replace(true);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Kept small: what is said of a client in logs.
impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Shared by the calls of one task.
pub(in crate::task) type Shared = Arc<Client>;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn gos_zero_time_is_no_time() {
        let zero = timestamp::Timestamp { seconds: -62_135_596_800, ..Default::default() };
        assert_eq!(time(Some(&zero)), None);
        let one = timestamp::Timestamp { seconds: 1, nanos: 5, ..Default::default() };
        assert_eq!(time(Some(&one)), Some(UNIX_EPOCH + Duration::new(1, 5)));
    }

    /// A client, and the shim's end of its connection.
    async fn connected() -> (Client, UnixStream) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("shim");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let bootstrap = Bootstrap::parse(format!("unix://{}", path.display()).as_bytes()).unwrap();
        let id = ContainerId::new("web").unwrap();
        let client = Client::connect(&bootstrap, "default", &id).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (client, stream)
    }

    // A Wait took this for the end of the connection, and waited for what the daemon does then. The
    // connection was there, so the daemon did nothing and the Wait never ended.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_cannot_be_decoded_is_no_end_of_the_connection() {
        let (client, mut stream) = connected().await;
        let answer = async {
            let mut header = [0; ttrpc::proto::MESSAGE_HEADER_LENGTH];
            stream.read_exact(&mut header).await.unwrap();
            // The answer's length, its stream, its type, no flags, and no message.
            let stream_id = &header[4..8];
            let frame = [&1_u32.to_be_bytes(), stream_id, &[2, 0], &[0xff]].concat();
            stream.write_all(&frame).await.unwrap();
        };
        let (waited, ()) = tokio::join!(client.wait(None), answer);
        let error = waited.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(!error.closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_does_not_answer_in_time_is_not_gone() {
        let (client, _stream) = connected().await;
        let error = client.probe().await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(!error.closed());
    }

    #[tokio::test]
    async fn a_shim_that_goes_away_is_noticed_and_ends_the_calls() {
        let (client, stream) = connected().await;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.wait(None).await }
        });
        tokio::task::yield_now().await;
        drop(stream);
        client.closed().await;
        assert!(waiting.await.unwrap().unwrap_err().closed());
    }
}
