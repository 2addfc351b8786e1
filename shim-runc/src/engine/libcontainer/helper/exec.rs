//! A further process in a container.
//!
//! libcontainer joins the container's namespaces and cgroups, and does the terminal and the
//! limits. It leaves out the user namespace, the container's seccomp profile and, where the
//! process lists no capabilities, those of the container; and it wants a running container. So
//! the process it is given stays root and capable until the executor, inside the container, makes
//! of it what the spec says: [`Identity`].

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::oci_spec::runtime::{
    LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Process, Spec, User, UserBuilder,
};
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::MemfdFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::report::Report;
use super::super::wire::{Failure, Reason};
use super::Session;
use super::container::{Streams, failure, load, record};
use super::executor::{UserCommand, complete, set_capabilities};

/// Starts a process; returns its pid. The process is read from a descriptor, as JSON.
pub(super) fn exec(
    session: &Session,
    root: &Path,
    id: &str,
    process: OwnedFd,
    streams: Streams,
) -> Result<i32, Failure> {
    let mut container = load(root, id)?;
    match container.status() {
        ContainerStatus::Created | ContainerStatus::Running => {}
        ContainerStatus::Paused => {
            return Err(Failure::new(Reason::WrongState, "cannot exec in a paused container"));
        }
        ContainerStatus::Creating | ContainerStatus::Stopped => {
            return Err(Failure::new(Reason::WrongState, "cannot exec in a stopped container"));
        }
    }
    let spec = Spec::load(container.bundle().join("config.json"))
        .map_err(|error| failure(Reason::InvalidRequest, &error))?;
    let mut process: Process = serde_json::from_reader(File::from(process))
        .map_err(|error| Failure::new(Reason::InvalidRequest, format!("process: {error}")))?;
    let identity = Identity::new(&spec, &process, &container)?;
    plain(&mut process)?;
    let process = in_memory(&process)?;
    let report = Report::open().map_err(|error| failure(Reason::Other, &error))?;
    let created = container.status() == ContainerStatus::Created;
    if created {
        // libcontainer refuses, containerd does not.
        record(&mut container, ContainerStatus::Running)?;
    }
    let result = streams
        .attach(ContainerBuilder::new(id.to_owned(), SyscallType::default()))
        .with_executor(UserCommand::exec(report.writer(), identity))
        .with_root_path(root)
        .and_then(|builder| {
            builder
                .as_tenant()
                .with_detach(true)
                .as_sibling(true)
                .with_process(Some(format!("/proc/self/fd/{}", process.as_raw_fd())))
                .build()
        });
    if created {
        record(&mut container, ContainerStatus::Created)?;
    }
    match result {
        Ok(pid) => Ok(pid.as_raw()),
        Err(error) => {
            // The channels of a failed exec stay open in this process.
            session.retire();
            let plain = failure(Reason::Other, &error);
            Err(report.explain(plain.reason, plain.message))
        }
    }
}

/// What a process becomes inside its container.
pub(super) struct Identity {
    user_namespace: Option<OwnedFd>,
    user: User,
    capabilities: LinuxCapabilities,
    no_new_privileges: bool,
    seccomp: Option<LinuxSeccomp>,
    /// The profile is loaded once, early or late.
    confined: Cell<bool>,
}

impl Identity {
    fn new(spec: &Spec, process: &Process, container: &Container) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let seccomp = linux.and_then(|linux| linux.seccomp().clone());
        if seccomp.as_ref().is_some_and(libcontainer::seccomp::is_notify) {
            return Err(Failure::new(
                Reason::Unsupported,
                "exec in a container whose seccomp profile notifies a listener (SCMP_ACT_NOTIFY)",
            ));
        }
        let has_user_namespace = linux
            .and_then(|linux| linux.namespaces().as_ref())
            .is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::User));
        let user_namespace = if has_user_namespace {
            let init = container.pid().map_or(0, |pid| pid.as_raw());
            let path = format!("/proc/{init}/ns/user");
            let file = File::open(&path)
                .map_err(|error| Failure::new(Reason::Other, format!("open {path}: {error}")))?;
            Some(file.into())
        } else {
            None
        };
        let containers = spec.process().as_ref().and_then(|init| init.capabilities().as_ref());
        Ok(Self {
            user_namespace,
            user: process.user().clone(),
            capabilities: complete(process.capabilities().as_ref().or(containers)),
            no_new_privileges: process.no_new_privileges() == Some(true),
            seccomp,
            confined: Cell::new(false),
        })
    }

    pub(super) fn uid(&self) -> u32 {
        self.user.uid()
    }

    /// Takes the identity on. Called once, by the process itself, in the container.
    pub(super) fn assume(&self) -> Result<(), Failure> {
        let step = |step: &'static str| {
            move |error: rustix::io::Errno| Failure::new(Reason::Other, format!("{step}: {error}"))
        };
        if let Some(namespace) = &self.user_namespace {
            let kind = LinkNameSpaceType::User;
            move_into_link_name_space(namespace.as_fd(), Some(kind))
                .map_err(step("join the user namespace"))?;
        }
        if !self.no_new_privileges {
            // Needs a capability that the process may be about to lose.
            self.load_profile()?;
        }
        let groups: Vec<_> = self.user.additional_gids().iter().flatten().copied().collect();
        let groups: Vec<_> = groups.into_iter().map(rustix::thread::Gid::from_raw).collect();
        let denied = std::fs::read_to_string("/proc/self/setgroups")
            .is_ok_and(|state| state.trim() == "deny");
        if !(groups.is_empty() && denied) {
            rustix::thread::set_thread_groups(&groups).map_err(step("setgroups"))?;
        }
        rustix::thread::set_keep_capabilities(true).map_err(step("keep capabilities"))?;
        let gid = rustix::thread::Gid::from_raw(self.user.gid());
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setresgid"))?;
        let uid = rustix::thread::Uid::from_raw(self.user.uid());
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("setresuid"))?;
        // Changing to another user emptied the effective set; the permitted one was kept.
        let mut sets = rustix::thread::capabilities(None).map_err(step("capget"))?;
        sets.effective = sets.permitted;
        rustix::thread::set_capabilities(None, sets).map_err(step("capset"))?;
        rustix::thread::set_keep_capabilities(false).map_err(step("drop capabilities"))?;
        set_capabilities(&self.capabilities)?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
        }
        Ok(())
    }

    /// The last step before the command is executed.
    pub(super) fn confine(&self) -> Result<(), Failure> {
        self.load_profile()
    }

    fn load_profile(&self) -> Result<(), Failure> {
        let Some(profile) = &self.seccomp else { return Ok(()) };
        if self.confined.replace(true) {
            return Ok(());
        }
        libcontainer::seccomp::initialize_seccomp(profile)
            .map_err(|error| failure(Reason::Other, &error))
            .map(|_| ())
    }
}

/// Leaves to libcontainer what it does well: everything but who the process is.
fn plain(process: &mut Process) -> Result<(), Failure> {
    let mut user = UserBuilder::default().uid(0u32).gid(0u32);
    if let Some(umask) = process.user().umask() {
        user = user.umask(umask);
    }
    let user = user.build().map_err(|error| failure(Reason::InvalidRequest, &error))?;
    process.set_user(user);
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    Ok(())
}

/// The process as a file, which libcontainer wants.
fn in_memory(process: &Process) -> Result<File, Failure> {
    let write = || {
        let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(process)?)?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| failure(Reason::Other, &error))
}
