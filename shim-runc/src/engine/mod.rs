//! The seam between the shim and what makes its containers.
//!
//! An engine knows containers by id and keeps what it must under its own root directory, so a
//! fresh process (`delete` after a crash) can go on where a dead one stopped. Everything that both
//! engines have in common, cgroups, statistics, out-of-memory events, signals by pidfd, stays
//! outside.

mod choice;
pub(crate) mod libcontainer;
pub(crate) mod runc;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use shim_sdk::{ContainerId, ExecId, Io, Pid};

pub(crate) use choice::{AnyEngine, Choice};

use crate::error::{EngineError, Operation};
use crate::options::CheckpointOptions;

/// Makes and removes containers and the processes in them.
#[allow(async_fn_in_trait)] // every future runs on the shim's one thread
pub(crate) trait Engine {
    /// Makes a container with its init waiting to be started; returns init's pid.
    /// On an error nothing remains.
    async fn create(&self, request: &CreateContainer<'_>, io: Io) -> Result<Pid, EngineError>;

    /// Lets the init of a created container run the user's command.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Starts a process in a container; returns its pid.
    async fn exec(&self, request: &ExecProcess<'_>, io: Io) -> Result<Pid, EngineError>;

    /// A container's init has ended: what is being made in it may be given up.
    fn init_exited(&self, _id: &ContainerId) {}

    /// Where it is written which groups a container has made, and where the engine has the same of
    /// others.
    fn groups_file(&self, id: &ContainerId) -> (PathBuf, Option<&Path>);

    /// Removes the engine's record, its cgroups and its mounts. With `force`, kills what runs.
    /// A container that does not exist is deleted already.
    async fn delete(&self, id: &ContainerId, force: bool) -> Result<(), EngineError>;

    /// Freezes.
    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Thaws.
    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Changes resource limits where the engine's own records must follow (systemd's units); the
    /// resources are OCI's, as JSON. Otherwise limits are changed without the engine.
    async fn update(&self, _id: &ContainerId, _resources: &[u8]) -> Result<(), EngineError> {
        Err(unsupported(Operation::Update))
    }

    /// Writes a checkpoint.
    async fn checkpoint(&self, _request: &CheckpointContainer<'_>) -> Result<(), EngineError> {
        Err(unsupported(Operation::Checkpoint))
    }

    /// Makes a container from a checkpoint and lets it run on; returns init's pid.
    async fn restore(&self, _request: &RestoreContainer<'_>, _io: Io) -> Result<Pid, EngineError> {
        Err(unsupported(Operation::Restore))
    }
}

fn unsupported(operation: Operation) -> EngineError {
    EngineError::Unsupported { operation, why: "this runtime cannot do that".to_owned() }
}

/// Where the pid of a container's init is kept in its bundle, for a later `delete`.
pub(crate) const INIT_PID_FILE: &str = "init.pid";

/// What [`Engine::create`] needs.
#[derive(Debug)]
pub(crate) struct CreateContainer<'a> {
    pub(crate) id: &'a ContainerId,
    /// The bundle's directory.
    pub(crate) bundle: &'a Path,
    pub(crate) no_pivot_root: bool,
    pub(crate) no_new_keyring: bool,
}

/// What [`Engine::exec`] needs.
#[derive(Debug)]
pub(crate) struct ExecProcess<'a> {
    pub(crate) container: &'a ContainerId,
    pub(crate) id: &'a ExecId,
    pub(crate) process: &'a Process,
}

/// What [`Engine::checkpoint`] needs.
#[derive(Debug)]
pub(crate) struct CheckpointContainer<'a> {
    pub(crate) id: &'a ContainerId,
    /// Where the images go.
    pub(crate) image: &'a Path,
    /// Where criu keeps its logs.
    pub(crate) work: &'a Path,
    pub(crate) options: &'a CheckpointOptions,
}

/// What [`Engine::restore`] needs.
#[derive(Debug)]
pub(crate) struct RestoreContainer<'a> {
    pub(crate) id: &'a ContainerId,
    /// The bundle's directory.
    pub(crate) bundle: &'a Path,
    /// Where the images are.
    pub(crate) image: &'a Path,
    /// Where criu keeps its logs.
    pub(crate) work: &'a Path,
    pub(crate) no_pivot_root: bool,
}

/// Where an engine keeps its records: `<root>/<namespace>`.
#[derive(Debug, Clone)]
pub(crate) struct EngineRoot(pub(crate) PathBuf);
