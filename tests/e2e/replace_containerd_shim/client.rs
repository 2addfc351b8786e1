//! containerd's own gRPC API, as a client library calls it: quicker than `ctr` by far, and able to
//! ask for what `ctr` has no words for.

use std::path::{Path, PathBuf};

use harness::Containerd;
use harness::shim::bundle;
use protos::grpc::containerd::services::containers::v1 as containers;
use protos::grpc::containerd::services::containers::v1::containers_client::ContainersClient;
use protos::grpc::containerd::services::tasks::v1 as tasks;
use protos::grpc::containerd::services::tasks::v1::tasks_client::TasksClient;
use protos::grpc::containerd::types::Mount;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::grpc;

const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    namespace: String,
}

/// Where a process' streams go: paths or URIs, empty for none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streams<'a> {
    pub(crate) stdout: &'a str,
    pub(crate) stderr: &'a str,
}

impl Client {
    /// Connects, for the root's namespace.
    pub(crate) async fn connect(containerd: &Containerd<'_>, namespace: &str) -> Self {
        let channel = grpc::connect(containerd.address()).await;
        Self { channel, namespace: namespace.to_owned() }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        grpc::request(&self.namespace, message)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// Records a container, whose runtime has the name that is containerd's default.
    pub(crate) async fn record(&self, id: &str, spec: &Value) {
        self.record_for(id, spec, "io.containerd.runc.v2").await;
    }

    /// Records a container for another runtime.
    pub(crate) async fn record_for(&self, id: &str, spec: &Value, runtime: &str) {
        let container = containers::Container {
            id: id.to_owned(),
            runtime: Some(containers::container::Runtime {
                name: runtime.to_owned(),
                options: None,
            }),
            spec: Some(any(SPEC, spec)),
            ..Default::default()
        };
        let request = containers::CreateContainerRequest { container: Some(container) };
        let mut client = ContainersClient::new(self.channel.clone());
        client.create(self.ask(request)).await.unwrap_or_else(|why| panic!("record {id}: {why}"));
    }

    /// Forgets a container.
    pub(crate) async fn forget(&self, id: &str) {
        let request = containers::DeleteContainerRequest { id: id.to_owned() };
        let mut client = ContainersClient::new(self.channel.clone());
        client.delete(self.ask(request)).await.unwrap_or_else(|why| panic!("forget {id}: {why}"));
    }

    /// Creates the task of a recorded container; init's pid.
    pub(crate) async fn create(
        &self,
        id: &str,
        rootfs: Mount,
        streams: Streams<'_>,
    ) -> Result<u32, Status> {
        let request = tasks::CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: vec![rootfs],
            stdout: streams.stdout.to_owned(),
            stderr: streams.stderr.to_owned(),
            ..Default::default()
        };
        Ok(self.tasks().create(self.ask(request)).await?.into_inner().pid)
    }

    /// Starts init (`exec` empty) or an exec.
    pub(crate) async fn start(&self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = tasks::StartRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        Ok(self.tasks().start(self.ask(request)).await?.into_inner().pid)
    }

    /// Waits for an exit; its status.
    pub(crate) async fn wait(&self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = tasks::WaitRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        Ok(self.tasks().wait(self.ask(request)).await?.into_inner().exit_status)
    }

    /// Signals init, or an exec.
    pub(crate) async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<(), Status> {
        let request = tasks::KillRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            all: false,
        };
        self.tasks().kill(self.ask(request)).await.map(|_| ())
    }

    /// Deletes a task; init's exit status.
    pub(crate) async fn delete(&self, id: &str) -> Result<u32, Status> {
        let request = tasks::DeleteTaskRequest { container_id: id.to_owned() };
        Ok(self.tasks().delete(self.ask(request)).await?.into_inner().exit_status)
    }

    /// Deletes an exec; its exit status.
    pub(crate) async fn delete_exec(&self, id: &str, exec: &str) -> Result<u32, Status> {
        let request =
            tasks::DeleteProcessRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        Ok(self.tasks().delete_process(self.ask(request)).await?.into_inner().exit_status)
    }

    /// Adds an exec.
    pub(crate) async fn exec(
        &self,
        id: &str,
        exec: &str,
        script: &str,
        streams: Streams<'_>,
    ) -> Result<(), Status> {
        let request = tasks::ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            spec: Some(any(PROCESS, &bundle::process(&bundle::shell(script)))),
            stdout: streams.stdout.to_owned(),
            stderr: streams.stderr.to_owned(),
            ..Default::default()
        };
        self.tasks().exec(self.ask(request)).await.map(|_| ())
    }

    /// Changes a container's limits.
    pub(crate) async fn update(&self, id: &str, resources: &Value) -> Result<(), Status> {
        let request = tasks::UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(any(RESOURCES, resources)),
            ..Default::default()
        };
        self.tasks().update(self.ask(request)).await.map(|_| ())
    }

    /// An exec from its making to its removal; its exit status.
    pub(crate) async fn exec_to_its_end(
        &self,
        id: &str,
        exec: &str,
        script: &str,
        streams: Streams<'_>,
    ) -> Result<u32, Status> {
        self.exec(id, exec, script, streams).await?;
        self.start(id, exec).await?;
        let status = self.wait(id, exec).await?;
        assert_eq!(self.delete_exec(id, exec).await?, status, "Wait and Delete of {exec} agree");
        Ok(status)
    }
}

fn any(type_url: &str, value: &Value) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: value.to_string().into_bytes() }
}

/// A root file system of busybox for containers that no snapshot is made for.
pub(crate) struct Busybox {
    lower: PathBuf,
    uppers: PathBuf,
}

impl Busybox {
    /// Makes it below a directory.
    pub(crate) fn make(directory: &Path) -> Self {
        let lower = directory.join("lower");
        bundle::busybox(&lower, &harness::programs::system("busybox")).expect("busybox");
        Self { lower, uppers: directory.join("uppers") }
    }

    /// An overlay of one container's own.
    pub(crate) fn mount(&self, id: &str) -> Mount {
        let mount = bundle::overlay(&self.lower, &self.uppers.join(id)).expect("directories");
        Mount {
            r#type: mount.type_,
            source: mount.source,
            options: mount.options,
            ..Default::default()
        }
    }

    /// Removes what a container wrote.
    pub(crate) fn discard(&self, id: &str) {
        std::fs::remove_dir_all(self.uppers.join(id)).expect("it was made");
    }
}
