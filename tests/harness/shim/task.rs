//! The Task service's calls on one container.

use std::time::Duration;

use protos::ttrpc::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::{Message, MessageField};
use protos::ttrpc::shim::oci::CheckpointOptions;

use super::ttrpc::{CallError, Client, PATIENCE, Pending};

/// The service's name in containerd up to 1.7.
pub const V2: &str = "containerd.task.v2.Task";
/// The service's name since containerd 2.0.
pub const V3: &str = "containerd.task.v3.Task";

/// One container, through one connection.
#[derive(Clone)]
pub struct Task {
    client: Client,
    service: &'static str,
    id: String,
    deadline: Duration,
    limit: Duration,
}

type Answer<T> = Result<T, CallError>;

impl Task {
    /// The container `id`.
    #[must_use]
    pub fn new(client: &Client, service: &'static str, id: &str) -> Self {
        Self {
            client: client.clone(),
            service,
            id: id.to_owned(),
            deadline: Duration::ZERO,
            limit: PATIENCE,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Another container in the same shim.
    #[must_use]
    pub fn other(&self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self.clone() }
    }

    /// The same container over another connection.
    #[must_use]
    pub fn over(&self, client: &Client) -> Self {
        Self { client: client.clone(), ..self.clone() }
    }

    /// The same container through another version of the service.
    #[must_use]
    pub fn speaking(&self, service: &'static str) -> Self {
        Self { service, ..self.clone() }
    }

    /// The same, with a deadline that goes to the shim.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same, waiting only so long, which the shim is not told.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// Any method.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; so for all that follow.
    pub fn call<R: Message>(&self, method: &str, request: &impl Message) -> Answer<R> {
        self.client.call(self.service, method, request, self.deadline, self.limit)
    }

    /// Any method, without waiting.
    pub fn send(&self, method: &str, request: &impl Message) -> Answer<Pending> {
        let bytes = request.write_to_bytes().map_err(|why| CallError::Garbled(why.to_string()))?;
        self.client.send(self.service, method, bytes, self.deadline)
    }

    /// The request that creates it; see [`super::Bundle::create_request`].
    pub fn create(&self, request: &CreateTaskRequest) -> Answer<u32> {
        self.call("Create", request).map(|answer: CreateTaskResponse| answer.pid)
    }

    /// Starts init (`exec` empty) or an exec.
    pub fn start(&self, exec: &str) -> Answer<u32> {
        let request =
            StartRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        self.call("Start", &request).map(|answer: StartResponse| answer.pid)
    }

    /// What is known of init or an exec.
    pub fn state(&self, exec: &str) -> Answer<StateResponse> {
        let request =
            StateRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        self.call("State", &request)
    }

    /// Waits for its exit.
    pub fn wait(&self, exec: &str) -> Answer<WaitResponse> {
        self.call("Wait", &self.wait_request(exec))
    }

    /// The request of [`Self::wait`].
    #[must_use]
    pub fn wait_request(&self, exec: &str) -> WaitRequest {
        WaitRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() }
    }

    /// Signals init or an exec.
    pub fn kill(&self, exec: &str, signal: i32) -> Answer<()> {
        self.call("Kill", &self.kill_request(exec, signal)).map(|_: Empty| ())
    }

    /// The request of [`Self::kill`].
    #[must_use]
    pub fn kill_request(&self, exec: &str, signal: i32) -> KillRequest {
        KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal: signal.unsigned_abs(),
            ..Default::default()
        }
    }

    /// Signals every process of the container.
    pub fn kill_all(&self, signal: i32) -> Answer<()> {
        let request = KillRequest { all: true, ..self.kill_request("", signal) };
        self.call("Kill", &request).map(|_: Empty| ())
    }

    /// Deletes init, and with it the container, or an exec.
    pub fn delete(&self, exec: &str) -> Answer<DeleteResponse> {
        self.call("Delete", &self.delete_request(exec))
    }

    /// The request of [`Self::delete`].
    #[must_use]
    pub fn delete_request(&self, exec: &str) -> DeleteRequest {
        DeleteRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() }
    }

    /// Adds an exec.
    pub fn exec(&self, request: &ExecProcessRequest) -> Answer<()> {
        self.call("Exec", request).map(|_: Empty| ())
    }

    /// An exec of an OCI process, as JSON.
    #[must_use]
    pub fn exec_request(&self, exec: &str, process: &serde_json::Value) -> ExecProcessRequest {
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal: process["terminal"].as_bool().unwrap_or(false),
            spec: MessageField::some(json(
                "types.containerd.io/opencontainers/runtime-spec/1/Process",
                process,
            )),
            ..Default::default()
        }
    }

    /// The container's processes.
    pub fn pids(&self) -> Answer<PidsResponse> {
        self.call("Pids", &PidsRequest { id: self.id.clone(), ..Default::default() })
    }

    /// Freezes it.
    pub fn pause(&self) -> Answer<()> {
        let request = PauseRequest { id: self.id.clone(), ..Default::default() };
        self.call("Pause", &request).map(|_: Empty| ())
    }

    /// Thaws it.
    pub fn resume(&self) -> Answer<()> {
        let request = ResumeRequest { id: self.id.clone(), ..Default::default() };
        self.call("Resume", &request).map(|_: Empty| ())
    }

    /// What it uses.
    pub fn stats(&self) -> Answer<Any> {
        let request = StatsRequest { id: self.id.clone(), ..Default::default() };
        self.call("Stats", &request)
            .map(|mut answer: StatsResponse| answer.stats.take())
            .map(Option::unwrap_or_default)
    }

    /// Changes its limits: OCI Linux resources, as JSON.
    pub fn update(&self, resources: &serde_json::Value) -> Answer<()> {
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(json(
                "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
                resources,
            )),
            ..Default::default()
        };
        self.call("Update", &request).map(|_: Empty| ())
    }

    /// Writes its memory to `path`; it goes on running.
    pub fn checkpoint(&self, path: &str) -> Answer<()> {
        self.checkpoint_with(path, &CheckpointOptions::default())
    }

    /// The same with the runtime's options.
    pub fn checkpoint_with(&self, path: &str, options: &CheckpointOptions) -> Answer<()> {
        let options = Any {
            type_url: "containerd.runc.v1.CheckpointOptions".to_owned(),
            value: options.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        };
        let request = CheckpointTaskRequest {
            id: self.id.clone(),
            path: path.to_owned(),
            options: MessageField::some(options),
            ..Default::default()
        };
        self.call("Checkpoint", &request).map(|_: Empty| ())
    }

    /// Changes the size of its terminal.
    pub fn resize(&self, exec: &str, width: u32, height: u32) -> Answer<()> {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            width,
            height,
            ..Default::default()
        };
        self.call("ResizePty", &request).map(|_: Empty| ())
    }

    /// Ends its standard input.
    pub fn close_stdin(&self, exec: &str) -> Answer<()> {
        let request = CloseIORequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdin: true,
            ..Default::default()
        };
        self.call("CloseIO", &request).map(|_: Empty| ())
    }

    /// Asks for the shim's and the task's process ids.
    pub fn connect(&self) -> Answer<ConnectResponse> {
        self.call("Connect", &ConnectRequest { id: self.id.clone(), ..Default::default() })
    }

    /// Asks the shim to leave.
    pub fn shutdown(&self) -> Answer<()> {
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        self.call("Shutdown", &request).map(|_: Empty| ())
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// JSON in an `Any`, as containerd's typeurl packs what is no protobuf message.
#[must_use]
pub fn json(type_url: &str, value: &serde_json::Value) -> Any {
    Any { type_url: type_url.to_owned(), value: value.to_string().into_bytes(), ..Any::default() }
}
