//! Checks the request for a further process in a container, and starts it.
//!
//! Promise: the container runs or waits for its start; otherwise the exec fails. Errors of the request are
//! found before a process is cloned.
//! Not here: how the process enters the container ([`ExecProcess`]).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::oci_spec::runtime::{Process, Spec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::error_pipe::Report;
use super::super::wire::{Failure, Reason};
use super::container::load;
use super::exec_process::{Entry, ExecProcess};
use super::failure::{failed, failure};
use super::identity::Identity;
use super::keyring::Keyring;
use super::spec_file::read_spec;
use super::streams::StandardStreams;
use super::{Session, exec_process, release_pipe, terminal, validate};
use crate::cgroup::hierarchy::Hierarchies;
use crate::create_lock;

/// Starts a process. Returns its pid and the reading end of its report, which closes when the command is
/// executed. The process is read from a descriptor, as JSON.
pub(super) fn exec(
    session: &Session,
    root: &Path,
    id: &str,
    process: OwnedFd,
    streams: StandardStreams,
) -> Result<(i32, OwnedFd), Failure> {
    let container = load(root, id)?;
    match container.status() {
        ContainerStatus::Created | ContainerStatus::Running => {}
        ContainerStatus::Paused => {
            return Err(Failure::new(Reason::WrongState, "cannot exec in a paused container"));
        }
        ContainerStatus::Creating | ContainerStatus::Stopped => return Err(not_running()),
    }
    let _lock = create_lock::mark(container.bundle()).map_err(|error| {
        let bundle = container.bundle().display();
        failed(&format!("mark the bundle {bundle}"), &error)
    })?;
    let spec = read_spec(container.bundle())?;
    let process = read_process(process)?;
    validate::process(&process)?;
    validate::terminal(&process, streams.console.is_some())?;
    refuse_listener(&spec)?;
    let other = |error: std::io::Error| failure(Reason::System, &error);
    let identity = Identity::of(root, &spec, &process)?;
    let init = open_init(&container)?;
    let group =
        YoukiConfig::load(&container.root).map_err(|error| failure(Reason::Library, &error))?;
    let entry = entry(&group.cgroup_path).map_err(other)?;
    let console = streams.console.as_deref().map(terminal::connect).transpose()?;
    let report = Report::open().map_err(other)?;
    let (hold, release) = release_pipe::make().map_err(other)?;
    let joining = ExecProcess {
        init,
        namespaces: exec_process::namespaces(&spec),
        entry,
        personality: spec.linux().as_ref().and_then(|linux| linux.personality().clone()),
        process,
        identity,
        keyring: Keyring::of(&container.root).map_err(other)?,
        streams: [streams.stdin, streams.stdout, streams.stderr],
        console,
        report: report.writer(),
        hold,
    };
    match joining.run() {
        Ok(pid) => {
            session.release(release);
            Ok((pid, report.pass_on()))
        }
        Err(plain) => Err(report.explain(plain.reason, plain.message)),
    }
}

/// Reads the process from its descriptor.
fn read_process(process: OwnedFd) -> Result<Process, Failure> {
    std::io::read_to_string(File::from(process))
        .and_then(|text| Ok(serde_json::from_str(&text)?))
        .map_err(|error| Failure::new(Reason::InvalidRequest, format!("process: {error}")))
}

/// Opens the init of a container by the pid in its record. The pid may have been reused, so the process
/// must be a child of the shim.
fn open_init(container: &Container) -> Result<OwnedFd, Failure> {
    let number = container.pid().and_then(|pid| Pid::from_raw(pid.as_raw()));
    let number = number.ok_or_else(not_running)?;
    let init = pidfd_open(number, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH => not_running(),
        other => failed("open init", &other),
    })?;
    // Read after the process was opened: if it is the shim's child now, the descriptor is init's.
    let shim = rustix::process::getppid();
    if shim.is_none() || parent(number) != shim {
        return Err(not_running());
    }
    Ok(init)
}

/// The parent of a process. The parent of an init, as of this process, is the shim.
fn parent(process: Pid) -> Option<Pid> {
    let stat = format!("/proc/{}/stat", process.as_raw_nonzero());
    let stat = std::fs::read_to_string(stat).ok()?;
    // "PID (NAME) STATE PARENT ...". The name may have any characters.
    Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?)
}

fn not_running() -> Failure {
    Failure::new(Reason::WrongState, "cannot exec in a stopped container")
}

/// Refuses an exec under a profile with a listener: the descriptor of the notifications is sent to the
/// listener only for init.
fn refuse_listener(spec: &Spec) -> Result<(), Failure> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    if !profile.is_some_and(libcontainer::seccomp::is_notify) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::Unsupported,
        "exec in a container whose seccomp profile notifies a listener (SCMP_ACT_NOTIFY)",
    ))
}

/// How a process gets into the control groups of the container.
fn entry(path: &Path) -> std::io::Result<Entry> {
    let groups = Hierarchies::read()?.find(path);
    if groups.is_empty() {
        let text = format!("the container has no control group {}", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, text));
    }
    match groups.unified() {
        Some(group) => Ok(Entry::Group(File::open(group)?.into())),
        None => groups.tasks_files().map(Entry::TasksFiles),
    }
}
