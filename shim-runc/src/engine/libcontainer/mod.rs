//! Containers made by libcontainer, in a helper process of the shim's own.

use std::path::PathBuf;

use shim_sdk::{ContainerId, Io, Pid};

use super::{CreateContainer, Engine, ExecProcess, unsupported};
use crate::error::{EngineError, Operation};

/// The engine.
#[derive(Debug)]
pub(crate) struct Libcontainer;

impl Libcontainer {
    /// An engine that keeps its records below `root`.
    pub(crate) fn new(_root: PathBuf) -> Self {
        Self
    }
}

impl Engine for Libcontainer {
    async fn create(&self, _: &CreateContainer<'_>, _: Io) -> Result<Pid, EngineError> {
        Err(unsupported(Operation::Create))
    }

    async fn start(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(unsupported(Operation::Start))
    }

    async fn exec(&self, _: &ExecProcess<'_>, _: Io) -> Result<Pid, EngineError> {
        Err(unsupported(Operation::Exec))
    }

    async fn delete(&self, _: &ContainerId, _: bool) -> Result<(), EngineError> {
        Ok(())
    }

    async fn pause(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(unsupported(Operation::Pause))
    }

    async fn resume(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(unsupported(Operation::Resume))
    }
}
