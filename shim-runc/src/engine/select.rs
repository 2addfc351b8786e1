//! Selects the engine of a container.
//!
//! The name of the shim's binary selects the default engine. The runtime option `BinaryName`
//! overrides it: `libcontainer` and `youki` select the engine inside the shim, every other value is
//! the path or the name of a runtime program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use shim_sdk::{ContainerId, Io, Pid};

use super::libcontainer::Libcontainer;
use super::runc::Runc;
use super::{
    CheckpointRequest, CreateRequest, Engine, EngineRoot, ExecRequest, RestoreRequest,
    UpdateRequest,
};
use crate::error::EngineError;
use crate::options::Options;

/// The engine that a shim's name and the runtime options select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineSelection {
    /// A runtime program: a path, or a name on PATH.
    Program(PathBuf),
    /// libcontainer, inside the shim.
    Libcontainer,
}

impl EngineSelection {
    /// The default engine of a shim that was started under the name `argv0`.
    pub(crate) fn of_shim(argv0: &OsStr) -> Self {
        let name = Path::new(argv0).file_name().unwrap_or_default();
        if name.to_string_lossy().contains("youki") {
            Self::Libcontainer
        } else {
            Self::Program("runc".into())
        }
    }

    /// The engine that a client's runtime options select; `self` is the default.
    pub(crate) fn with_options(&self, options: &Options) -> Self {
        match options.binary_name.as_str() {
            "" => self.clone(),
            "libcontainer" | "youki" => Self::Libcontainer,
            program => Self::Program(program.into()),
        }
    }

    /// The directory where the engine keeps the state of a namespace's containers.
    pub(crate) fn state_directory(&self, options: &Options, namespace: &str) -> EngineRoot {
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
    /// Shared by all containers of the shim whose state is in one directory.
    Libcontainer(Rc<Libcontainer>),
}

/// Calls a method of the engine that is in the enum.
macro_rules! either {
    ($engine:expr, $method:ident($($argument:expr),*)) => {
        match $engine {
            AnyEngine::Runc(engine) => engine.$method($($argument),*).await,
            AnyEngine::Libcontainer(engine) => engine.$method($($argument),*).await,
        }
    };
}

impl Engine for AnyEngine {
    async fn create(&self, request: &CreateRequest<'_>, io: Io) -> Result<Pid, EngineError> {
        either!(self, create(request, io))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        either!(self, start(id))
    }

    async fn exec(&self, request: &ExecRequest<'_>, io: Io) -> Result<Pid, EngineError> {
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

    async fn update(&self, request: &UpdateRequest<'_>) -> Result<(), EngineError> {
        either!(self, update(request))
    }

    async fn checkpoint(&self, request: &CheckpointRequest<'_>) -> Result<(), EngineError> {
        either!(self, checkpoint(request))
    }

    async fn restore(&self, request: &RestoreRequest<'_>, io: Io) -> Result<Pid, EngineError> {
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
        let runc = EngineSelection::of_shim(OsStr::new("/usr/bin/containerd-shim-runc-v2"));
        assert_eq!(runc, EngineSelection::Program("runc".into()));
        let youki = EngineSelection::of_shim(OsStr::new("containerd-shim-youki-v1"));
        assert_eq!(youki, EngineSelection::Libcontainer);
        assert_eq!(
            youki.with_options(&options("crun", "")),
            EngineSelection::Program("crun".into())
        );
        assert_eq!(runc.with_options(&options("libcontainer", "")), EngineSelection::Libcontainer);
        assert_eq!(runc.with_options(&options("", "")), runc);
    }

    #[test]
    fn state_is_kept_by_namespace_below_the_root() {
        let runc = EngineSelection::Program("runc".into());
        assert_eq!(
            runc.state_directory(&options("", ""), "ns").0,
            Path::new("/run/containerd/runc/ns")
        );
        assert_eq!(runc.state_directory(&options("", "/r"), "ns").0, Path::new("/r/ns"));
        assert_eq!(
            EngineSelection::Libcontainer.state_directory(&options("", ""), "ns").0,
            Path::new("/run/containerd/youki/ns")
        );
    }
}
