//! The identity of a process in its container: user, groups, capabilities, seccomp profile, working
//! directory and command.
//!
//! ```text
//!   root, all capabilities     the user's effective ones       all of them again      the spec's
//!   cwd, streams, groups ────> cwd again, HOME, the command ─> profile, if privileged ─> profile
//! ```
//!
//! Paths are resolved with the rights of the user, and before a profile could forbid the system calls for
//! that.
//!
//! Promise: before other processes of the pid namespace see the process, it gives up every capability that
//! it neither needs nor gets ([`Identity::shed`]). Between [`Identity::assume`] and the command it gains no
//! right. The command has no capability that the spec does not grant.
//! See capabilities(7), seccomp(2), user_namespaces(7).

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec, User};
use rustix::fs::{FileType, fchown, fstat};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::super::wire::{Failure, Reason};
use super::failure::failed;
use super::seccomp::SeccompProgram;
use super::{container_path, environment, executable};

/// The number of bits of a capability set.
const CAPABILITIES: u32 = 63;

/// The identity of a process in its container.
pub(super) struct Identity {
    user: User,
    environment: Vec<String>,
    arguments: Vec<String>,
    directory: PathBuf,
    capabilities: Granted,
    no_new_privileges: bool,
    profile: Option<SeccompProgram>,
}

/// The command that a process executes once it has its identity.
#[derive(Debug)]
pub(super) struct ContainerCommand {
    pub(super) program: CString,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
}

/// The capabilities of a spec. A set that the spec leaves out is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Granted {
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    sets: CapabilitySets,
}

impl Identity {
    /// The identity of a container's first process.
    pub(super) fn of_init(root: &Path, spec: &Spec) -> Result<Self, Failure> {
        match spec.process() {
            Some(process) => Self::of(root, spec, process),
            None => Err(Failure::new(Reason::InvalidRequest, "the spec has no process section")),
        }
    }

    /// The identity of a process in a container. An exec without capabilities of its own has those of init;
    /// the seccomp profile is the container's.
    pub(super) fn of(root: &Path, spec: &Spec, process: &Process) -> Result<Self, Failure> {
        let profile = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref())
            .map(|profile| SeccompProgram::of(root, profile))
            .transpose()?;
        let init = spec.process().as_ref().and_then(|init| init.capabilities().as_ref());
        Ok(Self {
            user: process.user().clone(),
            environment: process.env().clone().unwrap_or_default(),
            arguments: process.args().clone().unwrap_or_default(),
            directory: process.cwd().clone(),
            capabilities: Granted::of(process.capabilities().as_ref().or(init)),
            no_new_privileges: process.no_new_privileges() == Some(true),
            profile,
        })
    }

    /// Gives up all capabilities that are neither granted nor needed to become the user. Called before other
    /// processes of the pid namespace see this one: with CAP_SYS_PTRACE they could use its capabilities.
    pub(super) fn shed(&self) -> Result<(), Failure> {
        let mut needed = CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::SETGID
            | CapabilitySet::SETUID
            | CapabilitySet::SETPCAP;
        if self.profile.is_some() && !self.no_new_privileges {
            needed |= CapabilitySet::SYS_ADMIN;
        }
        let Granted { bounding, ambient, sets } = self.capabilities;
        let granted = bounding | ambient | sets.effective | sets.permitted | sets.inheritable;
        // The command cannot gain more either.
        bound(granted | needed)?;
        let now = rustix::thread::capabilities(None).map_err(step("capget"))?.permitted;
        let permitted = now & (granted | needed);
        let inheritable = CapabilitySet::empty();
        set_capabilities(CapabilitySets { effective: permitted, permitted, inheritable })
    }

    /// Takes the identity. Called once, by the process itself, in the container. A profile with a listener
    /// is loaded here; `tell` sends the descriptor of the notifications.
    pub(super) fn assume(
        &self,
        tell: impl FnOnce(OwnedFd) -> Result<(), Failure>,
    ) -> Result<ContainerCommand, Failure> {
        let uid = Uid::from_raw(self.user.uid());
        // As root first. Root has no capabilities over files whose owner the user namespace does not map,
        // and NFS may squash root. If root is refused, the user tries again below.
        let entered = match container_path::enter(&self.directory) {
            Err(Errno::ACCESS | Errno::PERM) => false,
            other => other.map(|()| true).map_err(|error| self.no_directory(error))?,
        };
        own_streams(uid).map_err(step("fchown of a standard stream"))?;
        self.become_user(uid)?;
        let permitted = rustix::thread::capabilities(None).map_err(step("capget"))?.permitted;
        let mut sets = self.capabilities.sets;
        sets.effective &= permitted;
        let (effective, inheritable) = (sets.effective, CapabilitySet::empty());
        set_capabilities(CapabilitySets { effective, permitted, inheritable })?;
        if !entered {
            container_path::enter(&self.directory).map_err(|error| self.no_directory(error))?;
        }
        container_path::verify_directory()?;
        let command = self.command()?;
        set_capabilities(CapabilitySets { effective: permitted, permitted, inheritable })?;
        if !self.no_new_privileges {
            // Loading a profile without no_new_privs needs a capability that is given up below.
            if let Some(listener) = self.load_profile()? {
                tell(listener)?;
            }
            self.capabilities.take()?;
            return Ok(command);
        }
        self.capabilities.take()?;
        rustix::thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
        if self.profile.as_ref().is_some_and(SeccompProgram::notifies)
            && let Some(listener) = self.load_profile()?
        {
            tell(listener)?;
        }
        Ok(command)
    }

    /// The last step before the command is executed.
    pub(super) fn confine(&self) -> Result<(), Failure> {
        let is_loaded =
            !self.no_new_privileges || self.profile.as_ref().is_some_and(SeccompProgram::notifies);
        if is_loaded { Ok(()) } else { self.load_profile().map(drop) }
    }

    fn become_user(&self, uid: Uid) -> Result<(), Failure> {
        let gid = Gid::from_raw(self.user.gid());
        let groups: Vec<_> =
            self.user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // In a user namespace without setgroups. The process has no groups, as the helper has none.
            Err(Errno::PERM) if groups.is_empty() => {}
            other => other.map_err(step("setgroups"))?,
        }
        rustix::thread::set_keep_capabilities(true).map_err(step("keep capabilities"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setresgid"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("setresuid"))?;
        rustix::thread::set_keep_capabilities(false).map_err(step("drop capabilities"))?;
        // The change of the uid has set the flag to fs.suid_dumpable.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(step("set the process non-dumpable"))
    }

    /// Finds the command with the rights of the calling process.
    fn command(&self) -> Result<ContainerCommand, Failure> {
        let [name, ..] = self.arguments.as_slice() else {
            let text = "the spec names no command (process.args)";
            return Err(Failure::new(Reason::InvalidRequest, text));
        };
        let environment = environment::complete(&self.environment, self.user.uid());
        let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let program = executable::find(name, path)?;
        let invalid = |_| Failure::new(Reason::InvalidRequest, "a NUL byte in args or env");
        let strings = |list: &[String]| {
            list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
        };
        Ok(ContainerCommand {
            program: CString::new(program.into_os_string().into_vec()).map_err(invalid)?,
            arguments: strings(&self.arguments).map_err(invalid)?,
            environment: strings(&environment).map_err(invalid)?,
        })
    }

    fn no_directory(&self, error: Errno) -> Failure {
        let path = self.directory.display();
        failed(&format!("chdir to the cwd {path:?}"), &error)
    }

    fn load_profile(&self) -> Result<Option<OwnedFd>, Failure> {
        self.profile.as_ref().map_or(Ok(None), SeccompProgram::load)
    }
}

impl Granted {
    fn of(listed: Option<&LinuxCapabilities>) -> Self {
        let set = |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            let listed = listed.and_then(|listed| get(listed).as_ref());
            let bits = listed.into_iter().flatten().map(|one| one.to_cap().bitmask());
            CapabilitySet::from_bits_retain(bits.fold(0, |bits, one| bits | one))
        };
        Self {
            bounding: set(LinuxCapabilities::bounding),
            ambient: set(LinuxCapabilities::ambient),
            sets: CapabilitySets {
                effective: set(LinuxCapabilities::effective),
                permitted: set(LinuxCapabilities::permitted),
                inheritable: set(LinuxCapabilities::inheritable),
            },
        }
    }

    /// Gives the calling process these capabilities.
    fn take(&self) -> Result<(), Failure> {
        bound(self.bounding)?;
        set_capabilities(self.sets)?;
        rustix::thread::clear_ambient_capability_set().map_err(step("set capabilities"))?;
        for bit in self.ambient.iter() {
            // Fails for a capability that is not permitted and inheritable. runc ignores that too.
            let _ = rustix::thread::configure_capability_in_ambient_set(bit, true);
        }
        Ok(())
    }
}

/// Removes all other capabilities from the bounding set.
fn bound(bounding: CapabilitySet) -> Result<(), Failure> {
    for bit in (0..CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        if bounding.contains(bit) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(bit) {
            // The kernel has no further capabilities.
            Err(Errno::INVAL) => break,
            other => other.map_err(step("set capabilities: the bounding set"))?,
        }
    }
    Ok(())
}

fn set_capabilities(sets: CapabilitySets) -> Result<(), Failure> {
    rustix::thread::set_capabilities(None, sets).map_err(step("set capabilities"))
}

fn step(step: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| failed(step, &error)
}

/// Makes the user the owner of the standard streams. Otherwise the user could not open `/dev/stdout`. The
/// null device keeps its owner.
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
            // The owner of some files cannot be changed: some sockets, files on read-only mounts, owners that
            // the user namespace does not map. runc ignores these too.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_not_listed_are_none() {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        assert_eq!(Granted::of(None), Granted { bounding: none, ambient: none, sets });
        let listed = serde_json::json!({"bounding": ["CAP_CHOWN", "CAP_BPF"]});
        let granted = Granted::of(Some(&serde_json::from_value(listed).unwrap()));
        assert_eq!(granted.bounding, CapabilitySet::CHOWN | CapabilitySet::BPF);
        assert_eq!(granted.sets, sets);
    }
}
