//! Tasks: containers that run, each in its shim.
//!
//! # Terms
//!
//! - *task*: a container from Create to Delete; its *init* and its *execs* are processes.
//! - *shim*: the process that holds a task; it outlives this daemon.
//! - *bundle*: the task's directory under the state directory; a bundle is a task that exists.
//! - *clean up after* a dead shim: to remove what it left, and keep the exit of its task.
//!
//! Promise: a task survives this daemon's death; its exit is known until the task is deleted,
//! whichever process died in between; a client that goes away in the middle of a call leaves nothing half
//! done. Answers to containerd's runtime v2 documentation.
//! Not here: the records of containers ([`crate::container`]) and the wire ([`crate::api`]).

mod bundle;
mod crash;
mod create;
mod delete;
mod error;
mod event_server;
#[cfg(test)]
mod fuzz;
mod job;
mod lifecycle;
mod log;
mod recovery;
mod requests;
mod shim_client;
mod shim_command;
mod sys;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shim_sdk::{ContainerId, ExecId, Exit, Mount};

pub(crate) use error::TaskError;
pub(crate) use event_server::listen;
pub(crate) use table::{ShimEnvironment, Tasks};

use crate::any::Any;
use crate::container::Container;
use crate::metadata::{Labels, Namespace};

/// The label of a record that was made from what was left of it.
pub(crate) const RECOVERED: &str = "supervisor/recovered";

/// What is to become a task.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) id: ContainerId,
    /// The runtime's name, or its shim's absolute path.
    pub(crate) runtime: String,
    /// The OCI runtime spec as JSON.
    pub(crate) spec: Vec<u8>,
    /// The mounts that make the root file system.
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: Stdio,
    /// The directory of a checkpoint to restore.
    pub(crate) checkpoint: Option<PathBuf>,
    /// Options for the runtime.
    pub(crate) options: Option<Any>,
}

/// A further process of a task.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) id: ExecId,
    /// The OCI process, typed.
    pub(crate) process: Any,
    pub(crate) stdio: Stdio,
}

/// Where a process's streams go: paths or URIs, empty for nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stdio {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The shim did not say in time.
    Unknown,
    Created,
    Running,
    Stopped,
    Paused,
    Pausing,
}

/// A process as its shim, or its record, tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) pid: Option<u32>,
    pub(crate) status: Status,
    pub(crate) stdio: Stdio,
    pub(crate) exit: Option<Exit>,
}

/// A process that is no more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Deleted {
    pub(crate) pid: Option<u32>,
    pub(crate) exit: Exit,
}

/// A process of a container, with what the runtime tells about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) details: Option<Any>,
}

/// Whether there is a bundle of any task under a state directory.
pub(crate) fn any_bundle(state: &Path) -> bool {
    bundle::all(state).next().is_some()
}

/// The containers that the bundles under a state directory tell of: their specs and runtimes, not
/// their images and labels.
pub(crate) fn containers_of_bundles(state: &Path) -> Vec<(Namespace, Container)> {
    bundle::all(state)
        .filter_map(|(namespace, id)| {
            let dirs = bundle::Dirs::of(state, state, &namespace, &id);
            let spec = Any { type_url: protos::any::SPEC.to_owned(), value: dirs.spec()? };
            let container = Container {
                id: id.as_str().to_owned(),
                labels: Labels::from([(RECOVERED.to_owned(), "bundle".to_owned())]),
                image: String::new(),
                runtime: dirs.shim()?.to_str()?.to_owned(),
                options: None,
                spec: Some(spec),
                snapshotter: String::new(),
                snapshot_key: String::new(),
                sandbox: String::new(),
                extensions: BTreeMap::new(),
                created: SystemTime::now(),
                updated: SystemTime::now(),
            };
            Some((namespace, container))
        })
        .collect()
}
