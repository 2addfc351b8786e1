//! A container and its processes, as the shim knows them.
//!
//! Everything here lives on the shim's one thread. No borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use oci_spec::runtime::Process as Spec;
use tokio::sync::Notify;

use super::lifecycle::{Phase, ProcessKind, Request, Step, decide};
use super::start_time::start_time;
use crate::event::Names;
use crate::journal::{Record, Stage};
use crate::stdio::Attached;
use crate::{Bundle, ContainerId, Error, ExecId, Exit, Journal, Pid, ProcessHandle, Result};

/// How many deleted execs of a container are remembered for repeated calls.
const MAX_DELETED_EXECS: usize = 64;

/// One process: an init or an exec.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) which: ProcessKind,
    pub(crate) names: Names,
    /// What an exec is to run; taken when it starts.
    pub(crate) spec: RefCell<Option<Box<Spec>>>,
    phase: Cell<Phase>,
    handle: RefCell<Option<Rc<ProcessHandle>>>,
    exit: Cell<Option<Exit>>,
    attached: RefCell<Option<Rc<Attached>>>,
    /// Asked for before there were streams.
    input_closed: Cell<bool>,
    size: Cell<Option<(u16, u16)>>,
    changed: Notify,
}

impl Process {
    pub(crate) fn new(which: ProcessKind, phase: Phase, names: Names) -> Self {
        Self {
            which,
            names,
            spec: RefCell::new(None),
            phase: Cell::new(phase),
            handle: RefCell::new(None),
            exit: Cell::new(None),
            attached: RefCell::new(None),
            input_closed: Cell::new(false),
            size: Cell::new(None),
            changed: Notify::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Enters a phase and wakes whoever waits for one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.changed.notify_waiters();
    }

    /// Leaves the phase of a job, unless the process's exit has overtaken it.
    pub(crate) fn settle(&self, job: Phase, phase: Phase) {
        if self.phase() == job {
            self.enter(phase);
        }
    }

    /// Waits for any change of phase after this call.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        // Enlisted when made, not when polled, so nothing between the two is missed.
        self.changed.notified()
    }

    /// Decides a request, waiting where the answer is "later". Enters the phase of a job.
    pub(crate) async fn admit(&self, container: &ContainerId, request: Request) -> Result<Phase> {
        loop {
            let now = self.phase();
            let changed = self.changed();
            match decide(self.which, now, request) {
                Err(refused) => return Err(refused.into_error(container.as_str())),
                Ok(Step::Stay) => return Ok(now),
                Ok(Step::Go(phase)) => {
                    self.enter(phase);
                    return Ok(now);
                }
                Ok(Step::Later) => changed.await,
            }
        }
    }

    pub(crate) fn handle(&self) -> Option<Rc<ProcessHandle>> {
        self.handle.borrow().clone()
    }

    pub(crate) fn set_handle(&self, handle: Rc<ProcessHandle>) {
        *self.handle.borrow_mut() = Some(handle);
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.handle.borrow().as_ref().map(|handle| handle.pid())
    }

    /// The exit, once it may be told.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.get()
    }

    /// The process has ended, and everybody may know.
    pub(crate) fn stopped(&self, exit: Exit) {
        self.exit.set(Some(exit));
        self.enter(Phase::Stopped);
        if let Some(attached) = self.attached() {
            attached.process_exited();
        }
    }

    /// A process that never ran is gone: whoever waits for its exit is let go.
    pub(crate) fn release_waiters(&self) {
        if self.exit().is_none() {
            self.exit.set(Some(Exit::now(0)));
            self.changed.notify_waiters();
        }
    }

    /// Waits for the exit.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken; whoever else waits is not affected.
    pub(crate) async fn exited(&self) -> Exit {
        loop {
            let changed = self.changed();
            if let Some(exit) = self.exit() {
                return exit;
            }
            changed.await;
        }
    }

    pub(crate) fn attached(&self) -> Option<Rc<Attached>> {
        self.attached.borrow().clone()
    }

    /// The streams are open: applies what was asked for before they were.
    pub(crate) fn attach(&self, attached: Rc<Attached>) {
        if self.input_closed.get() {
            attached.close_input();
        }
        if let Some((columns, rows)) = self.size.get()
            && let Err(error) = attached.resize(columns, rows)
        {
            log::warn!("{}", error.report());
        }
        *self.attached.borrow_mut() = Some(attached);
    }

    /// Takes the streams away, to be drained or closed.
    pub(crate) fn detach(&self) -> Option<Rc<Attached>> {
        self.attached.borrow_mut().take()
    }

    pub(crate) fn close_input(&self) {
        self.input_closed.set(true);
        if let Some(attached) = self.attached() {
            attached.close_input();
        }
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.size.set(Some((columns, rows)));
        self.attached().map_or(Ok(()), |attached| attached.resize(columns, rows))
    }
}

/// What a Delete answers, the first time and every further time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) pid: Option<Pid>,
    /// Absent for a process that never ran.
    pub(crate) exit: Option<Exit>,
}

/// A container: an init, its execs, and the runtime's own record.
pub(crate) struct Container<C> {
    pub(crate) id: ContainerId,
    pub(crate) bundle: Bundle,
    /// Whether there is something to unmount.
    pub(crate) mounted: bool,
    /// Whether start will make its processes from a checkpoint.
    pub(crate) restores: bool,
    pub(crate) init: Rc<Process>,
    runtime_container: RefCell<Option<Rc<C>>>,
    execs: RefCell<BTreeMap<ExecId, Rc<Process>>>,
    deleted_execs: RefCell<VecDeque<(ExecId, Deleted)>>,
    journal: RefCell<Journal>,
}

impl<C> Container<C> {
    pub(crate) fn new(
        id: ContainerId,
        namespace: &str,
        bundle: Bundle,
        mounted: bool,
        restores: bool,
        names: Names,
        shim: Record,
    ) -> Self {
        Self {
            journal: RefCell::new(Journal::new(id.clone(), namespace, shim)),
            id,
            bundle,
            mounted,
            restores,
            init: Rc::new(Process::new(ProcessKind::Init, Phase::Creating, names)),
            runtime_container: RefCell::new(None),
            execs: RefCell::new(BTreeMap::new()),
            deleted_execs: RefCell::new(VecDeque::new()),
        }
    }

    /// The runtime's record; absent while the container is being made.
    pub(crate) fn runtime_container(&self) -> Result<Rc<C>> {
        self.runtime_container.borrow().clone().ok_or_else(not_created)
    }

    pub(crate) fn set_runtime_container(&self, container: C) {
        *self.runtime_container.borrow_mut() = Some(Rc::new(container));
    }

    /// Init, or the exec named.
    pub(crate) fn process(&self, exec: Option<&str>) -> Result<Rc<Process>> {
        match exec {
            None => Ok(Rc::clone(&self.init)),
            Some(exec) => self
                .execs
                .borrow()
                .get(exec)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("process does not exist {exec}"))),
        }
    }

    pub(crate) fn execs(&self) -> Vec<(ExecId, Rc<Process>)> {
        self.execs.borrow().iter().map(|(id, exec)| (id.clone(), Rc::clone(exec))).collect()
    }

    /// Takes an exec's id for a process, if it is free.
    pub(crate) fn reserve(&self, id: &ExecId, process: Process) -> Result<()> {
        let mut execs = self.execs.borrow_mut();
        if execs.contains_key(id) {
            return Err(Error::new(crate::Kind::AlreadyExists, format!("id {id}")));
        }
        self.deleted_execs.borrow_mut().retain(|(deleted, _)| deleted != id);
        execs.insert(id.clone(), Rc::new(process));
        Ok(())
    }

    /// Forgets an exec but for what Delete answered.
    pub(crate) fn forget(&self, id: &ExecId, deleted: Deleted) {
        self.execs.borrow_mut().remove(id);
        let mut remembered = self.deleted_execs.borrow_mut();
        if remembered.len() == MAX_DELETED_EXECS {
            remembered.pop_front();
        }
        remembered.push_back((id.clone(), deleted));
    }

    /// What a Delete of this exec answered before.
    pub(crate) fn deleted_exec(&self, id: &str) -> Option<Deleted> {
        let remembered = self.deleted_execs.borrow();
        remembered.iter().find(|(deleted, _)| deleted.as_str() == id).map(|(_, answer)| *answer)
    }

    /// Writes down a stage, unless it is known already.
    pub(crate) fn journal(&self, stage: Stage) {
        if self.journal.borrow().stage != stage {
            self.write_journal(|journal| journal.stage = stage);
        }
    }

    /// Writes down init's pid, with a stage.
    pub(crate) fn journal_init(&self, stage: Stage, pid: Option<Pid>) {
        self.write_journal(|journal| {
            journal.stage = stage;
            if journal.init.pid != pid {
                journal.init.pid = pid;
                journal.init.start_time = pid.and_then(start_time);
            }
        });
    }

    /// Writes down an exit, before anybody is told of it.
    pub(crate) fn journal_exit(&self, exec: Option<&ExecId>, exit: Exit) {
        self.write_journal(|journal| match exec {
            None => {
                journal.stage = Stage::Stopped;
                journal.init.exit = Some(exit);
            }
            Some(exec) => journal.execs.entry(exec.clone()).or_default().exit = Some(exit),
        });
    }

    /// Writes down an exec that runs.
    pub(crate) fn journal_exec(&self, exec: &ExecId, pid: Pid) {
        self.write_journal(|journal| {
            let record = Record { pid: Some(pid), start_time: start_time(pid), exit: None };
            journal.execs.insert(exec.clone(), record);
        });
    }

    /// Writes down that an exec is gone.
    pub(crate) fn journal_exec_deleted(&self, exec: &ExecId) {
        self.write_journal(|journal| {
            journal.execs.remove(exec);
        });
    }

    fn write_journal(&self, change: impl FnOnce(&mut Journal)) {
        let mut journal = self.journal.borrow_mut();
        change(&mut journal);
        if let Err(error) = journal.write(&self.bundle) {
            // The container lives on; only a crash of the shim would now lose its exit.
            log::warn!("{}", crate::error::report(&error));
        }
    }
}

/// The answer for a container that is not there.
pub(crate) fn not_created() -> Error {
    Error::not_found("container not created")
}
