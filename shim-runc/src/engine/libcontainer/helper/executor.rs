//! The last steps of a container's process, between libcontainer's work and the user's command.
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
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::signal::Signal;

use super::super::wire::{self, Failure, Reason, Reply};
use super::super::{HELPER_SOCKET, report, sys};
use super::gate::Gate;
use super::identity::Identity;
use super::interior::Interior;
use super::{lookup, null};

/// The most of a container's `/etc/passwd` that is searched for a home directory.
const PASSWD_BYTES: u64 = 4 * 1024 * 1024;

/// Executes the user's command.
#[derive(Clone)]
pub(super) struct UserCommand {
    report: Rc<OwnedFd>,
    identity: Rc<Identity>,
    /// Of init alone.
    interior: Option<Rc<Interior>>,
    /// Of an init that is not in its groups yet.
    gate: Option<Rc<Gate>>,
    program: RefCell<PathBuf>,
}

impl UserCommand {
    pub(super) fn new(report: Rc<OwnedFd>, identity: Identity, interior: Option<Interior>) -> Self {
        let (identity, interior) = (Rc::new(identity), interior.map(Rc::new));
        Self { report, identity, interior, gate: None, program: RefCell::default() }
    }

    /// The same, for an init that is to pass this gate.
    pub(super) fn behind(self, gate: Gate) -> Self {
        Self { gate: Some(Rc::new(gate)), ..self }
    }

    fn validate(&self, spec: &Spec) -> Result<(), Failure> {
        let process = process(spec)?;
        if let Some(gate) = &self.gate {
            gate.pass().map_err(|error| {
                Failure::new(Reason::Other, format!("join the control groups: {error}"))
            })?;
        }
        if self.interior.is_none() {
            announce();
        }
        null::reopen_for_writing();
        // Nothing in the container is to reach the shim through what it waits for.
        sys::close_inherited(HELPER_SOCKET);
        if let Some(interior) = &self.interior {
            interior.arrange()?;
        }
        self.identity.assume()?;
        let [command, ..] = arguments(process)? else { return Err(no_command()) };
        let environment = environment(self.identity.environment(), 0);
        let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
        self.program.replace(lookup::find(command, path)?);
        Ok(())
    }

    fn execute(&self, spec: &Spec) -> Result<(), Failure> {
        let process = process(spec)?;
        let arguments = arguments(process)?;
        let uid = self.identity.uid();
        let strings = |list: &[String]| {
            list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
        };
        let invalid = |_| Failure::new(Reason::InvalidRequest, "a NUL byte in args or env");
        let argv = strings(arguments).map_err(invalid)?;
        let envp = strings(&environment(self.identity.environment(), uid)).map_err(invalid)?;
        let program =
            CString::new(self.program.borrow().as_os_str().as_bytes()).map_err(invalid)?;
        // Rust ignores it; a pipeline in the container relies on the default.
        let _ = sys::reset_signal(Signal::SIGPIPE);
        self.identity.confine()?;
        let Err(error) = nix::unistd::execve(&program, &argv, &envp);
        Err(lookup::failed(arguments.first().map_or("", String::as_str), error))
    }

    fn tell(&self, failure: Failure) -> String {
        report::tell(self.report.as_fd(), &failure);
        failure.message
    }
}

impl Executor for UserCommand {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.validate(spec)
            .map_err(|failure| ExecutorValidationError::ArgValidationError(self.tell(failure)))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes straight from the spec to execve.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.execute(spec).map_err(|failure| ExecutorError::Other(self.tell(failure)))
    }
}

/// Tells the shim of this process, an exec's, before it executes what it likes: the answer that tells
/// of it comes after that.
fn announce() {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    // Without pidfds (before 5.3) the shim does without.
    let Ok(process) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
    if let Ok(bytes) = wire::encode(0, &Reply::Announced) {
        // A shim that has gone takes this process along.
        let _ = wire::send(sys::helper_socket(), &bytes, &[process.as_fd()]);
    }
}

fn process(spec: &Spec) -> Result<&Process, Failure> {
    spec.process().as_ref().ok_or_else(no_command)
}

fn arguments(process: &Process) -> Result<&[String], Failure> {
    process.args().as_deref().filter(|arguments| !arguments.is_empty()).ok_or_else(no_command)
}

fn no_command() -> Failure {
    Failure::new(Reason::InvalidRequest, "the spec names no command (process.args)")
}

/// The spec's environment in its order, the last value of a name winning, HOME added.
fn environment(listed: &[String], uid: u32) -> Vec<String> {
    let mut result: Vec<String> = Vec::new();
    for entry in listed {
        let name = name(entry);
        match result.iter_mut().find(|known| self::name(known) == name) {
            Some(known) => known.clone_from(entry),
            None => result.push(entry.clone()),
        }
    }
    let home = result.iter_mut().find(|entry| name(entry) == "HOME");
    if home.as_ref().is_none_or(|entry| entry.as_str() == "HOME=") {
        let value = format!("HOME={}", home_of(uid));
        match home {
            Some(entry) => *entry = value,
            None => result.push(value),
        }
    }
    result
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The home directory that the container's `/etc/passwd` gives a user; `/` as runc has it
/// otherwise. Read here, since libc's lookup would do what the container's files tell it to.
fn home_of(uid: u32) -> String {
    let Ok(passwd) = File::open("/etc/passwd") else { return "/".to_owned() };
    BufReader::new(passwd.take(PASSWD_BYTES))
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(|line| String::from_utf8(line).ok())
        .find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let home = fields.get(5).filter(|home| !home.is_empty())?;
            (fields.get(2)?.parse() == Ok(uid)).then(|| (*home).to_owned())
        })
        .unwrap_or_else(|| "/".to_owned())
}

/// The same capabilities with every absent set made an empty one. libcontainer leaves an absent
/// one as it is, which would be the shim's own.
pub(super) fn complete(listed: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let set = |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        Some(listed.and_then(|listed| get(listed).clone()).unwrap_or_default())
    };
    let mut complete = LinuxCapabilities::default();
    complete
        .set_bounding(set(LinuxCapabilities::bounding))
        .set_effective(set(LinuxCapabilities::effective))
        .set_permitted(set(LinuxCapabilities::permitted))
        .set_inheritable(set(LinuxCapabilities::inheritable))
        .set_ambient(set(LinuxCapabilities::ambient));
    complete
}

/// Makes these the calling process's capabilities.
pub(super) fn set_capabilities(complete: &LinuxCapabilities) -> Result<(), Failure> {
    libcontainer::capabilities::drop_privileges(complete, create_syscall().as_ref())
        .map_err(|error| Failure::new(Reason::Other, format!("set capabilities: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(env: &[&str]) -> Vec<String> {
        env.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn the_environment_keeps_its_order_and_the_last_value() {
        let listed = with(&["B=1", "A=2", "B=3", "HOME=/h"]);
        assert_eq!(environment(&listed, 0), ["B=3", "A=2", "HOME=/h"]);
    }

    #[test]
    fn a_missing_or_empty_home_comes_from_passwd() {
        assert_eq!(environment(&with(&["A=1"]), 0), ["A=1", "HOME=/root"]);
        assert_eq!(environment(&with(&["HOME=", "A=1"]), 0), ["HOME=/root", "A=1"]);
        assert_eq!(environment(&with(&[]), 3_999_999_999), ["HOME=/"]);
    }

    #[test]
    fn capabilities_that_are_not_listed_are_none() {
        let none = complete(None);
        assert_eq!(none.bounding().as_ref().map(|set| set.len()), Some(0));
        assert_eq!(none.effective().as_ref().map(|set| set.len()), Some(0));
    }
}
