//! A container: its init, its execs and its journal.
//!
//! Everything here lives on the shim's one thread. No borrow is held across an await.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::lifecycle::{Phase, ProcessKind};
use super::process_state::Process;
use super::start_time::start_time;

use crate::journal::{Record, Stage};
use crate::stdio::Stdio;
use crate::{Bundle, ContainerId, Error, ExecId, Exit, Journal, Pid, Result};

/// How many deleted execs of a container are remembered for repeated calls.
const MAX_DELETED_EXECS: usize = 64;

/// The answer to Delete, the first time and every further time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) pid: Option<Pid>,
    /// Absent for a process that never ran.
    pub(crate) exit: Option<Exit>,
}

/// A container: an init, its execs, and what the runtime returned from create.
pub(crate) struct Container<C> {
    pub(crate) id: ContainerId,
    pub(crate) bundle: Bundle,
    /// Whether the root file system is to be unmounted.
    pub(crate) mounted: bool,
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
        stdio: Stdio,
        shim: Record,
    ) -> Self {
        Self {
            journal: RefCell::new(Journal::new(id.clone(), namespace, shim)),
            id,
            bundle,
            mounted,
            init: Rc::new(Process::new(ProcessKind::Init, Phase::Creating, restores, stdio)),
            runtime_container: RefCell::new(None),
            execs: RefCell::new(BTreeMap::new()),
            deleted_execs: RefCell::new(VecDeque::new()),
        }
    }

    /// What the runtime returned from create; absent until then.
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

    /// Reserves an exec's id for a process.
    pub(crate) fn reserve(&self, id: &ExecId, process: Process) -> Result<()> {
        let mut execs = self.execs.borrow_mut();
        if execs.contains_key(id) {
            return Err(Error::new(crate::Kind::AlreadyExists, format!("id {id}")));
        }
        self.deleted_execs.borrow_mut().retain(|(deleted, _)| deleted != id);
        execs.insert(id.clone(), Rc::new(process));
        Ok(())
    }

    /// Removes an exec and remembers the answer to Delete.
    pub(crate) fn forget(&self, id: &ExecId, deleted: Deleted) {
        self.execs.borrow_mut().remove(id);
        let mut remembered = self.deleted_execs.borrow_mut();
        if remembered.len() == MAX_DELETED_EXECS {
            remembered.pop_front();
        }
        remembered.push_back((id.clone(), deleted));
    }

    /// The answer to an earlier Delete of this exec.
    pub(crate) fn deleted_exec(&self, id: &str) -> Option<Deleted> {
        let remembered = self.deleted_execs.borrow();
        remembered.iter().find(|(deleted, _)| deleted.as_str() == id).map(|(_, answer)| *answer)
    }

    /// Journals a stage, unless the journal has it already.
    pub(crate) fn journal(&self, stage: Stage) {
        if self.journal.borrow().stage != stage {
            self.write_journal(|journal| journal.stage = stage);
        }
    }

    /// Journals init's pid and a stage.
    pub(crate) fn journal_init(&self, stage: Stage, pid: Option<Pid>) {
        self.write_journal(|journal| {
            journal.stage = stage;
            if journal.init.pid != pid {
                journal.init.pid = pid;
                journal.init.start_time = pid.and_then(start_time);
            }
        });
    }

    /// Journals an exit. Call it before the exit is published.
    pub(crate) fn journal_exit(&self, exec: Option<&ExecId>, exit: Exit) {
        self.write_journal(|journal| match exec {
            None => {
                journal.stage = Stage::Stopped;
                journal.init.exit = Some(exit);
            }
            Some(exec) => journal.execs.entry(exec.clone()).or_default().exit = Some(exit),
        });
    }

    /// Journals an exec that runs.
    pub(crate) fn journal_exec(&self, exec: &ExecId, pid: Pid) {
        self.write_journal(|journal| {
            let record = Record { pid: Some(pid), start_time: start_time(pid), exit: None };
            journal.execs.insert(exec.clone(), record);
        });
    }

    /// Removes a deleted exec from the journal.
    pub(crate) fn journal_exec_deleted(&self, exec: &ExecId) {
        self.write_journal(|journal| {
            journal.execs.remove(exec);
        });
    }

    fn write_journal(&self, change: impl FnOnce(&mut Journal)) {
        let mut journal = self.journal.borrow_mut();
        change(&mut journal);
        if let Err(error) = journal.write(&self.bundle) {
            // The container goes on: the journal is needed only if the shim dies.
            log::warn!("{}", crate::error::report(&error));
        }
    }
}

/// The error for a container that does not exist.
pub(crate) fn not_created() -> Error {
    Error::not_found("container not created")
}
