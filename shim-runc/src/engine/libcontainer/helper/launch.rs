//! A container's init, cloned by ourselves instead of by libcontainer's builder.
//!
//! ```text
//!   libcontainer:  helper ──clone──> intermediate ──clone──> init
//!                                    joins cgroups,          mounts, pivots,
//!                                    waits for the kernel    becomes the user
//!   here:          helper ──clone, with the new pid namespace──> init
//!                  makes cgroups                                 mounts, pivots, joins, ...
//! ```
//!
//! libcontainer's intermediate process finds each cgroup hierarchy anew (700 calls) and joins them
//! in a way that waits for the kernel ([`super::cgroup::join`]): two thirds of the time that a create
//! took. What comes after it, libcontainer's init, is called as it is. It makes its mounts while its
//! groups are made and joins last of all, unless something before would be another in its groups
//! ([`joins_first`]).
//!
//! Promise: what it makes is what libcontainer's builder would have made of the same spec; after a
//! failure nothing runs. Not here: specs that need more of the parent than that ([`is_for`]: user
//! and time namespaces, notified seccomp, and hosts with version 2 of cgroups), which are left to
//! the builder.
//! See clone(2), libcontainer's `container_main_process` and `container_intermediate_process`.

use std::cell::Cell;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::{LibcontainerError, MissingSpecError};
use libcontainer::hooks::run_hooks;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifyListener};
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel::{self, InitReceiver, InitSender, MainReceiver, MainSender};
use libcontainer::process::container_main_process::ProcessError;
use libcontainer::process::init::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::validator::Validator;
use rustix::process::{Signal, pidfd_send_signal};
use shim_sdk::error::report;

use super::super::sys::process as sys;
use super::cgroup::{Cgroups, Hierarchies};
use super::check;
use super::container::Streams;
use super::corrections::Corrections;
use super::executor::UserCommand;
use super::gate::{self, Gate};
use super::join::NAME;
use super::limits;

/// What is to be made.
pub(super) struct Launch<'a> {
    pub(super) root: &'a Path,
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    /// As it is tailored for libcontainer.
    pub(super) spec: Spec,
    pub(super) no_pivot_root: bool,
    pub(super) streams: &'a Streams,
    pub(super) executor: UserCommand,
    pub(super) groups: NewGroups<'a>,
}

/// The control groups that are made for it.
pub(super) struct NewGroups<'a> {
    pub(super) corrections: &'a Corrections,
    pub(super) hierarchies: &'a Hierarchies,
    /// Set when they are made and were not there before.
    pub(super) is_fresh: &'a Cell<bool>,
}

/// Whether a spec, tailored for libcontainer, can be launched from here.
pub(super) fn is_for(spec: &Spec, streams: &Streams) -> bool {
    let (Some(linux), Some(process)) = (spec.linux(), spec.process()) else { return false };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let is_plain = !namespaces.iter().any(|one| match one.typ() {
        LinuxNamespaceType::User | LinuxNamespaceType::Time => true,
        LinuxNamespaceType::Pid => one.path().is_some(),
        _ => false,
    });
    let is_mapped = |mount: &Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        mount.uid_mappings().is_some()
            || mount.gid_mappings().is_some()
            || options.iter().any(|option| matches!(option.as_str(), "idmap" | "ridmap"))
    };
    is_plain
        && !check::is_unified()
        && spec.version().starts_with("1.")
        && process.terminal().unwrap_or(false) == streams.console.is_some()
        && linux.seccomp().is_none()
        && linux.intel_rdt().is_none()
        && linux.net_devices().as_ref().is_none_or(|devices| devices.is_empty())
        && !spec.mounts().iter().flatten().any(is_mapped)
}

/// Whether init is to be in its groups before anything else: hooks look for them, a namespace of
/// control groups begins at them and mounts show them, the scheduler and the memory policy ask what
/// they allow, and what is copied into a mount counts there.
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

impl Launch<'_> {
    /// Makes the container; returns its init, which waits for its start.
    pub(super) fn run(self) -> Result<i32, LibcontainerError> {
        let Self { root, id, bundle, mut spec, no_pivot_root, streams, executor, groups } = self;
        Validator::validate_spec(&spec)?;
        let directory = root.join(id);
        fs::create_dir(&directory).map_err(LibcontainerError::OtherIO)?;
        spec.canonicalize_rootfs(bundle)?;
        let config = YoukiConfig::from_spec(&spec, id)?;
        let mut container =
            Container::new(id, ContainerStatus::Creating, None, bundle, &directory)?;
        container.set_annotations(spec.annotations().clone());
        container.state.bundle = bundle.to_owned();
        let console_socket = match &streams.console {
            Some(path) => {
                Some(libcontainer::tty::setup_console_socket(&directory, path, "console-socket")?)
            }
            None => None,
        };
        let notify_listener = NotifyListener::new(&directory.join(NOTIFY_FILE))?;
        let process = spec.process().as_ref().ok_or(MissingSpecError::Process)?;
        if let Some(score) = process.oom_score_adj() {
            // Inherited; the helper puts its own back.
            fs::write("/proc/self/oom_score_adj", score.to_string())
                .map_err(LibcontainerError::OtherIO)?;
        }
        let rootfs = spec.root().as_ref().ok_or(MissingSpecError::Root)?.path().clone();
        let (keeper, gate) = gate::make().map_err(LibcontainerError::OtherIO)?;
        let (first, executor) =
            if joins_first(&spec) { (Some(gate), executor) } else { (None, executor.behind(gate)) };
        let args = ContainerArgs {
            container_type: ContainerType::InitContainer,
            syscall: SyscallType::default(),
            spec: Rc::new(spec),
            rootfs,
            console_socket: console_socket.as_ref().map(|socket| socket.as_raw_fd()),
            notify_listener,
            preserve_fds: 0,
            container: Some(container.clone()),
            user_ns_config: None,
            cgroup_config: in_groups(id, config.cgroup_path.clone()),
            detached: true,
            executor: Box::new(executor),
            no_pivot: no_pivot_root,
            stdin: streams.stdin.as_ref().map(AsRawFd::as_raw_fd),
            stdout: streams.stdout.as_ref().map(AsRawFd::as_raw_fd),
            stderr: streams.stderr.as_ref().map(AsRawFd::as_raw_fd),
            as_sibling: true,
            pid_file: None,
        };
        let make_groups = || {
            // Before anything that would have to be found by it.
            config.save(&directory)?;
            let groups = groups.make(&config.cgroup_path, &args.spec)?;
            keeper.open(&groups).map_err(LibcontainerError::OtherIO)
        };
        clone(&args, first, make_groups, &mut container)
    }
}

impl NewGroups<'_> {
    /// Makes them, with their limits.
    fn make(&self, path: &Path, spec: &Spec) -> Result<Cgroups, LibcontainerError> {
        self.is_fresh.set(self.hierarchies.find(path).is_empty());
        let (groups, limited) = self.hierarchies.make(path).map_err(LibcontainerError::OtherIO)?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
        {
            limits::set(&limited, resources)
                .map_err(|error| LibcontainerError::OtherCgroup(report(&error)))?;
        }
        self.corrections.apply(&groups).map_err(LibcontainerError::OtherIO)?;
        Ok(groups)
    }
}

fn in_groups(id: &str, cgroup_path: PathBuf) -> CgroupConfig {
    CgroupConfig { cgroup_path, systemd_cgroup: false, container_name: id.to_owned() }
}

/// Clones init, has its groups made, and sees to it until it waits for its start.
fn clone(
    args: &ContainerArgs,
    first: Option<Gate>,
    make_groups: impl FnOnce() -> Result<(), LibcontainerError>,
    container: &mut Container,
) -> Result<i32, LibcontainerError> {
    let linux = args.spec.linux().as_ref().ok_or(MissingSpecError::Linux)?;
    let has_pid_namespace =
        linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::Pid);
    let (to_main, from_init) = channel::main_channel().map_err(ProcessError::from)?;
    let (to_init, from_main) = channel::init_channel().map_err(ProcessError::from)?;
    // Inherited, so that the clone is known for what it is from the first.
    let _ = rustix::thread::set_name(NAME);
    let cloned = sys::clone_sibling(has_pid_namespace, None);
    if !matches!(cloned, Ok(None)) {
        let _ = rustix::thread::set_name(super::NAME);
    }
    let cloned =
        cloned.map_err(|error| LibcontainerError::Other(format!("clone init: {error}")))?;
    let Some((pid, pidfd)) = cloned else {
        // The other ends of what init waits on must be the helper's alone.
        let _ = to_init.close();
        drop(make_groups);
        std::process::exit(init(args, first, to_main, from_main));
    };
    let helper = Helper { to_init, from_init };
    let result = to_main
        .close()
        .and_then(|()| from_main.close())
        .map_err(|error| ProcessError::from(error).into())
        .and_then(|()| make_groups())
        .and_then(|()| helper.attend(args, container, pid));
    if result.is_err() {
        // It may wait for us.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    result.map(|()| pid)
}

/// The clone's part; returns its exit status, if it returns.
fn init(
    args: &ContainerArgs,
    first: Option<Gate>,
    mut to_main: MainSender,
    mut from_main: InitReceiver,
) -> i32 {
    let result = limit(args, first).and_then(|()| {
        container_init_process(args, &mut to_main, &mut from_main)
            .map_err(|error| error.to_string())
    });
    let Err(error) = result else { return 0 };
    // To the report.
    tracing::error!("failed to initialize container process: {error}");
    let _ = to_main.exec_failed(error);
    -1
}

/// What has to be so before there are namespaces.
fn limit(args: &ContainerArgs, first: Option<Gate>) -> Result<(), String> {
    if let Some(gate) = first {
        gate.pass().map_err(|error| format!("join the control groups: {error}"))?;
    }
    let syscall = args.syscall.create_syscall();
    let limits = args.spec.process().as_ref().and_then(|process| process.rlimits().as_ref());
    for limit in limits.into_iter().flatten() {
        syscall.set_rlimit(limit).map_err(|error| format!("set {:?}: {error}", limit.typ()))?;
    }
    Ok(())
}

/// The helper's ends of the channels.
struct Helper {
    to_init: InitSender,
    from_init: MainReceiver,
}

impl Helper {
    fn attend(
        mut self,
        args: &ContainerArgs,
        container: &mut Container,
        pid: i32,
    ) -> Result<(), LibcontainerError> {
        container.set_pid(pid);
        if let Some(hooks) = args.spec.hooks() {
            self.from_init.wait_for_hook_request().map_err(ProcessError::from)?;
            let state = Some(&container.state);
            #[allow(deprecated)] // still in use, and still to be run
            let prestart = hooks.prestart().as_ref();
            for stage in [prestart, hooks.create_runtime().as_ref()] {
                run_hooks(stage, state, None, container.pid(), None).map_err(ProcessError::from)?;
            }
            self.to_init.hook_done().map_err(ProcessError::from)?;
        }
        container
            .set_status(ContainerStatus::Created)
            .set_creator(rustix::process::geteuid().as_raw())
            .save()?;
        self.to_init.close().map_err(ProcessError::from)?;
        self.from_init.wait_for_init_ready().map_err(ProcessError::from)?;
        self.from_init.close().map_err(ProcessError::from)?;
        Ok(())
    }
}
