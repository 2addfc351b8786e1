//! Creates a new container on the helper's side: its record, its control groups, its first process.
//!
//! ```text
//!   helper ──clone, with the new pid namespace──> init
//!   makes the groups, sets limits                 namespaces, root file system
//!   sends their `tasks` files ──────────────────> joins, becomes the user, waits for its start
//! ```
//!
//! Groups of version 1 are made while init makes its mounts (`cgroup_barrier`). Init joins them last,
//! unless an earlier step depends on them ([`joins_first`]). On version 2 init is cloned into its group.
//! An intermediate process clones init if its namespaces need that ([`Namespaces`]).
//!
//! Promise: after a failure no process runs. Not here: init's own part ([`Init`]), what init asks for
//! meanwhile ([`InitRequests`]).
//! See clone(2), cgroups(7), the OCI runtime specification on the lifecycle and on hooks.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::{ErrInvalidSpec, LibcontainerError, MissingSpecError};
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Mount, Spec};
use libcontainer::user_ns::UserNamespaceConfig;
use libcontainer::validator::Validator;
use rustix::process::{Signal, pidfd_send_signal};
use shim_sdk::error::report;

use super::super::wire::{Failure, Reason};
use super::cgroup_barrier::{self, BarrierSender};
use super::exec_process::NAME;
use super::failure::{failed, failure};
use super::identity::Identity;
use super::init_channel;
use super::init_process::Init;
use super::init_requests::{InitRequests, Senders};
use super::keyring::Keyring;
use super::namespaces::Namespaces;
use super::resource_fixups::ResourceFixups;
use super::rootfs::RootFs;
use super::streams::StandardStreams;
use super::{limits, terminal, validate};
use crate::cgroup::directories::GroupDirectories;
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::v2 as unified;
use crate::sys;

/// The container to create.
pub(super) struct Launch<'a> {
    pub(super) root: &'a Path,
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) group: &'a Path,
    pub(super) options: CreateOptions,
    pub(super) streams: StandardStreams,
    pub(super) identity: Identity,
    pub(super) report: std::rc::Rc<OwnedFd>,
    pub(super) groups: NewGroups<'a>,
    /// The create lock of the bundle (`create_lock`).
    pub(super) lock: BorrowedFd<'a>,
}

/// The options of a create.
#[derive(Debug, Clone, Copy)]
pub(super) struct CreateOptions {
    pub(super) no_pivot_root: bool,
    pub(super) no_new_keyring: bool,
}

/// How its control groups are made.
pub(super) struct NewGroups<'a> {
    pub(super) fixups: &'a ResourceFixups,
    pub(super) hierarchies: &'a Hierarchies,
}

/// Whether init must join its groups before every other step. Hooks look for them, a cgroup namespace
/// starts at them, cgroup mounts show them, the scheduler and the memory policy depend on their limits, and
/// files that are copied into a tmpfs are charged to them.
fn joins_first(spec: &Spec) -> bool {
    let (Some(linux), Some(process)) = (spec.linux(), spec.process()) else { return true };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let shows_groups = |mount: &Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        mount.typ().as_deref().is_some_and(|kind| kind.starts_with("cgroup"))
            || options.iter().any(|option| option == "tmpcopyup")
    };
    spec.hooks().is_some()
        || namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Cgroup)
        || spec.mounts().iter().flatten().any(shows_groups)
        || process.scheduler().is_some()
        || process.io_priority().is_some()
        || linux.memory_policy().is_some()
}

/// Runs libcontainer's validators.
fn validate(spec: &Spec) -> Result<(), LibcontainerError> {
    if !spec.version().starts_with("1.") {
        return Err(ErrInvalidSpec::UnsupportedVersion.into());
    }
    Validator::validate_spec(spec)?;
    UserNamespaceConfig::new(spec)?;
    Ok(())
}

impl Launch<'_> {
    /// Creates the container. Returns the pid of its init, which waits for its start.
    pub(super) fn run(self) -> Result<i32, Failure> {
        let lib = |error: LibcontainerError| failure(Reason::Library, &error);
        let other = |error: std::io::Error| failure(Reason::System, &error);
        let Self { root, id, bundle, spec, group, options, streams, identity, report, .. } = self;
        let (groups, lock) = (self.groups, self.lock);
        validate(spec).map_err(lib)?;
        let process = spec.process().as_ref().ok_or(MissingSpecError::Process);
        let process = process.map_err(|error| lib(error.into()))?;
        validate::terminal(process, streams.console.is_some())?;
        let rootfs = RootFs::of(spec, bundle, options.no_pivot_root, group, groups.hierarchies)?;
        let namespaces = Namespaces::of(spec)?;
        let directory = root.join(id);
        fs::create_dir(&directory).map_err(other)?;
        let mut config = YoukiConfig::from_spec(spec, id).map_err(|error| lib(error.into()))?;
        config.cgroup_path = group.to_owned();
        let mut container = new_record(id, bundle, spec, &directory)?;
        let keyring = if options.no_new_keyring { None } else { Some(Keyring::new(id)) };
        let keyring = keyring.transpose().map_err(other)?;
        if let Some(keyring) = &keyring {
            keyring.keep(&directory).map_err(other)?;
        }
        let console = streams.console.as_deref().map(terminal::connect).transpose()?;
        let listener = super::super::notify_socket::listen(&directory).map_err(other)?;
        // Before the groups: a delete finds them by this file.
        let remember = || config.save(&directory).map_err(|error| lib(error.into()));
        let resources = limits::wanted(spec);
        let (sender, barrier) = cgroup_barrier::make().map_err(other)?;
        let mut init = Init {
            spec,
            process,
            namespaces,
            rootfs,
            identity,
            keyring,
            barrier: None,
            joins_first: joins_first(spec),
            streams: [streams.stdin, streams.stdout, streams.stderr],
            console,
            listener,
            state: container.state.clone(),
            report,
            lock,
        };
        if validate::is_unified() {
            remember()?;
            let group = groups.make_unified(group, id, &resources)?;
            let group = File::open(group.path()).map_err(other)?;
            return clone(init, Some(&group), &mut container, || Ok(()));
        }
        init.barrier = Some(barrier);
        let make = move || {
            remember()?;
            admit_init(sender, &groups.make(group, &resources).map_err(lib)?)
        };
        clone(init, None, &mut container, make)
    }
}

/// libcontainer's record of a container that is being created. It is not written yet.
fn new_record(
    id: &str,
    bundle: &Path,
    spec: &Spec,
    directory: &Path,
) -> Result<Container, Failure> {
    let mut container = Container::new(id, ContainerStatus::Creating, None, bundle, directory)
        .map_err(|error| failure(Reason::Library, &error))?;
    container.set_annotations(spec.annotations().clone());
    container.state.bundle = bundle.to_owned();
    Ok(container)
}

fn admit_init(sender: BarrierSender, groups: &GroupDirectories) -> Result<(), Failure> {
    sender.admit(groups).map_err(|error| failure(Reason::Cgroup, &error))
}

impl NewGroups<'_> {
    /// Makes the groups of version 1 and sets their limits.
    fn make(
        &self,
        path: &Path,
        resources: &LinuxResources,
    ) -> Result<GroupDirectories, LibcontainerError> {
        let (groups, limited) = self.hierarchies.make(path).map_err(LibcontainerError::OtherIO)?;
        limits::set(&limited, resources)
            .map_err(|error| LibcontainerError::OtherCgroup(report(&error)))?;
        self.fixups.apply(&groups).map_err(LibcontainerError::OtherIO)?;
        Ok(groups)
    }

    /// The same on a host with version 2.
    fn make_unified(
        &self,
        path: &Path,
        id: &str,
        resources: &LinuxResources,
    ) -> Result<unified::Group, Failure> {
        let group = unified::Group::of_host(path);
        let made = group.make();
        made.map_err(|error| Failure::new(Reason::Cgroup, report(&error)))?;
        let config = CgroupConfig {
            cgroup_path: path.to_owned(),
            systemd_cgroup: false,
            container_name: id.to_owned(),
        };
        let limits = ControllerOpt {
            resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        let manager = create_cgroup_manager(config);
        let manager = manager.map_err(|error| failure(Reason::Cgroup, &error))?;
        manager.apply(&limits).map_err(|error| failure(Reason::Cgroup, &error))?;
        self.fixups
            .apply(&self.hierarchies.find(path))
            .map_err(|error| failure(Reason::Cgroup, &error))?;
        Ok(group)
    }
}

/// Clones init, makes its groups, and serves its requests until it waits for its start.
fn clone(
    init: Init<'_>,
    group: Option<&File>,
    container: &mut Container,
    make_groups: impl FnOnce() -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let (here, there) = init_channel::pair().map_err(|error| failure(Reason::System, &error))?;
    let in_new_pid_namespace =
        !init.namespaces.need_intermediate() && init.namespaces.make_pid_namespace();
    // The clone inherits the name, so it has the right one from its first moment.
    let _ = rustix::thread::set_name(NAME);
    let cloned = sys::clone::clone_sibling(in_new_pid_namespace, group.map(AsFd::as_fd));
    if !matches!(cloned, Ok(None)) {
        let _ = rustix::thread::set_name(super::NAME);
    }
    let (pid, pidfd) = match cloned {
        Ok(Some(cloned)) => cloned,
        Ok(None) => {
            // Only the helper may hold the other ends of the sockets that init waits on.
            drop((here, make_groups));
            init.run(&there)
        }
        Err(error) => {
            return Err(failed("clone init", &error));
        }
    };
    drop(there);
    let senders = Senders {
        first: pid,
        init: (!init.namespaces.need_intermediate()).then_some(pid),
        is_seen: init.namespaces.join_pid_namespace(),
    };
    let requests = InitRequests { channel: here, spec: init.spec, container, senders };
    let result = make_groups().and_then(|()| requests.serve());
    if result.is_err() {
        // The clone may wait for our answer. An init that an intermediate process has cloned ends when our
        // end of the socket closes.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    result
}
