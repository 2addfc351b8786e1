//! The trait that the author of a shim implements, and its types.
//!
//! The terms, the states in which a request is valid, and what a runtime can rely on are on the
//! [crate's page](crate).
//!
//! See the OCI runtime specification and containerd's documentation of runtime v2.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Process;

use crate::error::Result;
use crate::stdio::Io;
use crate::{Bundle, ContainerId, ExecId, Mount, Pid, Signal};

/// A container runtime, as a shim needs it.
///
/// The methods without a default are enough for a complete shim. Each other method has a default:
/// it answers UNIMPLEMENTED, or does what suits a runtime of plain host processes.
#[allow(async_fn_in_trait)] // every future runs on the shim's one thread
pub trait Runtime: Sized + 'static {
    /// The runtime's own record of one container, from create to delete.
    type Container: 'static;

    /// Name, version and the optional requests that work, for `-info`, `-v` and UNIMPLEMENTED.
    ///
    /// Called once when the server starts, and by the commands `-v` and `-info`. It must be cheap.
    fn describe(&self) -> Description;

    /// Makes a container. Its init is ready, and does not run the user's command yet.
    ///
    /// Called once per container; its id is free and its bundle exists. The root file system is
    /// mounted, the streams are open. Requests for the container are answered only after this
    /// returns.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a spec or options that make no sense, UNIMPLEMENTED for a feature that
    /// this runtime lacks. The runtime leaves nothing behind; the SDK unmounts the root file system
    /// and closes the streams, and the id is free again.
    async fn create(&self, request: Create, io: Io) -> Result<Created<Self::Container>>;

    /// Runs the user's command. Returns init's pid; if create returned one, it is the same.
    ///
    /// Called in state created. Execs may have been started before.
    ///
    /// # Errors
    ///
    /// The container stays created: the client may start it again, or delete it.
    async fn start(&self, container: &Self::Container) -> Result<Pid>;

    /// Starts a further process in a container that is created or running. The default refuses.
    ///
    /// Called once per exec, when the client starts it; its id is free among the container's execs.
    /// Several calls may run at the same time.
    ///
    /// # Errors
    ///
    /// NOT_FOUND or INVALID_ARGUMENT for a command that cannot be run. No process runs, and the
    /// exec can only be deleted.
    async fn exec(&self, _container: &Self::Container, _request: Exec, _io: Io) -> Result<Pid> {
        Err(crate::Error::unimplemented("exec"))
    }

    /// Removes what create made.
    ///
    /// Init has exited and its output was drained (for 10 s at most), or init never existed. No
    /// exec runs. The SDK unmounts the root file system after this method, or at the same time if
    /// [`deletes_without_rootfs`](Self::deletes_without_rootfs).
    ///
    /// # Errors
    ///
    /// The container stays as it was, and this may be called again. It is no error if a part of the
    /// container does not exist any more.
    async fn delete(&self, container: &Self::Container) -> Result<()>;

    /// Whether the delete of this container, its hooks included, needs no root file system. Then
    /// the SDK unmounts it at the same time, which makes Delete faster: both calls mostly wait.
    fn deletes_without_rootfs(&self, _container: &Self::Container) -> bool {
        false
    }

    /// Removes a container whose shim died. Only its bundle is known.
    ///
    /// It kills every process of the container that still runs; the SDK has killed the init that
    /// the journal names. It is called in a new process (`delete` on the command line), which may
    /// be of a newer version than the shim that died. That shim may have died at any time: during
    /// create, or before it.
    ///
    /// # Errors
    ///
    /// The daemon logs the error and may call again. It is no error if there is nothing to remove.
    async fn clean_up(&self, id: &ContainerId, bundle: &Bundle) -> Result<()>;

    /// Signals one process: init in any state from created to paused, or an exec that runs.
    ///
    /// The default sends it by pidfd, so it never reaches another process with a reused pid.
    ///
    /// # Errors
    ///
    /// NOT_FOUND when the process has ended; clients treat that as success.
    async fn signal(
        &self,
        _container: &Self::Container,
        process: &crate::ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        process.signal(signal)
    }

    /// Signals every process of the container, including init. Valid in the same states as
    /// [`signal`](Self::signal) of init. The default signals only init.
    async fn signal_all(
        &self,
        container: &Self::Container,
        init: &crate::ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        self.signal(container, init, signal).await
    }

    /// Init has exited. The SDK publishes the exit when this returns, after 10 s at the latest.
    ///
    /// Here a runtime ends the processes that init left (in a container without its own pid
    /// namespace), resumes a frozen container, and reports an out-of-memory kill that it saw late.
    async fn init_exited(&self, _container: &Self::Container) {}

    /// Freezes every process. Called in state running.
    ///
    /// # Errors
    ///
    /// The container is still reported as running.
    async fn pause(&self, _container: &Self::Container) -> Result<()> {
        Err(crate::Error::unimplemented("pause"))
    }

    /// Ends a pause. Called in state paused.
    ///
    /// # Errors
    ///
    /// The container stays paused.
    async fn resume(&self, _container: &Self::Container) -> Result<()> {
        Err(crate::Error::unimplemented("resume"))
    }

    /// Every pid in the container, in any state before delete. For `None`, for an error, and after
    /// one second without an answer, the SDK answers with init and the execs.
    async fn pids(&self, _container: &Self::Container) -> Result<Option<Vec<Pid>>> {
        Ok(None)
    }

    /// Statistics, in the type that containerd's clients expect on this platform (on Linux
    /// `io.containerd.cgroups.v1.Metrics` or `.v2.Metrics`), in any state before delete.
    async fn stats(&self, _container: &Self::Container) -> Result<Payload> {
        Err(crate::Error::unimplemented("stats"))
    }

    /// Changes resource limits; the payload is the OCI spec's `LinuxResources` or
    /// `WindowsResources` as JSON. Called in any state from created to paused.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for limits that make no sense. The old limits stay.
    async fn update(&self, _container: &Self::Container, _resources: Payload) -> Result<()> {
        Err(crate::Error::unimplemented("update"))
    }

    /// Writes a checkpoint to a directory. Called in state running or paused. The options say
    /// whether init continues afterwards.
    ///
    /// # Errors
    ///
    /// The container continues as before.
    async fn checkpoint(&self, _container: &Self::Container, _request: Checkpoint) -> Result<()> {
        Err(crate::Error::unimplemented("checkpoint"))
    }

    /// The group of a container. Containers of one group share one shim. By default each container
    /// has its own shim, unless it has one of the group annotations that containerd defines.
    fn group(&self, annotations: &HashMap<String, String>) -> Option<String> {
        crate::group::from_annotations(annotations)
    }
}

/// A description of a runtime.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The runtime's name, as in `io.containerd.NAME.VERSION`.
    pub name: &'static str,
    /// The version of the shim.
    pub version: &'static str,
    /// Version control revision, if known.
    pub revision: &'static str,
    /// The optional calls that work. For the others the SDK answers UNIMPLEMENTED and calls no
    /// method.
    pub capabilities: Capabilities,
    /// OCI features as JSON (`runc features`), for `-info`.
    pub features: Option<serde_json::Value>,
}

/// The optional calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each field has the name of its method
pub struct Capabilities {
    pub pause: bool,
    pub stats: bool,
    pub update: bool,
    pub checkpoint: bool,
    pub terminal: bool,
}

/// A request to make a container.
#[derive(Debug)]
pub struct Create {
    /// The container's identifier, unique in its namespace.
    pub id: ContainerId,
    /// containerd's namespace.
    pub namespace: String,
    /// The bundle; `bundle.spec()` reads its `config.json`.
    pub bundle: Bundle,
    /// The mounts that were made on `rootfs`. Without any, the bundle's own `rootfs` is used.
    pub rootfs: Vec<Mount>,
    /// Runtime options as the client sent them.
    pub options: Option<Payload>,
    /// The directory of a checkpoint to restore from at start.
    pub checkpoint: Option<PathBuf>,
    /// To report events of the container, such as an out-of-memory kill.
    pub notifier: crate::Notifier,
}

/// A container that was made.
#[derive(Debug)]
pub struct Created<C> {
    /// The runtime's own record.
    pub container: C,
    /// Init's pid, if init is a process already.
    pub pid: Option<Pid>,
}

/// A request to start a further process.
#[derive(Debug)]
pub struct Exec {
    /// The exec's identifier, unique in its container.
    pub id: ExecId,
    /// The OCI process.
    pub process: Process,
}

/// A request to write a checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory to write to.
    pub path: PathBuf,
    /// Checkpoint options as the client sent them.
    pub options: Option<Payload>,
}

/// A typed value that the SDK passes on without decoding it: containerd's `Any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The type's URL.
    pub type_url: String,
    /// The encoded value.
    pub value: Vec<u8>,
}

/// How long the SDK waits for output after a process has exited.
pub const DRAIN: Duration = Duration::from_secs(10);
