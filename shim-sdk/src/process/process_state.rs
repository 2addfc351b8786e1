//! One process: its phase, its handle, its streams and its exit.
//!
//! `apply` is the only writer of the phase; `lifecycle::decide` says which phase comes next.
//!
//! A process lives on the shim's one thread. No borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use oci_spec::runtime::Process as Spec;
use tokio::sync::Notify;

use super::lifecycle::{Decision, Input, Job, Outcome, Phase, ProcessKind, Request, State, decide};
use super::refusal::Refusal;

use crate::stdio::{Attached, Stdio};
use crate::{ContainerId, Exit, Pid, ProcessHandle, Result};

/// One process: an init or an exec.
#[derive(Debug)]
pub(crate) struct Process {
    kind: ProcessKind,
    /// Whether Start restores the container from a checkpoint.
    restores: bool,
    pub(crate) stdio: Stdio,
    /// The exec's OCI process; taken when it starts.
    pub(crate) spec: RefCell<Option<Box<Spec>>>,
    phase: Cell<Phase>,
    handle: RefCell<Option<Rc<ProcessHandle>>>,
    exit: Cell<Option<Exit>>,
    attached: RefCell<Option<Rc<Attached>>>,
    /// Requested before the streams were open.
    input_closed: Cell<bool>,
    size: Cell<Option<(u16, u16)>>,
    changed: Notify,
}

impl Process {
    pub(crate) fn new(kind: ProcessKind, phase: Phase, restores: bool, stdio: Stdio) -> Self {
        Self {
            kind,
            restores,
            stdio,
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

    /// Decides an input and enters the phase that it leads to. The one place that writes a phase.
    pub(crate) fn apply(&self, input: Input) -> std::result::Result<Decision, Refusal> {
        let state = State {
            kind: self.kind,
            phase: self.phase(),
            has_process: self.pid().is_some(),
            has_exit: self.exit().is_some(),
            restores: self.restores,
        };
        let decision = decide(state, input)?;
        if let Decision::Enter(phase) = decision {
            self.phase.set(phase);
            self.changed.notify_waiters();
        }
        Ok(decision)
    }

    /// Applies the outcome of a job. Returns whether the outcome has ended the job's phase; an
    /// exit may have overtaken it.
    pub(crate) fn end_job(&self, job: Job, outcome: Outcome) -> bool {
        matches!(self.apply(Input::Ended(job, outcome)), Ok(Decision::Enter(_)))
    }

    /// Waits for any change of phase after this call.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        // It registers at this call and not at the first poll, so no change in between is missed.
        self.changed.notified()
    }

    /// Applies a request, and waits while the decision is to wait.
    pub(crate) async fn request(
        &self,
        container: &ContainerId,
        request: Request,
    ) -> Result<Decision> {
        loop {
            let changed = self.changed();
            match self.apply(Input::Request(request)) {
                Err(refusal) => return Err(refusal.into_error(container.as_str())),
                Ok(Decision::Wait) => changed.await,
                Ok(decision) => return Ok(decision),
            }
        }
    }

    pub(crate) fn handle(&self) -> Option<Rc<ProcessHandle>> {
        self.handle.borrow().clone()
    }

    pub(crate) fn set_handle(&self, handle: Rc<ProcessHandle>) {
        *self.handle.borrow_mut() = Some(handle);
    }

    /// Whether this is the handle of the process; a start may have replaced it.
    pub(crate) fn has_handle(&self, handle: &Rc<ProcessHandle>) -> bool {
        self.handle.borrow().as_ref().is_some_and(|own| Rc::ptr_eq(own, handle))
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.handle.borrow().as_ref().map(|handle| handle.pid())
    }

    /// The exit, once it is published.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.get()
    }

    /// Makes the exit known to Wait and State. The process is `Stopped` by now, or its exec could
    /// not be started.
    pub(crate) fn set_exit(&self, exit: Exit) {
        self.exit.set(Some(exit));
        self.changed.notify_waiters();
        if let Some(attached) = self.attached() {
            attached.process_exited();
        }
    }

    /// Ends the Waits for a process that was deleted and never ran.
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
    /// Dropping it has no effect on other waiters.
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

    /// Sets the open streams, and applies the CloseIO and ResizePty that came before them.
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

    /// Takes the streams out, to drain or close them.
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
