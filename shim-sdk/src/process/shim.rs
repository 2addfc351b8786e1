//! The table of containers, and the task that owns it.
//!
//! Handlers of the wire send a [`Job`] and wait; the jobs run here, on the shim's one thread, and
//! go on when the handler is gone. What only looks is answered from the table at once, whatever
//! else is under way; what calls the runtime runs as a task of its own.
//!
//! Not here: which request is valid when (`lifecycle`); the wire's types.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::container::{Container, Deleted, not_created};
use super::lifecycle::{Decision, Job as LifecycleJob, Outcome, Phase, Request};
use super::process_state::Process;
use super::refusal::Refusal;
use crate::event::{Event, EventQueue};
use crate::journal::Record;
use crate::notifier::Note;
use crate::stdio::Stdio;
use crate::{
    Bundle, Capabilities, Checkpoint, ContainerId, Error, ExecId, Exit, Kind, Payload, Pid,
    ProcessHandle, Result, Runtime, Signal,
};

/// How many deleted containers are remembered for repeated calls.
const MAX_DELETED: usize = 64;

/// How long nothing must have ended before memory is given back.
const TRIM_DELAY: Duration = Duration::from_millis(500);

/// How long a runtime may take over a question that State-like calls depend on.
const PIDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Work for the shim.
pub(crate) type Job<R> = Box<dyn FnOnce(&Rc<ShimState<R>>) + Send>;

/// Everything the shim knows.
pub(crate) struct ShimState<R: Runtime> {
    pub(crate) runtime: R,
    pub(crate) capabilities: Capabilities,
    pub(crate) namespace: String,
    pub(crate) events: EventQueue,
    pub(crate) notes: mpsc::UnboundedSender<Note>,
    pub(crate) shim_record: Record,
    containers: RefCell<BTreeMap<ContainerId, Rc<Container<R::Container>>>>,
    deleted: RefCell<VecDeque<(ContainerId, Deleted)>>,
    /// Something is over, and what it needed is free.
    memory_freed: Notify,
    /// A container has ended, or is gone.
    container_ended: Notify,
    stop: Rc<Notify>,
    stopping: Cell<bool>,
}

/// What State answers.
#[derive(Debug, Clone)]
pub(crate) struct StateReply {
    pub(crate) bundle: std::path::PathBuf,
    pub(crate) pid: Option<Pid>,
    pub(crate) status: ProcessStatus,
    pub(crate) stdio: Stdio,
    pub(crate) exit: Option<Exit>,
}

/// What a client sees of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessStatus {
    Created,
    Running,
    Pausing,
    Paused,
    Stopped,
}

impl<R: Runtime> ShimState<R> {
    pub(crate) fn new(
        runtime: R,
        namespace: String,
        events: EventQueue,
        notes: mpsc::UnboundedSender<Note>,
        stop: Rc<Notify>,
    ) -> Self {
        let capabilities = runtime.describe().capabilities;
        let pid = Pid::this();
        let start_time = super::start_time::start_time(pid);
        Self {
            runtime,
            capabilities,
            namespace,
            events,
            notes,
            shim_record: Record { pid: Some(pid), start_time, exit: None },
            containers: RefCell::default(),
            deleted: RefCell::default(),
            memory_freed: Notify::new(),
            container_ended: Notify::new(),
            stop,
            stopping: Cell::new(false),
        }
    }

    /// The container, if it is in the table.
    pub(crate) fn container(&self, id: &str) -> Result<Rc<Container<R::Container>>> {
        self.containers.borrow().get(id).cloned().ok_or_else(not_created)
    }

    /// Takes a container's id, if it is free.
    pub(crate) fn reserve(&self, container: Rc<Container<R::Container>>) -> Result<()> {
        if self.stopping.get() {
            return Err(Error::new(Kind::Unavailable, "the shim is shutting down"));
        }
        let mut containers = self.containers.borrow_mut();
        if containers.contains_key(&container.id) {
            let text = format!("container {} already exists", container.id);
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        self.deleted.borrow_mut().retain(|(deleted, _)| *deleted != container.id);
        containers.insert(container.id.clone(), container);
        Ok(())
    }

    /// Gives an id back whose container could not be made.
    pub(crate) fn release(&self, id: &ContainerId) {
        self.containers.borrow_mut().remove(id);
        self.container_ended();
    }

    /// Forgets a container but for what Delete answered.
    pub(crate) fn forget(&self, id: &ContainerId, deleted: Deleted) {
        self.release(id);
        let mut remembered = self.deleted.borrow_mut();
        if remembered.len() == MAX_DELETED {
            remembered.pop_front();
        }
        remembered.push_back((id.clone(), deleted));
    }

    /// Something is over whose memory can be given back, in a quiet moment.
    pub(crate) fn memory_freed(&self) {
        self.memory_freed.notify_one();
    }

    /// Gives memory back when a burst is over: the heap of a shim that once had fifty execs at the
    /// same time would otherwise stay as large for as long as its container lives.
    pub(crate) async fn trim_heap_when_idle(&self) {
        loop {
            self.memory_freed.notified().await;
            while tokio::time::timeout(TRIM_DELAY, self.memory_freed.notified()).await.is_ok() {}
            crate::sys::trim_heap();
        }
    }

    /// What a Delete of this container answered before.
    pub(crate) fn deleted(&self, id: &str) -> Option<Deleted> {
        let remembered = self.deleted.borrow();
        remembered.iter().find(|(deleted, _)| deleted.as_str() == id).map(|(_, answer)| *answer)
    }

    /// Answers State.
    pub(crate) fn process_state(&self, id: &str, exec: Option<&str>) -> Result<StateReply> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let status = status(&container.init, &process).ok_or_else(not_created)?;
        Ok(StateReply {
            bundle: container.bundle.path().to_owned(),
            pid: process.pid(),
            status,
            stdio: process.stdio.clone(),
            exit: process.exit(),
        })
    }

    /// Init's pid, for Connect, which must succeed for a container that is not there.
    pub(crate) fn init_pid(&self, id: &str) -> Option<Pid> {
        self.container(id).ok().and_then(|container| container.init.pid())
    }

    /// Answers Pids: each with the exec that it is, where it is one.
    pub(crate) async fn pids(&self, id: &str) -> Result<Vec<(Pid, Option<ExecId>)>> {
        let container = self.container(id)?;
        let runtime_container = container.runtime_container()?;
        let lives = |process: &Process| {
            !matches!(
                process.phase(),
                Phase::Exiting | Phase::Stopped | Phase::Deleting | Phase::Deleted
            )
        };
        let known: BTreeMap<Pid, Option<ExecId>> = container
            .execs()
            .into_iter()
            .filter(|(_, exec)| lives(exec))
            .filter_map(|(id, exec)| exec.pid().map(|pid| (pid, Some(id))))
            .chain(container.init.pid().filter(|_| lives(&container.init)).map(|pid| (pid, None)))
            .collect();
        // A runtime that hangs, fails or does not know leaves what is known here.
        let told = tokio::time::timeout(PIDS_TIMEOUT, self.runtime.pids(&runtime_container)).await;
        match told {
            Ok(Ok(Some(pids))) => {
                Ok(pids.into_iter().map(|pid| (pid, known.get(&pid).cloned().flatten())).collect())
            }
            Ok(Ok(None)) => Ok(known.into_iter().collect()),
            Ok(Err(error)) => {
                log::warn!("pids of {id}: {}", error.report());
                Ok(known.into_iter().collect())
            }
            Err(_) => {
                log::warn!("pids of {id}: the runtime did not answer within {PIDS_TIMEOUT:?}");
                Ok(known.into_iter().collect())
            }
        }
    }

    /// Signals a process, or all of a container.
    pub(crate) async fn kill(
        &self,
        id: &str,
        exec: Option<&str>,
        signal: Signal,
        all: bool,
    ) -> Result<()> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        // What these signals do by default is to end the process.
        let ends = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        let request = Request::Kill { ends: ends.contains(&signal) };
        if let Decision::Enter(_) = process.request(&container.id, request).await? {
            self.end_without_process(&container, signal);
            return Ok(());
        }
        let runtime_container = container.runtime_container()?;
        let not_started = || Refusal::NotStarted.into_error(container.id.as_str());
        let handle = process.handle().ok_or_else(not_started)?;
        if all && exec.is_none() {
            self.runtime.signal_all(&runtime_container, &handle, signal).await
        } else {
            self.runtime.signal(&runtime_container, &handle, signal).await
        }
    }

    /// Publishes the exit of a container that a signal has ended before it had a process.
    fn end_without_process(&self, container: &Container<R::Container>, signal: Signal) {
        let exit = Exit::now(128 + signal.number());
        container.journal_exit(None, exit);
        let id = container.id.clone();
        self.events.push(Event::Exited { container: id, exec: None, pid: None, exit });
        container.init.set_exit(exit);
        self.container_ended();
    }

    /// Freezes a container.
    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let runtime_container = container.runtime_container()?;
        container.init.request(&container.id, Request::Pause).await?;
        let result = self.runtime.pause(&runtime_container).await;
        let ended = container.init.end_job(LifecycleJob::Pause, Outcome::from(&result));
        if ended && result.is_ok() {
            self.events.push(Event::Paused { container: container.id.clone() });
        }
        result
    }

    /// Thaws a container.
    pub(crate) async fn resume(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let runtime_container = container.runtime_container()?;
        container.init.request(&container.id, Request::Resume).await?;
        let result = self.runtime.resume(&runtime_container).await;
        let ended = container.init.end_job(LifecycleJob::Resume, Outcome::from(&result));
        if ended && result.is_ok() {
            self.events.push(Event::Resumed { container: container.id.clone() });
        }
        result
    }

    /// Statistics.
    pub(crate) async fn stats(&self, id: &str) -> Result<Payload> {
        let runtime_container = self.container(id)?.runtime_container()?;
        self.runtime.stats(&runtime_container).await
    }

    /// Changes limits.
    pub(crate) async fn update(&self, id: &str, resources: Payload) -> Result<()> {
        let container = self.container(id)?;
        container.init.request(&container.id, Request::Update).await?;
        self.runtime.update(&*container.runtime_container()?, resources).await
    }

    /// Writes a checkpoint.
    pub(crate) async fn checkpoint(&self, id: &str, request: Checkpoint) -> Result<()> {
        let container = self.container(id)?;
        container.init.request(&container.id, Request::Checkpoint).await?;
        self.runtime.checkpoint(&*container.runtime_container()?, request).await
    }

    /// Waits for a process's exit.
    pub(crate) async fn wait(&self, id: &str, exec: Option<&str>) -> Result<Exit> {
        let process = self.container(id)?.process(exec)?;
        Ok(process.exited().await)
    }

    /// Whether there is no container.
    pub(crate) fn is_empty(&self) -> bool {
        self.containers.borrow().is_empty()
    }

    /// A container has ended, or is gone.
    pub(crate) fn container_ended(&self) {
        self.container_ended.notify_one();
    }

    /// Waits until a container has ended or gone since the last call.
    pub(crate) async fn wait_for_container_end(&self) {
        self.container_ended.notified().await;
    }

    /// Whether nothing runs: each container has ended, or was never started.
    pub(crate) fn nothing_runs(&self) -> bool {
        let containers = self.containers.borrow();
        let mut phases = containers.values().map(|container| container.init.phase());
        phases.all(|phase| matches!(phase, Phase::Created | Phase::Stopped))
    }

    /// Whether nothing runs, and no client will ask for what there is: the bundles are gone, which a
    /// daemon removes after `delete`. One that was killed in the middle of a create does just that
    /// when it is back, without a word to the shim.
    pub(crate) fn bundles_are_gone(&self) -> bool {
        let gone = |bundle: &Bundle| !bundle.path().exists();
        self.nothing_runs()
            && std::env::current_dir().is_err()
            && self.containers.borrow().values().all(|container| gone(&container.bundle))
    }

    /// Leaves once there is nothing that was created after `delete` had looked for it.
    pub(crate) fn delete_created_and_stop(self: &Rc<Self>) {
        let created: Vec<_> = self
            .containers
            .borrow()
            .values()
            .filter(|container| container.init.phase() == Phase::Created)
            .map(|container| container.id.clone())
            .collect();
        if created.is_empty() {
            self.stop_server();
        }
        for id in created {
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move {
                if let Err(error) = this.delete_container(id.as_str()).await {
                    log::warn!("delete container {id}, whose bundle is gone: {error}");
                }
            });
        }
    }

    /// Leaves, unless there is still a container.
    pub(crate) fn shutdown(&self) -> bool {
        let leaving = self.is_empty();
        if leaving {
            self.stop_server();
        }
        leaving
    }

    /// Leaves, whatever there is.
    pub(crate) fn stop_server(&self) {
        // A Create from now on would be for a shim that is gone.
        self.stopping.set(true);
        // Without a waiter the permit is kept.
        self.stop.notify_one();
    }

    /// A runtime said that a container cannot go on.
    pub(crate) fn kill_container(&self, note: &Note) {
        log::error!("container {} cannot go on: {}", note.container, note.reason);
        let Ok(container) = self.container(note.container.as_str()) else { return };
        let processes = container.execs().into_iter().map(|(_, exec)| exec);
        for process in processes.chain([Rc::clone(&container.init)]) {
            if let Some(handle) = process.handle() {
                // It may have ended already, which is as well.
                let _ = handle.signal(Signal::KILL);
            }
        }
    }

    /// What is in the table, for the log.
    #[cfg_attr(windows, allow(dead_code))] // no signal asks for it there
    pub(crate) fn dump(&self) {
        let containers = self.containers.borrow();
        log::info!("{} containers, {} events waiting", containers.len(), self.events.len());
        for container in containers.values() {
            let init = &container.init;
            let (phase, pid) = (init.phase(), init.pid());
            log::info!(
                "container {}: {phase:?}, pid {pid:?}, exit {:?}",
                container.id,
                init.exit()
            );
            for (id, exec) in container.execs() {
                let (phase, pid) = (exec.phase(), exec.pid());
                log::info!("  exec {id}: {phase:?}, pid {pid:?}, exit {:?}", exec.exit());
            }
        }
    }

    /// Takes hold of a process that the runtime made.
    pub(crate) fn open_process(&self, pid: Pid) -> Result<Rc<ProcessHandle>> {
        ProcessHandle::open(pid).map(Rc::new)
    }
}

/// What a client sees: `None` while the container is being made. An exec is as frozen as its
/// container.
fn status(init: &Process, process: &Process) -> Option<ProcessStatus> {
    let own = match process.phase() {
        Phase::Creating => return None,
        Phase::Created | Phase::Starting => ProcessStatus::Created,
        Phase::Running | Phase::Exiting => ProcessStatus::Running,
        Phase::Pausing => ProcessStatus::Pausing,
        Phase::Paused | Phase::Resuming => ProcessStatus::Paused,
        Phase::Stopped | Phase::Deleting | Phase::Deleted => ProcessStatus::Stopped,
    };
    Some(match (own, init.phase()) {
        (ProcessStatus::Running, Phase::Pausing) => ProcessStatus::Pausing,
        (ProcessStatus::Running, Phase::Paused | Phase::Resuming) => ProcessStatus::Paused,
        (own, _) => own,
    })
}
