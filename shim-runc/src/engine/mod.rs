//! The engines: they create containers for the shim.
//!
//! An engine finds a container by its id. It keeps a container's state in a directory of its own, so
//! that another process (`delete` after the shim was killed) can continue with it. Cgroup statistics,
//! cgroup limits, out-of-memory events and signals are the same for all engines and are not here.
//!
//! `request` has the requests to an engine, `select` decides which engine a container has.

pub(crate) mod libcontainer;
mod request;
pub(crate) mod runc;
mod select;

use std::path::{Path, PathBuf};

use shim_sdk::{ContainerId, Io, Pid};

pub(crate) use request::{
    CheckpointRequest, CreateRequest, ExecRequest, RestoreRequest, UpdateRequest,
};
pub(crate) use select::{AnyEngine, EngineSelection};

use crate::error::{EngineError, Limitation, Operation};

/// Creates and removes containers, and starts processes in them.
#[allow(async_fn_in_trait)] // every future runs on the shim's one thread
pub(crate) trait Engine {
    /// Creates a container; returns the pid of its init, which waits for the start.
    /// After an error nothing of the container is left.
    async fn create(&self, request: &CreateRequest<'_>, io: Io) -> Result<Pid, EngineError>;

    /// Starts a created container: its init executes the user's command.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Starts a process in a container; returns its pid.
    async fn exec(&self, request: &ExecRequest<'_>, io: Io) -> Result<Pid, EngineError>;

    /// The init of a container has exited. The engine may give up an exec that is not ready yet.
    fn init_exited(&self, _id: &ContainerId) {}

    /// The file that lists the cgroups which were created for a container, and the directory with
    /// such files of the engine's other containers, if they are in one.
    fn groups_file(&self, id: &ContainerId) -> (PathBuf, Option<&Path>);

    /// Removes a container: its state, its cgroups and its mounts. `force` kills its processes
    /// first. A container that does not exist is no error.
    async fn delete(&self, id: &ContainerId, force: bool) -> Result<(), EngineError>;

    /// Freezes all processes of a container.
    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Thaws all processes of a container.
    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Changes resource limits. It is called only where systemd keeps the limits too; otherwise the
    /// shim writes the cgroup files itself.
    async fn update(&self, _request: &UpdateRequest<'_>) -> Result<(), EngineError> {
        Err(unsupported(Operation::Update))
    }

    /// Writes a checkpoint.
    async fn checkpoint(&self, _request: &CheckpointRequest<'_>) -> Result<(), EngineError> {
        Err(unsupported(Operation::Checkpoint))
    }

    /// Restores a container from a checkpoint; returns the pid of its init, which runs already.
    async fn restore(&self, _request: &RestoreRequest<'_>, _io: Io) -> Result<Pid, EngineError> {
        Err(unsupported(Operation::Restore))
    }
}

fn unsupported(operation: Operation) -> EngineError {
    EngineError::Unsupported { operation, limit: Limitation::Engine }
}

/// The file in the bundle with the pid of a container's init, for a later `delete`.
pub(crate) const INIT_PID_FILE: &str = "init.pid";

/// The directory where an engine keeps the state of a namespace's containers: `<root>/<namespace>`.
#[derive(Debug, Clone)]
pub(crate) struct EngineRoot(pub(crate) PathBuf);
