//! The tasks of this daemon, by namespace and id, and what is known of each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shim_sdk::shim_path::{Platform, SearchPath, is_executable, resolve};
use shim_sdk::{ContainerId, Exit};
use tokio::sync::watch;

use super::Stdio;
use super::bundle::{Dirs, Remains};
use super::error::TaskError;
use super::lifecycle::{Input, Outcome, Phase, Refused, Request, Step, decide};
use super::log::Drain;
use super::shim_client::bootstrap::{Dialect, Parameters};
use super::shim_client::{Client, Shared};
use super::shim_command::Shim;
use crate::config::DaemonConfig;
use crate::events::{Bus, Envelope, EventError};
use crate::metadata::Namespace;

/// The directories of tasks, and the parameters that every shim is started with.
#[derive(Debug)]
pub(crate) struct ShimEnvironment {
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    grpc_address: String,
    ttrpc_address: String,
    binary: String,
    /// Where shims put their sockets; their own default when this would be too long.
    pub(super) socket_dir: Option<String>,
    shims: SearchPath,
}

/// All tasks; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) environment: ShimEnvironment,
    pub(super) events: Bus,
    /// Never held across an await.
    table: Mutex<HashMap<(Namespace, ContainerId), Arc<Task>>>,
    /// Shims that refused the newer way of being asked.
    legacy: Mutex<Vec<PathBuf>>,
    /// Set once, when the daemon stops.
    pub(super) stop: watch::Sender<bool>,
}

/// One task.
pub(super) struct Task {
    pub(super) namespace: Namespace,
    pub(super) id: ContainerId,
    pub(super) dirs: Dirs,
    /// Written by [`Task::record`] alone.
    phase: watch::Sender<Phase>,
    /// Held while the task is deleted, or its dead shim cleaned up: one at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Tells a Create under way to give up: the task is to be deleted.
    pub(super) abandon: tokio::sync::Notify,
    /// Where init's streams go, once that is known.
    pub(super) stdio: OnceLock<Stdio>,
    known: Mutex<Known>,
}

/// What is known of a task besides its phase.
#[derive(Default)]
struct Known {
    client: Option<Shared>,
    /// The exit of init as its shim told it, and so did subscribers hear of it.
    told: Option<Exit>,
    /// What a dead task leaves.
    remains: Option<Remains>,
    drain: Option<Drain>,
}

impl ShimEnvironment {
    /// The environment that a configuration gives.
    pub(crate) fn new(config: &DaemonConfig) -> Self {
        let socket_dir = config.state.join("s").display().to_string();
        let fits = socket_dir.len() <= shim_sdk::address::MAX_SOCKET_DIR_BYTES;
        let binary = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self {
            root: config.root.clone(),
            state: config.state.clone(),
            grpc_address: config.address.display().to_string(),
            ttrpc_address: config.event_address().display().to_string(),
            binary: binary.display().to_string(),
            socket_dir: fits.then_some(socket_dir),
            shims: SearchPath::of_this_process(vec![config.opt.join("bin")]),
        }
    }

    /// The binary of a runtime's shim.
    pub(super) fn shim(&self, runtime: &str) -> Result<PathBuf, TaskError> {
        Ok(resolve(runtime, Platform::Unix, &self.shims, is_executable)?)
    }

    /// Where a shim of ours listens for a group that consists of one task.
    pub(super) fn shim_socket(&self, namespace: &Namespace, id: &ContainerId) -> Option<PathBuf> {
        let directory = self.socket_dir.as_deref().unwrap_or(shim_sdk::address::DEFAULT_SOCKET_DIR);
        let namespace = namespace.as_str();
        let directory = Path::new(directory);
        shim_sdk::address::socket_path(directory, &self.grpc_address, namespace, id.as_str()).ok()
    }

    /// What a shim is started with for a task.
    pub(super) fn parameters<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a ContainerId,
        options: Option<&'a crate::any::Any>,
    ) -> Parameters<'a> {
        Parameters {
            id: id.as_str(),
            namespace: namespace.as_str(),
            debug: log::log_enabled!(log::Level::Debug),
            ttrpc_address: &self.ttrpc_address,
            grpc_address: &self.grpc_address,
            binary: &self.binary,
            socket_dir: self.socket_dir.as_deref(),
            options,
        }
    }
}

impl Tasks {
    /// No tasks yet; `recover` finds those that are there.
    pub(crate) fn new(environment: ShimEnvironment, events: Bus) -> Self {
        Self {
            inner: Arc::new(Inner {
                environment,
                events,
                table: Mutex::default(),
                legacy: Mutex::default(),
                stop: watch::Sender::new(false),
            }),
        }
    }

    /// Ends what waits for the end of a process: the daemon stops, the processes do not.
    pub(crate) fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Takes an event from a shim: notes an exit, and passes the event on.
    pub(crate) fn deliver(&self, envelope: Envelope) -> Result<(), EventError> {
        if let Some(exit) = super::shim_client::task_exit(&envelope)
            && exit.id == exit.container_id
            && let Ok(namespace) = Namespace::new(&*envelope.namespace)
            && let Ok(id) = ContainerId::new(exit.container_id)
            && let Some(task) = self.lookup(&namespace, &id)
        {
            task.known().told = Some(Exit { status: exit.exit_status, at: exit.exited_at });
        }
        self.inner.events.forward(envelope)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<(Namespace, ContainerId), Arc<Task>>> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lookup(&self, namespace: &Namespace, id: &ContainerId) -> Option<Arc<Task>> {
        self.table().get(&(namespace.clone(), id.clone())).cloned()
    }

    /// The task of an id and what a request on it leads to.
    pub(super) fn admit(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        request: Request,
    ) -> Result<(Arc<Task>, Step), TaskError> {
        let not_found = || TaskError::NotFound { id: id.to_string() };
        let task = self.lookup(namespace, id).ok_or_else(not_found)?;
        let step = task.decide(request)?;
        Ok((task, step))
    }

    /// Whether an id is taken: also by a task that is still being made, or being deleted, which
    /// does not exist to clients.
    pub(crate) fn is_taken(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        self.lookup(namespace, id).is_some_and(|task| task.decide(Request::Create).is_err())
    }

    /// Takes an id.
    pub(super) fn reserve(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Arc<Task>, TaskError> {
        let mut table = self.table();
        let key = (namespace.clone(), id.clone());
        if let Some(task) = table.get(&key) {
            task.decide(Request::Create)?;
        }
        let task = Arc::new(Task {
            namespace: namespace.clone(),
            id: id.clone(),
            dirs: Dirs::of(
                &self.inner.environment.root,
                &self.inner.environment.state,
                namespace,
                id,
            ),
            phase: watch::Sender::new(Phase::Starting),
            turn: tokio::sync::Mutex::default(),
            abandon: tokio::sync::Notify::new(),
            stdio: OnceLock::new(),
            known: Mutex::default(),
        });
        table.insert(key, task.clone());
        Ok(task)
    }

    /// Gives the id back; nothing of the task remains.
    pub(super) fn forget(&self, task: &Arc<Task>) {
        let mut table = self.table();
        let key = (task.namespace.clone(), task.id.clone());
        if table.get(&key).is_some_and(|known| Arc::ptr_eq(known, task)) {
            table.remove(&key);
        }
        *task.known() = Known::default();
        task.record(Outcome::Removed);
    }

    /// The tasks of a namespace that exist to clients, by id.
    pub(super) fn of(&self, namespace: &Namespace) -> Vec<Arc<Task>> {
        let exists =
            |task: &&Arc<Task>| task.namespace == *namespace && task.decide(Request::Ask).is_ok();
        let mut tasks: Vec<_> = self.table().values().filter(exists).cloned().collect();
        tasks.sort_by(|one, other| one.id.cmp(&other.id));
        tasks
    }

    /// How a shim wants to be asked.
    pub(super) fn dialect(&self, shim: &Path) -> Dialect {
        let legacy = self.inner.legacy.lock().unwrap_or_else(PoisonError::into_inner);
        if legacy.iter().any(|known| known == shim) {
            Dialect::Options
        } else {
            Dialect::Parameters
        }
    }

    /// Remembers that a shim refuses the newer way of being asked.
    pub(super) fn remember_legacy(&self, shim: &Path) {
        self.inner.legacy.lock().unwrap_or_else(PoisonError::into_inner).push(shim.to_owned());
    }
}

impl Task {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request leads to now.
    pub(super) fn decide(&self, request: Request) -> Result<Step, TaskError> {
        let id = || self.id.to_string();
        decide(*self.phase.borrow(), Input::Asked(request)).map_err(|refused| match refused {
            Refused::Exists => TaskError::Exists { id: id() },
            Refused::NotFound | Refused::Unexpected => TaskError::NotFound { id: id() },
            Refused::Finished => TaskError::Finished { id: id() },
            Refused::Exited => TaskError::Exited { id: id() },
        })
    }

    /// Notes an outcome; the only place that writes the phase. Returns what is to be done.
    pub(super) fn record(&self, outcome: Outcome) -> Step {
        let mut decided = Ok(Step::Ignore);
        self.phase.send_if_modified(|phase| {
            decided = decide(*phase, Input::Happened(outcome));
            match decided {
                Ok(Step::Enter(next)) => {
                    *phase = next;
                    true
                }
                Ok(_) | Err(_) => false,
            }
        });
        decided.unwrap_or_else(|_| {
            log::error!("{}: {outcome:?} in phase {:?}", self.name(), *self.phase.borrow());
            Step::Ignore
        })
    }

    /// Its phases from now on. A change is also announced when a shim is reached again.
    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Its name in logs.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.id)
    }

    /// The connection to its shim.
    pub(super) fn client(&self) -> Result<Shared, TaskError> {
        let recovering = || TaskError::Recovering { id: self.id.to_string() };
        self.known().client.clone().ok_or_else(recovering)
    }

    pub(super) fn set_client(&self, client: Client) -> Shared {
        let client = Arc::new(client);
        self.known().client = Some(client.clone());
        // A Wait that lost the connection looks again.
        self.phase.send_modify(|_| ());
        client
    }

    pub(super) fn drop_client(&self) {
        self.known().client = None;
    }

    /// The exit of init that its shim told, and subscribers know.
    pub(super) fn told(&self) -> Option<Exit> {
        self.known().told
    }

    pub(super) fn remains(&self) -> Option<Remains> {
        self.known().remains
    }

    /// Its shim is gone; this is what it leaves.
    pub(super) fn died(&self, remains: Remains) {
        let mut known = self.known();
        known.client = None;
        known.drain = None;
        known.remains = Some(remains);
        drop(known);
        self.record(Outcome::Died);
    }

    pub(super) fn keep_drain(&self, drain: Drain) {
        self.known().drain = Some(drain);
    }

    /// The shim's binary, as it is called for this task.
    pub(super) fn shim(&self, path: PathBuf) -> Shim {
        Shim { path, bundle: self.dirs.bundle().to_owned() }
    }
}
