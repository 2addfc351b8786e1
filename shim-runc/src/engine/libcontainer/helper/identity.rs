//! Who a process is inside its container: user, groups, capabilities, seccomp profile.
//!
//! libcontainer makes all else, namespaces, cgroups, limits, mounts, the terminal. These it leaves
//! out for execs or in part (the user namespace, the profile, sets of capabilities that the spec
//! does not list), or does in an order that fails where no_new_privs is off. So the process that
//! libcontainer is given stays root and capable ([`plain`]) until the executor, inside the
//! container, makes of it what the spec says.
//!
//! Promise: between [`Identity::assume`] and the command nothing is gained; what the spec does not
//! grant is gone.
//! See capabilities(7), seccomp(2), user_namespaces(7).

use std::cell::Cell;
use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    LinuxCapabilities, LinuxNamespaceType, Process, Spec, User, UserBuilder,
};
use rustix::fs::{FileType, fchown, fstat};
use rustix::io::Errno;
use rustix::thread::{Gid, LinkNameSpaceType, Uid, move_into_link_name_space};

use super::super::wire::{Failure, Reason};
use super::container::failure;
use super::executor::{complete, set_capabilities};
use super::seccomp::Program;

/// libcontainer looks for the home directory of a process that has none in its environment, by what
/// the container's files make of libc. The executor knows better, and takes nothing from there.
const SOME_HOME: &str = "HOME=/";

/// What a process becomes inside its container.
pub(super) struct Identity {
    user_namespace: Option<OwnedFd>,
    user: User,
    environment: Vec<String>,
    directory: PathBuf,
    /// Whether the directory is made where it is missing, as runc has it for init.
    makes_directory: bool,
    capabilities: LinuxCapabilities,
    no_new_privileges: bool,
    profile: Option<Program>,
    /// The profile is loaded once, early or late.
    confined: Cell<bool>,
}

impl Identity {
    /// Of a container's first process, which libcontainer has put into the user namespace.
    pub(super) fn of_init(root: &Path, spec: &Spec) -> Result<Self, Failure> {
        let Some(process) = spec.process() else {
            return Err(Failure::new(Reason::InvalidRequest, "the spec has no process section"));
        };
        Ok(Self { makes_directory: true, ..Self::new(root, spec, process, None)? })
    }

    /// Of a further process, which has all that init has unless its own spec says otherwise.
    pub(super) fn of_exec(
        root: &Path,
        spec: &Spec,
        process: &Process,
        init: i32,
    ) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let notifies = linux
            .and_then(|linux| linux.seccomp().as_ref())
            .is_some_and(libcontainer::seccomp::is_notify);
        if notifies {
            return Err(Failure::new(
                Reason::Unsupported,
                "exec in a container whose seccomp profile notifies a listener (SCMP_ACT_NOTIFY)",
            ));
        }
        let has_user_namespace = linux
            .and_then(|linux| linux.namespaces().as_ref())
            .is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::User));
        let mut user_namespace = None;
        if has_user_namespace {
            let path = format!("/proc/{init}/ns/user");
            let file = File::open(&path)
                .map_err(|error| Failure::new(Reason::Other, format!("open {path}: {error}")))?;
            user_namespace = Some(file.into());
        }
        Self::new(root, spec, process, user_namespace)
    }

    fn new(
        root: &Path,
        spec: &Spec,
        process: &Process,
        user_namespace: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let profile = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref())
            .filter(|profile| !libcontainer::seccomp::is_notify(profile))
            .map(|profile| Program::of(root, profile))
            .transpose()?;
        let init = spec.process().as_ref().and_then(|init| init.capabilities().as_ref());
        Ok(Self {
            user_namespace,
            user: process.user().clone(),
            environment: process.env().clone().unwrap_or_default(),
            directory: process.cwd().clone(),
            makes_directory: false,
            capabilities: complete(process.capabilities().as_ref().or(init)),
            no_new_privileges: process.no_new_privileges() == Some(true),
            profile,
            confined: Cell::new(false),
        })
    }

    pub(super) fn uid(&self) -> u32 {
        self.user.uid()
    }

    /// The environment that its spec lists.
    pub(super) fn environment(&self) -> &[String] {
        &self.environment
    }

    /// Takes the identity on. Called once, by the process itself, in the container.
    pub(super) fn assume(&self) -> Result<(), Failure> {
        let step = |step: &'static str| {
            move |error: Errno| Failure::new(Reason::Other, format!("{step}: {error}"))
        };
        if let Some(namespace) = &self.user_namespace {
            let kind = LinkNameSpaceType::User;
            move_into_link_name_space(namespace.as_fd(), Some(kind))
                .map_err(step("join the user namespace"))?;
        }
        let uid = Uid::from_raw(self.user.uid());
        let gid = Gid::from_raw(self.user.gid());
        let entered = self.enter_directory()?;
        own_streams(uid).map_err(step("fchown of a standard stream"))?;
        if !self.no_new_privileges {
            // Needs a capability that the process may be about to lose.
            self.load_profile()?;
        }
        let groups: Vec<_> =
            self.user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
        let denied = std::fs::read_to_string("/proc/self/setgroups")
            .is_ok_and(|state| state.trim() == "deny");
        if !(groups.is_empty() && denied) {
            rustix::thread::set_thread_groups(&groups).map_err(step("setgroups"))?;
        }
        rustix::thread::set_keep_capabilities(true).map_err(step("keep capabilities"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setresgid"))?;
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
        if !entered {
            rustix::process::chdir(&self.directory).map_err(|error| self.no_directory(error))?;
        }
        // One that is not below the container's root has no path (CVE-2024-21626).
        std::env::current_dir().map_err(|error| {
            let path = self.directory.display();
            Failure::new(Reason::Other, format!("cwd {path:?} is outside the container: {error}"))
        })?;
        Ok(())
    }

    /// Goes into the working directory while still root; whether root may. Another user may still
    /// be let in where root, without all capabilities over the files' owners, is not.
    fn enter_directory(&self) -> Result<bool, Failure> {
        if self.makes_directory && !self.directory.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(&self.directory).map_err(
                |error| {
                    let path = self.directory.display();
                    Failure::new(Reason::Other, format!("make the cwd {path:?}: {error}"))
                },
            )?;
        }
        match rustix::process::chdir(&self.directory) {
            Ok(()) => Ok(true),
            Err(Errno::ACCESS | Errno::PERM) => Ok(false),
            Err(error) => Err(self.no_directory(error)),
        }
    }

    fn no_directory(&self, error: Errno) -> Failure {
        let path = self.directory.display();
        Failure::new(Reason::Other, format!("chdir to the cwd {path:?}: {error}"))
    }

    /// The last step before the command is executed.
    pub(super) fn confine(&self) -> Result<(), Failure> {
        self.load_profile()
    }

    fn load_profile(&self) -> Result<(), Failure> {
        match &self.profile {
            Some(profile) if !self.confined.replace(true) => profile.load(),
            _ => Ok(()),
        }
    }
}

/// Gives the standard streams to the process's user, who could otherwise not open them again
/// (`/dev/stdout`); the null device stays everybody's.
fn own_streams(uid: Uid) -> rustix::io::Result<()> {
    let null = rustix::fs::makedev(1, 3);
    for stream in 0..3 {
        let stream = standard(stream);
        let stat = fstat(stream)?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == null;
        if is_null || stat.st_uid == uid.as_raw() {
            continue;
        }
        match fchown(stream, Some(uid), None) {
            // Not every file can change hands: sockets of some kinds, read-only mounts, owners
            // that the user namespace does not map. runc lets these be as well.
            Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            other => other?,
        }
    }
    Ok(())
}

fn standard(number: usize) -> BorrowedFd<'static> {
    match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

/// Leaves to libcontainer what it does well: everything but who the process is.
pub(super) fn plain(process: &mut Process) -> Result<(), Failure> {
    let mut user = UserBuilder::default().uid(0u32).gid(0u32);
    if let Some(umask) = process.user().umask() {
        user = user.umask(umask);
    }
    let user = user.build().map_err(|error| failure(Reason::InvalidRequest, &error))?;
    process.set_user(user);
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    process.set_env(Some(vec![SOME_HOME.to_owned()]));
    // Gone into by the process itself, which makes it where it is missing.
    process.set_cwd("/".into());
    if process.apparmor_profile().as_deref() == Some("") {
        process.set_apparmor_profile(None);
    }
    process.set_selinux_label(None);
    Ok(())
}
