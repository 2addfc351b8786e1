//! Which engine a container gets, and how a call reaches it.
//!
//! The shim's own name decides the default; the runtime option `BinaryName` overrides it: the name
//! of the in-process engine, or else a runtime program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use shim_sdk::{ContainerId, Io, Pid};

use super::libcontainer::Libcontainer;
use super::runc::Runc;
use super::{
    CheckpointContainer, CreateContainer, Engine, EngineRoot, ExecProcess, RestoreContainer,
};
use crate::error::EngineError;
use crate::options::Options;

/// What makes the containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A runtime program: a path, or a name on PATH.
    Program(PathBuf),
    /// libcontainer, within the shim.
    Libcontainer,
}

impl Choice {
    /// The default of a shim that was started under this name.
    pub(crate) fn of_shim(argv0: &OsStr) -> Self {
        let name = Path::new(argv0).file_name().unwrap_or_default();
        if name.to_string_lossy().contains("youki") {
            Self::Libcontainer
        } else {
            Self::Program("runc".into())
        }
    }

    /// What a client's options ask for.
    pub(crate) fn with_options(&self, options: &Options) -> Self {
        match options.binary_name.as_str() {
            "" => self.clone(),
            "libcontainer" | "youki" => Self::Libcontainer,
            program => Self::Program(program.into()),
        }
    }

    /// Where the engine keeps its records of a namespace.
    pub(crate) fn root(&self, options: &Options, namespace: &str) -> EngineRoot {
        let default = match self {
            Self::Program(_) => "/run/containerd/runc",
            Self::Libcontainer => "/run/containerd/youki",
        };
        let root = if options.root.is_empty() { default } else { options.root.as_str() };
        EngineRoot(Path::new(root).join(namespace))
    }
}

/// The engine of one container.
#[derive(Debug)]
pub(crate) enum AnyEngine {
    Runc(Runc),
    /// Shared by all containers of the shim whose records are under one root.
    Libcontainer(Rc<Libcontainer>),
}

/// Calls a method of whichever engine it is.
macro_rules! either {
    ($engine:expr, $method:ident($($argument:expr),*)) => {
        match $engine {
            AnyEngine::Runc(engine) => engine.$method($($argument),*).await,
            AnyEngine::Libcontainer(engine) => engine.$method($($argument),*).await,
        }
    };
}

impl Engine for AnyEngine {
    async fn create(&self, request: &CreateContainer<'_>, io: Io) -> Result<Pid, EngineError> {
        either!(self, create(request, io))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        either!(self, start(id))
    }

    async fn exec(&self, request: &ExecProcess<'_>, io: Io) -> Result<Pid, EngineError> {
        either!(self, exec(request, io))
    }

    fn init_exited(&self, id: &ContainerId) {
        match self {
            Self::Runc(engine) => engine.init_exited(id),
            Self::Libcontainer(engine) => engine.init_exited(id),
        }
    }

    fn groups_file(&self, id: &ContainerId) -> (PathBuf, Option<&Path>) {
        match self {
            Self::Runc(engine) => engine.groups_file(id),
            Self::Libcontainer(engine) => engine.groups_file(id),
        }
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        either!(self, delete(id, force))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        either!(self, pause(id))
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), EngineError> {
        either!(self, resume(id))
    }

    async fn update(&self, id: &ContainerId, resources: &[u8]) -> Result<(), EngineError> {
        either!(self, update(id, resources))
    }

    async fn checkpoint(&self, request: &CheckpointContainer<'_>) -> Result<(), EngineError> {
        either!(self, checkpoint(request))
    }

    async fn restore(&self, request: &RestoreContainer<'_>, io: Io) -> Result<Pid, EngineError> {
        either!(self, restore(request, io))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(binary_name: &str, root: &str) -> Options {
        Options { binary_name: binary_name.into(), root: root.into(), ..Options::default() }
    }

    #[test]
    fn the_shims_name_decides_and_the_options_override() {
        let runc = Choice::of_shim(OsStr::new("/usr/bin/containerd-shim-runc-v2"));
        assert_eq!(runc, Choice::Program("runc".into()));
        let youki = Choice::of_shim(OsStr::new("containerd-shim-youki-v1"));
        assert_eq!(youki, Choice::Libcontainer);
        assert_eq!(youki.with_options(&options("crun", "")), Choice::Program("crun".into()));
        assert_eq!(runc.with_options(&options("libcontainer", "")), Choice::Libcontainer);
        assert_eq!(runc.with_options(&options("", "")), runc);
    }

    #[test]
    fn records_are_kept_by_namespace_below_the_root() {
        let runc = Choice::Program("runc".into());
        assert_eq!(runc.root(&options("", ""), "ns").0, Path::new("/run/containerd/runc/ns"));
        assert_eq!(runc.root(&options("", "/r"), "ns").0, Path::new("/r/ns"));
        assert_eq!(
            Choice::Libcontainer.root(&options("", ""), "ns").0,
            Path::new("/run/containerd/youki/ns")
        );
    }
}
