//! The task service: converts requests and answers. `process/` decides. Versions 2 and 3 differ
//! only in their name.

use std::collections::HashMap;
use std::rc::Rc;

use oci_spec::runtime::Process as Spec;
use protos::ttrpc::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status as WireStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::{Message, MessageField};
use protos::ttrpc::shim::oci::ProcessDetails;

use super::connection::Handler;
use super::method::{Jobs, act, look, watch};

use crate::process::container::Deleted;
use crate::process::init::CreateRequest;
use crate::process::shim::{ProcessStatus, ShimState};
use crate::stdio::Stdio;
use crate::wire::convert;
use crate::{
    Bundle, Capabilities, Checkpoint, ContainerId, Error, ExecId, Pid, Result, Runtime, Signal,
};

/// The service's methods by name, without those that the runtime does not support.
pub(crate) fn methods<R: Runtime>(
    jobs: &Jobs<R>,
    capabilities: Capabilities,
) -> HashMap<String, Handler> {
    let mut methods: HashMap<&str, Handler> = HashMap::from([
        ("State", look(jobs, state)),
        ("Create", act(jobs, create)),
        ("Start", act(jobs, start)),
        ("Delete", act(jobs, delete)),
        ("Pids", act(jobs, pids)),
        ("Kill", act(jobs, kill)),
        ("Exec", act(jobs, exec)),
        ("ResizePty", look(jobs, resize_pty)),
        ("CloseIO", look(jobs, close_io)),
        ("Wait", watch(jobs, wait)),
        ("Connect", look(jobs, connect)),
        ("Shutdown", look(jobs, shutdown)),
    ]);
    if capabilities.pause {
        methods.insert("Pause", act(jobs, pause));
        methods.insert("Resume", act(jobs, resume));
    }
    if capabilities.stats {
        methods.insert("Stats", act(jobs, stats));
    }
    if capabilities.update {
        methods.insert("Update", act(jobs, update));
    }
    if capabilities.checkpoint {
        methods.insert("Checkpoint", act(jobs, checkpoint));
    }
    methods.into_iter().map(|(name, handler)| (name.to_owned(), handler)).collect()
}

/// The exec of a request; an empty id means init.
fn exec_id(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}

fn state<R: Runtime>(shim: &ShimState<R>, request: StateRequest) -> Result<StateResponse> {
    let view = shim.process_state(&request.id, exec_id(&request.exec_id))?;
    let status = match view.status {
        ProcessStatus::Created => WireStatus::CREATED,
        ProcessStatus::Running => WireStatus::RUNNING,
        ProcessStatus::Pausing => WireStatus::PAUSING,
        ProcessStatus::Paused => WireStatus::PAUSED,
        ProcessStatus::Stopped => WireStatus::STOPPED,
    };
    Ok(StateResponse {
        id: request.id,
        bundle: view.bundle.to_string_lossy().into_owned(),
        pid: convert::pid(view.pid),
        status: status.into(),
        stdin: view.stdio.stdin,
        stdout: view.stdio.stdout,
        stderr: view.stdio.stderr,
        terminal: view.stdio.terminal,
        exit_status: view.exit.map_or(0, |exit| exit.status),
        exited_at: view.exit.as_ref().map_or_else(convert::never, convert::exited_at),
        exec_id: request.exec_id,
        ..StateResponse::default()
    })
}

async fn create<R: Runtime>(
    shim: Rc<ShimState<R>>,
    request: CreateTaskRequest,
) -> Result<CreateTaskResponse> {
    let stdio = Stdio {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
    };
    let request = CreateRequest {
        id: ContainerId::new(request.id)?,
        bundle: Bundle::new(request.bundle),
        rootfs: request.rootfs.into_iter().map(convert::mount).collect(),
        stdio,
        checkpoint: request.checkpoint,
        options: convert::optional_payload(request.options),
    };
    let pid = convert::pid(shim.create(request).await?);
    Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
}

async fn start<R: Runtime>(shim: Rc<ShimState<R>>, request: StartRequest) -> Result<StartResponse> {
    let pid = match exec_id(&request.exec_id) {
        None => shim.start_init(&request.id).await?,
        Some(exec) => shim.start_exec(&request.id, exec).await?,
    };
    Ok(StartResponse { pid: pid.get(), ..StartResponse::default() })
}

async fn delete<R: Runtime>(
    shim: Rc<ShimState<R>>,
    request: DeleteRequest,
) -> Result<DeleteResponse> {
    let Deleted { pid, exit } = match exec_id(&request.exec_id) {
        None => shim.delete_container(&request.id).await?,
        Some(exec) => shim.delete_exec(&request.id, exec).await?,
    };
    Ok(DeleteResponse {
        pid: convert::pid(pid),
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.as_ref().map_or_else(convert::never, convert::exited_at),
        ..DeleteResponse::default()
    })
}

async fn pids<R: Runtime>(shim: Rc<ShimState<R>>, request: PidsRequest) -> Result<PidsResponse> {
    let pids = shim.pids(&request.id).await?;
    let processes = pids.into_iter().map(|(pid, exec)| ProcessInfo {
        pid: Pid::get(pid),
        info: exec.map_or_else(MessageField::none, |exec| MessageField::some(details(exec))),
        ..ProcessInfo::default()
    });
    Ok(PidsResponse { processes: processes.collect(), ..PidsResponse::default() })
}

/// The exec of a process, in the message that containerd's clients read.
fn details(exec: ExecId) -> Any {
    let details = ProcessDetails { exec_id: exec.into(), ..ProcessDetails::default() };
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        // Encoding to memory fails only for messages of 2 GiB and more.
        value: details.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

async fn kill<R: Runtime>(shim: Rc<ShimState<R>>, request: KillRequest) -> Result<Empty> {
    let signal = Signal::from_number(request.signal)
        .ok_or_else(|| Error::invalid(format!("no signal has the number {}", request.signal)))?;
    shim.kill(&request.id, exec_id(&request.exec_id), signal, request.all).await?;
    Ok(Empty::default())
}

async fn exec<R: Runtime>(shim: Rc<ShimState<R>>, request: ExecProcessRequest) -> Result<Empty> {
    let exec = ExecId::new(request.exec_id)?;
    let spec: Spec = serde_json::from_slice(&request.spec.value).map_err(|cause| {
        Error::invalid(format!("parse the process of exec {exec}")).with_source(cause)
    })?;
    let stdio = Stdio {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
    };
    shim.add_exec(&request.id, exec, spec, stdio).await?;
    Ok(Empty::default())
}

fn resize_pty<R: Runtime>(shim: &ShimState<R>, request: ResizePtyRequest) -> Result<Empty> {
    let process = shim.container(&request.id)?.process(exec_id(&request.exec_id))?;
    let side = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    process.resize(side(request.width), side(request.height))?;
    Ok(Empty::default())
}

fn close_io<R: Runtime>(shim: &ShimState<R>, request: CloseIORequest) -> Result<Empty> {
    let process = shim.container(&request.id)?.process(exec_id(&request.exec_id))?;
    if request.stdin {
        process.close_input();
    }
    Ok(Empty::default())
}

async fn wait<R: Runtime>(shim: Rc<ShimState<R>>, request: WaitRequest) -> Result<WaitResponse> {
    let exit = shim.wait(&request.id, exec_id(&request.exec_id)).await?;
    Ok(WaitResponse {
        exit_status: exit.status,
        exited_at: convert::exited_at(&exit),
        ..WaitResponse::default()
    })
}

fn connect<R: Runtime>(shim: &ShimState<R>, request: ConnectRequest) -> Result<ConnectResponse> {
    Ok(ConnectResponse {
        shim_pid: std::process::id(),
        task_pid: convert::pid(shim.init_pid(&request.id)),
        ..ConnectResponse::default()
    })
}

fn shutdown<R: Runtime>(shim: &ShimState<R>, _: ShutdownRequest) -> Result<Empty> {
    shim.shutdown();
    Ok(Empty::default())
}

async fn pause<R: Runtime>(shim: Rc<ShimState<R>>, request: PauseRequest) -> Result<Empty> {
    shim.pause(&request.id).await.map(|()| Empty::default())
}

async fn resume<R: Runtime>(shim: Rc<ShimState<R>>, request: ResumeRequest) -> Result<Empty> {
    shim.resume(&request.id).await.map(|()| Empty::default())
}

async fn stats<R: Runtime>(shim: Rc<ShimState<R>>, request: StatsRequest) -> Result<StatsResponse> {
    let stats = shim.stats(&request.id).await?;
    let stats = MessageField::some(convert::any(stats));
    Ok(StatsResponse { stats, ..StatsResponse::default() })
}

async fn update<R: Runtime>(shim: Rc<ShimState<R>>, request: UpdateTaskRequest) -> Result<Empty> {
    let resources = convert::optional_payload(request.resources)
        .ok_or_else(|| Error::invalid("no resources to update"))?;
    shim.update(&request.id, resources).await.map(|()| Empty::default())
}

async fn checkpoint<R: Runtime>(
    shim: Rc<ShimState<R>>,
    request: CheckpointTaskRequest,
) -> Result<Empty> {
    let checkpoint = Checkpoint {
        path: request.path.into(),
        options: convert::optional_payload(request.options),
    };
    shim.checkpoint(&request.id, checkpoint).await.map(|()| Empty::default())
}
