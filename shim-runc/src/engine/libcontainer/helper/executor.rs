//! The last steps of a container's init, between libcontainer's work and the user's command.
//!
//! libcontainer's own executor refuses a spec without PATH, loses the order of the environment,
//! and leaves SIGPIPE ignored as every Rust program has it. This one ends as runc does.
//!
//! Promise: the command is executed with exactly the spec's arguments and environment (plus HOME
//! where it is missing), no descriptor beyond 2, default signals, and no capability that the spec
//! does not list; what prevents it is told to the report.
//! Runs in the container, after clone: everything it needs is in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};

use super::super::wire::{Failure, Reason};
use super::super::{HELPER_SOCKET, report, sys};
use super::gate::Gate;
use super::identity::{Command, Identity};
use super::interior::Interior;
use super::keyring::Keyring;
use super::{join, null};

/// Executes the user's command.
#[derive(Clone)]
pub(super) struct UserCommand {
    report: Rc<OwnedFd>,
    identity: Rc<Identity>,
    interior: Rc<Interior>,
    keyring: Option<Keyring>,
    /// Of an init that is not in its groups yet.
    gate: Option<Rc<Gate>>,
    command: RefCell<Option<Rc<Command>>>,
}

impl UserCommand {
    pub(super) fn new(
        report: Rc<OwnedFd>,
        identity: Identity,
        interior: Interior,
        keyring: Option<Keyring>,
    ) -> Self {
        let (identity, interior) = (Rc::new(identity), Rc::new(interior));
        Self { report, identity, interior, keyring, gate: None, command: RefCell::default() }
    }

    /// The same, for an init that is to pass this gate.
    pub(super) fn behind(self, gate: Gate) -> Self {
        Self { gate: Some(Rc::new(gate)), ..self }
    }

    fn validate(&self) -> Result<(), Failure> {
        if let Some(gate) = &self.gate {
            gate.pass().map_err(|error| {
                Failure::new(Reason::Other, format!("join the control groups: {error}"))
            })?;
        }
        if let Some(keyring) = &self.keyring {
            keyring.join()?;
        }
        null::reopen_for_writing();
        // Nothing in the container is to reach the shim through what it waits for.
        sys::close_inherited(HELPER_SOCKET);
        self.interior.arrange()?;
        let directory = self.identity.directory();
        if !directory.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| {
                let path = directory.display();
                Failure::new(Reason::Other, format!("make the cwd {path:?}: {error}"))
            })?;
        }
        self.command.replace(Some(Rc::new(self.identity.assume()?)));
        Ok(())
    }

    fn execute(&self) -> Result<(), Failure> {
        let command = self.command.borrow().clone();
        let command = command
            .ok_or_else(|| Failure::new(Reason::Other, "executed before it was validated"))?;
        self.identity.confine()?;
        Err(join::execute(&command))
    }

    fn tell(&self, failure: Failure) -> String {
        report::tell(self.report.as_fd(), &failure);
        failure.message
    }
}

impl Executor for UserCommand {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.validate()
            .map_err(|failure| ExecutorValidationError::ArgValidationError(self.tell(failure)))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes straight from the spec to execve.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        self.execute().map_err(|failure| ExecutorError::Other(self.tell(failure)))
    }
}
