//! The Tasks service.

use std::collections::HashMap;

use prost_types::Any;
use protos::grpc::containerd::services::tasks::v1 as wire;
use protos::grpc::containerd::types::{Metric, Mount as WireMount};
use protos::grpc::containerd::v1::types as process;
use shim_sdk::{ContainerId, ExecId, Mount};
use tonic::{Request, Response, Status};

use super::status::refuse;
use crate::container::Containers;
use crate::metadata::Namespace;
use crate::metadata::filter::{Fields, Filters};
use crate::task::{self, Deleted, State, Stdio};

/// Type URL of runc's checkpoint options, whose `image_path` is the directory to write to.
const CHECKPOINT_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";

/// containerd.services.tasks.v1.Tasks.
pub(crate) struct Tasks {
    tasks: task::Tasks,
    containers: Containers,
}

impl Tasks {
    pub(crate) fn new(tasks: task::Tasks, containers: Containers) -> Self {
        Self { tasks, containers }
    }
}

/// What a request names: a namespace and a container in it.
fn target(namespace: &Result<Namespace, Status>, id: &str) -> Result<Target, Status> {
    Ok((namespace.clone()?, container_id(id)?))
}

type Target = (Namespace, ContainerId);

fn container_id(id: &str) -> Result<ContainerId, Status> {
    ContainerId::new(id).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The exec that a request names; `None` for init.
fn exec_id(id: &str) -> Result<Option<ExecId>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = ExecId::new(id).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Some(id))
}

fn answer<T>(result: Result<T, task::TaskError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(refuse)
}

#[tonic::async_trait]
impl wire::tasks_server::Tasks for Tasks {
    async fn create(
        &self,
        request: Request<wire::CreateTaskRequest>,
    ) -> Result<Response<wire::CreateTaskResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let id = container_id(&request.container_id)?;
        let container = self.containers.get(&namespace, id.as_str()).await.map_err(refuse)?;
        let spec = container.spec.ok_or_else(|| {
            Status::failed_precondition(format!("container {id} has no runtime spec"))
        })?;
        if request.checkpoint.is_some() {
            return Err(Status::unimplemented("restoring a checkpoint from the content store"));
        }
        let given = |options: &Any| !options.value.is_empty();
        let create = task::Create {
            id,
            runtime: match request.runtime_path {
                path if path.is_empty() => container.runtime,
                path => path,
            },
            spec: spec.value,
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            checkpoint: None,
            options: request.options.filter(given).map(Into::into).or(container.options),
        };
        let pid = self.tasks.create(&namespace, create).await.map_err(refuse)?;
        Ok(Response::new(wire::CreateTaskResponse { container_id: request.container_id, pid }))
    }

    async fn start(
        &self,
        request: Request<wire::StartRequest>,
    ) -> Result<Response<wire::StartResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?;
        let init = exec.is_none();
        let start = self.tasks.start(&namespace, &id, exec);
        // Beside the start, so that it costs no time of its own; durable before the answer.
        let noted = async {
            if init { self.containers.started(&namespace, id.as_str()).await } else { Ok(()) }
        };
        let (pid, noted) = tokio::join!(start, noted);
        if let Err(error) = noted {
            // A task without a record, or a full disk: the container runs all the same.
            log::debug!("note that {namespace}/{id} is started: {error}");
        }
        Ok(Response::new(wire::StartResponse { pid: pid.map_err(refuse)? }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteTaskRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let deleted = self.tasks.delete(&namespace, &id).await.map_err(refuse)?;
        Ok(Response::new(deleted_response(request.container_id, deleted)))
    }

    async fn delete_process(
        &self,
        request: Request<wire::DeleteProcessRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?
            .ok_or_else(|| Status::invalid_argument("exec id must not be empty"))?;
        let deleted = self.tasks.delete_exec(&namespace, &id, exec).await.map_err(refuse)?;
        Ok(Response::new(deleted_response(request.exec_id, deleted)))
    }

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<wire::GetResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?;
        let state = self.tasks.state(&namespace, &id, exec.as_ref()).await.map_err(refuse)?;
        let own_id = if exec.is_some() { &request.exec_id } else { &request.container_id };
        let process = Some(process_of(&request.container_id, own_id, state));
        Ok(Response::new(wire::GetResponse { process }))
    }

    async fn list(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        // The request's filter is not looked at, as it is not by containerd.
        let namespace = super::namespace(&request)?;
        let tasks = self.tasks.list(&namespace).await;
        let shown = |(id, state): (ContainerId, _)| process_of(id.as_str(), id.as_str(), state);
        let tasks = tasks.into_iter().map(shown).collect();
        Ok(Response::new(wire::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request);
        let wire::KillRequest { container_id, exec_id: exec, signal, all } = request.into_inner();
        let (namespace, id) = target(&namespace, &container_id)?;
        answer(self.tasks.kill(&namespace, &id, exec_id(&exec)?, signal, all).await)
    }

    async fn exec(
        &self,
        request: Request<wire::ExecProcessRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?
            .ok_or_else(|| Status::invalid_argument("exec id must not be empty"))?;
        let exec = task::Exec {
            id: exec,
            process: request.spec.unwrap_or_default().into(),
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        answer(self.tasks.exec(&namespace, &id, exec).await)
    }

    async fn resize_pty(
        &self,
        request: Request<wire::ResizePtyRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?;
        let size = (request.width, request.height);
        answer(self.tasks.resize(&namespace, &id, exec, size).await)
    }

    async fn close_io(
        &self,
        request: Request<wire::CloseIoRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?;
        if !request.stdin {
            return Ok(Response::new(()));
        }
        answer(self.tasks.close_stdin(&namespace, &id, exec).await)
    }

    async fn pause(
        &self,
        request: Request<wire::PauseTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespace, id) = target(&super::namespace(&request), &request.get_ref().container_id)?;
        answer(self.tasks.pause(&namespace, &id).await)
    }

    async fn resume(
        &self,
        request: Request<wire::ResumeTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespace, id) = target(&super::namespace(&request), &request.get_ref().container_id)?;
        answer(self.tasks.resume(&namespace, &id).await)
    }

    async fn list_pids(
        &self,
        request: Request<wire::ListPidsRequest>,
    ) -> Result<Response<wire::ListPidsResponse>, Status> {
        let (namespace, id) = target(&super::namespace(&request), &request.get_ref().container_id)?;
        let processes = self.tasks.pids(&namespace, &id).await.map_err(refuse)?;
        let shown = |process: task::Process| process::ProcessInfo {
            pid: process.pid,
            info: process.details.map(Into::into),
        };
        let processes = processes.into_iter().map(shown).collect();
        Ok(Response::new(wire::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<wire::CheckpointTaskRequest>,
    ) -> Result<Response<wire::CheckpointTaskResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let path = match &request.options {
            Some(options) if options.type_url.ends_with(CHECKPOINT_OPTIONS) => {
                protos::any::unpack::<protos::grpc::containerd::runc::v1::CheckpointOptions>(
                    options,
                )
                .transpose()
                .map_err(|error| Status::invalid_argument(error.to_string()))?
                .map(|options| options.image_path)
                .unwrap_or_default()
            }
            _ => String::new(),
        };
        if path.is_empty() {
            return Err(Status::unimplemented(
                "writing a checkpoint to the content store; name an image path",
            ));
        }
        let options = request.options.map(Into::into);
        let written = self.tasks.checkpoint(&namespace, &id, path, options).await;
        written.map_err(refuse)?;
        Ok(Response::new(wire::CheckpointTaskResponse::default()))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = super::namespace(&request);
        let wire::UpdateTaskRequest { container_id, resources, annotations } = request.into_inner();
        let (namespace, id) = target(&namespace, &container_id)?;
        let annotations: HashMap<_, _> = annotations.into_iter().collect();
        answer(self.tasks.update(&namespace, &id, resources.map(Into::into), annotations).await)
    }

    async fn metrics(
        &self,
        request: Request<wire::MetricsRequest>,
    ) -> Result<Response<wire::MetricsResponse>, Status> {
        let namespace = super::namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)
            .map_err(|error| Status::invalid_argument(shim_sdk::error::report(&error)))?;
        let wanted = |id: &ContainerId| filters.matches(&Named { id, namespace: &namespace });
        let stats = self.tasks.stats(&namespace, wanted).await;
        let timestamp = Some(std::time::SystemTime::now().into());
        let metric = |(id, data): (ContainerId, crate::any::Any)| Metric {
            timestamp,
            id: id.as_str().to_owned(),
            data: Some(data.into()),
        };
        let metrics = stats.into_iter().map(metric).collect();
        Ok(Response::new(wire::MetricsResponse { metrics }))
    }

    async fn wait(
        &self,
        request: Request<wire::WaitRequest>,
    ) -> Result<Response<wire::WaitResponse>, Status> {
        let namespace = super::namespace(&request);
        let request = request.into_inner();
        let (namespace, id) = target(&namespace, &request.container_id)?;
        let exec = exec_id(&request.exec_id)?;
        let exit = self.tasks.wait(&namespace, &id, exec.as_ref()).await.map_err(refuse)?;
        let exited_at = Some(exit.at.into());
        Ok(Response::new(wire::WaitResponse { exit_status: exit.status, exited_at }))
    }
}

/// What a filter of Metrics can look at.
struct Named<'a> {
    id: &'a ContainerId,
    namespace: &'a Namespace,
}

impl Fields for Named<'_> {
    fn field<'a>(&'a self, path: &[&str]) -> Option<std::borrow::Cow<'a, str>> {
        match path {
            ["id"] => Some(self.id.as_str().into()),
            ["namespace"] => Some(self.namespace.as_str().into()),
            _ => None,
        }
    }
}

fn mount(mount: WireMount) -> Mount {
    let WireMount { r#type: kind, source, target, options } = mount;
    Mount { kind, source, target, options }
}

fn deleted_response(id: String, deleted: Deleted) -> wire::DeleteResponse {
    wire::DeleteResponse {
        id,
        pid: deleted.pid.unwrap_or_default(),
        exit_status: deleted.exit.status,
        exited_at: Some(deleted.exit.at.into()),
    }
}

fn process_of(container_id: &str, id: &str, state: State) -> process::Process {
    let status = match state.status {
        task::Status::Unknown => process::Status::Unknown,
        task::Status::Created => process::Status::Created,
        task::Status::Running => process::Status::Running,
        task::Status::Stopped => process::Status::Stopped,
        task::Status::Paused => process::Status::Paused,
        task::Status::Pausing => process::Status::Pausing,
    };
    process::Process {
        container_id: container_id.to_owned(),
        id: id.to_owned(),
        pid: state.pid.unwrap_or_default(),
        status: status.into(),
        stdin: state.stdio.stdin,
        stdout: state.stdio.stdout,
        stderr: state.stdio.stderr,
        terminal: state.stdio.terminal,
        exit_status: state.exit.map_or(0, |exit| exit.status),
        exited_at: state.exit.map(|exit| exit.at.into()),
    }
}
