//! What a runtime author writes.
//!
//! The terms, which request is valid when, and what a runtime may rely on are on the
//! [crate's page](crate).
//!
//! Answers to the OCI runtime specification and containerd's runtime v2 documentation.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Process;

use crate::error::Result;
use crate::stdio::Io;
use crate::{Bundle, ContainerId, ExecId, Mount, Pid, Signal};

/// A container runtime, as a shim needs it.
///
/// Those without a default make a complete shim. Every other has a default that either declares the
/// request unsupported, so that the client is answered UNIMPLEMENTED, or does what a runtime of
/// plain host processes wants.
#[allow(async_fn_in_trait)] // every future runs on the shim's one thread
pub trait Runtime: Sized + 'static {
    /// What the runtime remembers of one container, from create to delete.
    type Container: 'static;

    /// Name, version and the optional requests that work, for `-info`, `-v` and UNIMPLEMENTED.
    ///
    /// Asked once when the server starts, and by each command that tells of the shim; cheap.
    fn describe(&self) -> Description;

    /// Makes a container, with its init ready but not yet running the user's command.
    ///
    /// Called once per container; its id is free and its bundle exists. The root file system is
    /// mounted, the streams are open. Until this answers, nobody can ask for the container.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a spec or options that make no sense, UNIMPLEMENTED for a feature that
    /// this runtime lacks. The runtime leaves nothing behind; the SDK unmounts the root file system
    /// and closes the streams, and the id is free again.
    async fn create(&self, request: Create, io: Io) -> Result<Created<Self::Container>>;

    /// Runs the user's command; returns init's pid (the same one as create's, if that told one).
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
    /// Several may be under way at once.
    ///
    /// # Errors
    ///
    /// NOT_FOUND or INVALID_ARGUMENT for a command that cannot be run. Nothing runs, and the exec
    /// is over: it can only be deleted.
    async fn exec(&self, _container: &Self::Container, _request: Exec, _io: Io) -> Result<Pid> {
        Err(crate::Error::unimplemented("exec"))
    }

    /// Removes what create made.
    ///
    /// Init has exited and its output was drained (for 10 s at most), or there never was one; no
    /// exec runs. When this has answered, the SDK unmounts the root file system; or meanwhile, if
    /// [`deletes_without_rootfs`](Self::deletes_without_rootfs).
    ///
    /// # Errors
    ///
    /// The container stays as it was, and this may be called again; what is already gone is not
    /// an error.
    async fn delete(&self, container: &Self::Container) -> Result<()>;

    /// Whether nothing of this container's delete, hooks among it, looks at the root file system. It
    /// is then unmounted at the same time: both wait, for different things, and a client for both.
    fn deletes_without_rootfs(&self, _container: &Self::Container) -> bool {
        false
    }

    /// Removes a container whose shim died, knowing its bundle alone.
    ///
    /// Kills whatever still runs of it; the SDK has killed the init that the journal knows. Called
    /// in a fresh process (`delete` on the command line), perhaps of a newer version than the one
    /// that died, at whichever stage that was: the create may have been half done, or never begun.
    ///
    /// # Errors
    ///
    /// The daemon logs it and may try again; what is already gone is not an error.
    async fn clean_up(&self, id: &ContainerId, bundle: &Bundle) -> Result<()>;

    /// Signals one process: init in any state from created to paused, or an exec that runs.
    ///
    /// The default sends it by pidfd, so a reused pid is never hit.
    ///
    /// # Errors
    ///
    /// NOT_FOUND when the process has ended: clients take that for success.
    async fn signal(
        &self,
        _container: &Self::Container,
        process: &crate::ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        process.signal(signal)
    }

    /// Signals every process of the container, init among them; valid when
    /// [`signal`](Self::signal) of init is. The default knows only init.
    async fn signal_all(
        &self,
        container: &Self::Container,
        init: &crate::ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        self.signal(container, init, signal).await
    }

    /// Init has exited; its exit is not published before this returns (bounded by 10 s).
    ///
    /// The place to end what init left behind (a container without a pid namespace of its own),
    /// to resume a frozen one, and to report an out-of-memory kill that was seen late.
    async fn init_exited(&self, _container: &Self::Container) {}

    /// Freezes every process. Called in state running.
    ///
    /// # Errors
    ///
    /// The container is running still, as far as the client is told.
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

    /// Every pid in the container, in any state before delete. The default, and an answer that takes
    /// longer than a second or fails, is init and the execs alone.
    async fn pids(&self, _container: &Self::Container) -> Result<Option<Vec<Pid>>> {
        Ok(None)
    }

    /// Statistics as the payload that containerd's clients expect from this platform (on Linux
    /// `io.containerd.cgroups.v1.Metrics` or `.v2.Metrics`), in any state before delete.
    async fn stats(&self, _container: &Self::Container) -> Result<Payload> {
        Err(crate::Error::unimplemented("stats"))
    }

    /// Changes resource limits; the payload is the OCI spec's `LinuxResources` or
    /// `WindowsResources` as JSON. Called in any state from created to paused.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for limits that make no sense; the limits are as they were.
    async fn update(&self, _container: &Self::Container, _resources: Payload) -> Result<()> {
        Err(crate::Error::unimplemented("update"))
    }

    /// Writes a checkpoint to a directory. Called in state running or paused; whether init goes on
    /// afterwards the options say.
    ///
    /// # Errors
    ///
    /// The container goes on as it was.
    async fn checkpoint(&self, _container: &Self::Container, _request: Checkpoint) -> Result<()> {
        Err(crate::Error::unimplemented("checkpoint"))
    }

    /// Which containers share one shim: those of equal group. The default is one shim each,
    /// unless a group annotation that containerd defines says otherwise.
    fn group(&self, annotations: &HashMap<String, String>) -> Option<String> {
        crate::group::from_annotations(annotations)
    }
}

/// What a runtime says of itself.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The runtime's name, as in `io.containerd.NAME.VERSION`.
    pub name: &'static str,
    /// The version of the shim.
    pub version: &'static str,
    /// Version control revision, if known.
    pub revision: &'static str,
    /// The optional calls that work; the others answer UNIMPLEMENTED before they reach a method.
    pub capabilities: Capabilities,
    /// OCI features as JSON (`runc features`), for `-info`.
    pub features: Option<serde_json::Value>,
}

/// The optional calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each is named as its method
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
    /// The mounts that were made on `rootfs`; empty when the bundle's own rootfs is used as it is.
    pub rootfs: Vec<Mount>,
    /// Runtime options as the client sent them.
    pub options: Option<Payload>,
    /// The directory of a checkpoint to restore from at start.
    pub checkpoint: Option<PathBuf>,
    /// Where to report what the kernel does to the container.
    pub notifier: crate::Notifier,
}

/// A container just made.
#[derive(Debug)]
pub struct Created<C> {
    /// The runtime's own record.
    pub container: C,
    /// Init's pid, if there is a process already.
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

/// A typed value that passes through: containerd's `Any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The type's URL.
    pub type_url: String,
    /// The encoded value.
    pub value: Vec<u8>,
}

/// How long the SDK waits for output after a process has exited.
pub const DRAIN: Duration = Duration::from_secs(10);
