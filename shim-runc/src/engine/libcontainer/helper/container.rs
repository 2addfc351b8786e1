//! Creates, starts and deletes containers, with libcontainer's record of them.
//!
//! Promise: a create that fails leaves nothing behind. A delete finds the parts that an interrupted create
//! or delete left, and a part that does not exist is no error. Where the kernel knows the state of a
//! process, the kernel is asked and not the record.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus, State};
use libcontainer::oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};

use super::super::error_pipe::Report;
use super::super::notify_socket;
use super::super::wire::{Failure, Reason};
use super::Session;
use super::failure::{failed, failure};
use super::launch::{CreateOptions, Launch, NewGroups};
use super::prepared_spec::PreparedSpec;
use super::streams::StandardStreams;
use crate::cgroup::directories::GroupDirectories;
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::record::{self, Ending, Made};
use crate::{create_lock, process_tree};

/// The time limit for the end of a killed init.
const ENDING: Duration = Duration::from_secs(10);

/// Creates a container. Returns its init's pid and the reading end of its report.
pub(super) fn create(
    session: &Session,
    plan: PreparedSpec,
    options: CreateOptions,
    streams: StandardStreams,
) -> Result<(i32, OwnedFd), Failure> {
    let PreparedSpec { root, id, bundle, spec, group, identity, fixups, hierarchies, .. } = plan;
    if plan.has_hooks {
        session.retire();
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&root)
        .map_err(|error| failed(&format!("create {}", root.display()), &error))?;
    let directory = root.join(&id);
    if directory.exists() {
        return Err(Failure::new(Reason::AlreadyExists, "container with given ID already exists"));
    }
    // Clones inherit the lock, until they are in the container's root.
    let lock = create_lock::mark(&bundle)
        .map_err(|error| failed(&format!("mark the bundle {}", bundle.display()), &error))?;
    let report = Report::open().map_err(|error| failure(Reason::System, &error))?;
    // Groups that exist already belong to others. The list is written before any group is made.
    let file = record::file_beside(&root, &id);
    let made = Made::plan(&group, &bundle, hierarchies.directories(&group), ends_with_init(&spec));
    made.write(&file).map_err(|error| failed(&format!("write {}", file.display()), &error))?;
    let launch = Launch {
        root: &root,
        id: &id,
        bundle: &bundle,
        spec: &spec,
        group: &group,
        options,
        streams,
        identity,
        report: report.writer(),
        groups: NewGroups { fixups: &fixups, hierarchies: &hierarchies },
        lock: lock.as_fd(),
    };
    let error = match launch.run() {
        Ok(init) => return Ok((init, report.hand_over())),
        Err(error) => error,
    };
    // This process may still hold what it has cloned and opened.
    session.retire();
    let failure = report.explain(error.reason, error.message);
    Err(remove_failed(failure, &made, &file, &root, &directory))
}

/// Removes what a failed create made. Adds to its failure what could not be removed.
fn remove_failed(
    failure: Failure,
    made: &Made,
    file: &Path,
    root: &Path,
    directory: &Path,
) -> Failure {
    // libcontainer removes its record also where processes that are still ending are in the groups, so
    // the groups come first.
    match end_groups(made, file, root, true).and_then(|()| remove_recorded(directory)) {
        Ok(()) => failure,
        Err(left) => Failure::new(
            failure.reason,
            format!("{}; and not everything could be removed: {}", failure.message, left.message),
        ),
    }
}

/// Starts a created container by libcontainer, which runs its hooks.
pub(super) fn start(session: &Session, root: &Path, id: &str) -> Result<(), Failure> {
    let mut container = load(root, id)?;
    if hooks(&container.root).is_some() {
        session.retire();
    }
    container.start().map_err(|error| failure(Reason::Library, &error))
}

/// Removes a container. Kills its processes if `force` is set, or if only its init has ended.
pub(super) fn delete(session: &Session, root: &Path, id: &str, force: bool) -> Result<(), Failure> {
    let directory = root.join(id);
    let file = record::file_beside(root, id);
    let made = Made::read(&file);
    if !directory.exists() {
        // A create that was interrupted before it had a record has made no groups. Without the list of
        // groups there may be its temporary file.
        return match made {
            Some(made) => end_groups(&made, &file, root, true),
            None => record::forget(&file).map_err(|error| failure(Reason::System, &error)),
        };
    }
    // This file is written before the other parts are made: without it there are none.
    let Ok(config) = YoukiConfig::load(&directory) else {
        made.map_or(Ok(()), |made| end_groups(&made, &file, root, true))?;
        return forget(&directory);
    };
    let cgroups = cgroups(&config.cgroup_path)?;
    let state = State::load(&directory).ok();
    let runs = |state: &State| {
        let started = match state.status {
            ContainerStatus::Running | ContainerStatus::Paused => true,
            ContainerStatus::Created => notify_socket::was_told(&directory),
            ContainerStatus::Creating | ContainerStatus::Stopped => false,
        };
        started && state.pid.is_some_and(|init| is_there(init) && cgroups.pids().contains(&init))
    };
    if !force && state.as_ref().is_some_and(runs) {
        let why = "cannot delete container that is not stopped";
        return Err(Failure::new(Reason::WrongState, why));
    }
    if config.hooks.is_some() {
        session.retire();
    }
    match &made {
        Some(made) => {
            let init = state.as_ref().and_then(|state| state.pid);
            end_init(init, &cgroups)?;
            // Without an init in the record the create was interrupted. Only the groups show which
            // processes are the container's, so all processes in them are killed.
            end_groups(made, &file, root, init.is_none() || !made.ends_with_init)?;
        }
        // A container of an earlier version has no list of groups.
        None => cgroups.remove().map_err(|error| failure(Reason::Cgroup, &error))?,
    }
    remove(&directory, &config, state)
}

/// Whether a container has a new pid namespace, so that its processes end with its init.
fn ends_with_init(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|one| {
        one.typ() == LinuxNamespaceType::Pid && one.path().as_ref().is_none_or(|path| path == "")
    })
}

fn end_groups(made: &Made, file: &Path, records: &Path, kills: bool) -> Result<(), Failure> {
    let ending = Ending::new(made, file, Some(records), kills);
    ending.run().map_err(|error| failure(Reason::Cgroup, &error))
}

/// Kills an init and its descendants, if it is in the container's groups. Otherwise its pid may have been
/// reused.
fn end_init(init: Option<i32>, cgroups: &GroupDirectories) -> Result<(), Failure> {
    let Some(init) = init.filter(|init| is_there(*init) && cgroups.pids().contains(init)) else {
        return Ok(());
    };
    cgroups.thaw();
    if let Some(init) = rustix::process::Pid::from_raw(init) {
        process_tree::kill_all(init);
    }
    // Init leaves its groups before the kernel waits for the rest of its pid namespace.
    let began = Instant::now();
    while cgroups.pids().contains(&init) {
        if began.elapsed() > ENDING {
            let why = format!("end process {init}: it is still there {ENDING:?} after SIGKILL");
            return Err(Failure::new(Reason::NotKilled, why));
        }
        sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Whether a process with this pid exists. It saves the search in the groups.
fn is_there(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Freezes a container.
pub(super) fn pause(root: &Path, id: &str) -> Result<(), Failure> {
    load(root, id)?.pause().map_err(|error| failure(Reason::Library, &error))
}

/// Thaws a container.
pub(super) fn resume(root: &Path, id: &str) -> Result<(), Failure> {
    load(root, id)?.resume().map_err(|error| failure(Reason::Library, &error))
}

/// Removes the container of a record.
fn remove_recorded(directory: &Path) -> Result<(), Failure> {
    let Ok(config) = YoukiConfig::load(directory) else { return forget(directory) };
    remove(directory, &config, State::load(directory).ok())
}

/// Runs the poststop hooks and removes the record.
fn remove(directory: &Path, config: &YoukiConfig, state: Option<State>) -> Result<(), Failure> {
    if let Some(hooks) = config.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref())
        && let Some(mut state) = state
    {
        state.status = ContainerStatus::Stopped;
        // The pid may have been reused; do not pass it to the hooks.
        state.pid = None;
        // The specification requires that a failed hook is logged and the delete continues.
        if let Err(error) =
            libcontainer::hooks::run_hooks(Some(hooks), Some(&state), None, None, None)
        {
            tracing::error!(%error, "poststop hook");
        }
    }
    forget(directory)
}

/// Removes a record.
fn forget(directory: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(&format!("remove {}", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

fn cgroups(path: &Path) -> Result<GroupDirectories, Failure> {
    let hierarchies = Hierarchies::read().map_err(|error| failure(Reason::Cgroup, &error))?;
    Ok(hierarchies.find(path))
}

fn hooks(directory: &Path) -> Option<Hooks> {
    YoukiConfig::load(directory).ok().and_then(|config| config.hooks)
}

/// libcontainer's record of a container, with the status corrected if the start message was sent.
pub(super) fn load(root: &Path, id: &str) -> Result<Container, Failure> {
    let directory = root.join(id);
    if !directory.exists() {
        return Err(Failure::new(Reason::NoSuchContainer, "container does not exist"));
    }
    let was_told = notify_socket::was_told(&directory);
    let mut container =
        Container::load(directory).map_err(|error| failure(Reason::Library, &error))?;
    if container.status() == ContainerStatus::Created && was_told {
        record(&mut container, ContainerStatus::Running)?;
    }
    Ok(container)
}

/// Changes the status in the record.
pub(super) fn record(container: &mut Container, status: ContainerStatus) -> Result<(), Failure> {
    container.set_status(status).save().map_err(|error| failure(Reason::Library, &error))
}
