//! Starts a further process in a container.
//!
//! ```text
//!   helper ──clone──> intermediate ──clone, in the pid namespace──> the process
//!                     leaves the helper's process group
//!                     control groups, limits, score                 session, keyring, terminal
//!                     closes everything, joins all namespaces       becomes the user, finds the command
//!                     sends the pid to the helper, ends             waits for the shim, executes
//! ```
//!
//! A process of the container sees the second clone from its first moment, may stop it, and with
//! CAP_SYS_PTRACE reads its descriptors. So the clone holds nothing of the host's: all descriptors but the
//! standard streams and three channels are closed before it resolves the first path of the container, and
//! neither the helper nor the shim waits for it without a limit.
//!
//! Promise: the process is a child of the shim. After a failure no process runs.
//! Not here: user, capabilities and command ([`Identity`]), the checks of the request ([`super::exec`]).
//! See setns(2), clone(2), pid_namespaces(7).

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, LinuxPersonality, Process, Spec};
use nix::sys::signal::Signal;
use rustix::fs::OFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid, move_into_thread_name_spaces};

use super::super::error_pipe;
use super::super::wire::{Failure, Reason};
use super::failure::failed;
use super::identity::{ContainerCommand, Identity};
use super::init_channel::{self, InitChannel, Message};
use super::keyring::Keyring;
use super::release_pipe::Hold;
use super::rootfs;
use super::{container_path, dev_null, executable, process_attributes, terminal};
use crate::cgroup::directories::join;
use crate::sys;

/// The name of a clone until it executes the user's command; at most 15 bytes.
pub(super) const NAME: &CStr = c"youki:[2:INIT]";

/// A process that joins a container.
pub(super) struct ExecProcess {
    /// The container's first process.
    pub(super) init: OwnedFd,
    pub(super) namespaces: ThreadNameSpaceType,
    pub(super) entry: Entry,
    pub(super) process: Process,
    pub(super) personality: Option<LinuxPersonality>,
    pub(super) identity: Identity,
    pub(super) keyring: Option<Keyring>,
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) console: Option<UnixStream>,
    pub(super) report: Rc<OwnedFd>,
    pub(super) hold: Hold,
}

/// How the process gets into the container's control groups.
pub(super) enum Entry {
    /// Of version 1: the open `tasks` files, to which it writes itself (`cgroup_barrier`).
    TasksFiles(Vec<File>),
    /// Of version 2: it is cloned there.
    Group(OwnedFd),
}

/// The namespaces that a container's spec lists; its init has the shim's of every other kind.
pub(super) fn namespaces(spec: &Spec) -> ThreadNameSpaceType {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let kinds = listed.into_iter().flatten().map(|one| match one.typ() {
        LinuxNamespaceType::Mount => ThreadNameSpaceType::MOUNT,
        LinuxNamespaceType::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
        LinuxNamespaceType::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        LinuxNamespaceType::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        LinuxNamespaceType::User => ThreadNameSpaceType::USER,
        LinuxNamespaceType::Pid => ThreadNameSpaceType::PROCESS_ID,
        LinuxNamespaceType::Network => ThreadNameSpaceType::NETWORK,
        LinuxNamespaceType::Time => ThreadNameSpaceType::TIME,
    });
    kinds.fold(ThreadNameSpaceType::empty(), |all, one| all | one)
}

impl ExecProcess {
    /// Starts the process. Returns its pid before it executes; it writes later errors to its report.
    pub(super) fn run(self) -> Result<i32, Failure> {
        let (here, there) = init_channel::pair().map_err(|error| failed("socketpair", &error))?;
        let group = match &self.entry {
            Entry::Group(group) => Some(group.as_fd()),
            Entry::TasksFiles(_) => None,
        };
        // The clone inherits the name, so it has the right one from its first moment.
        let _ = rustix::thread::set_name(NAME);
        let cloned = sys::clone::clone_sibling(false, group);
        if let Ok(None) = cloned {
            self.intermediate(&there);
        }
        let _ = rustix::thread::set_name(super::NAME);
        let cloned = cloned.map_err(|error| failed("clone into the container", &error))?;
        drop(there);
        let first = cloned.map(|(pid, _)| pid);
        match here.receive_from() {
            // Processes that see the other clone can make it send any message.
            Ok(Some((Message::Cloned { pid }, _, sender))) if sender == first => Ok(pid),
            // It has written the reason to its report, unless it was killed.
            Ok(_) => Err(Failure::new(Reason::ProcessEnded, "the process ended while it joined")),
            Err(error) => Err(failed("wait for the process that joins", &error)),
        }
    }

    /// The first clone's part.
    fn intermediate(&self, channel: &InitChannel) -> ! {
        let status = match self.clone_inside(channel) {
            Ok(()) => 0,
            Err(failure) => {
                error_pipe::tell(self.report.as_fd(), &failure);
                1
            }
        };
        sys::clone::exit(status)
    }

    fn clone_inside(&self, channel: &InitChannel) -> Result<(), Failure> {
        // The shim kills the process group of a helper that hangs. The process must not be in it when
        // its pid is sent, because from then on it may outlive the helper.
        rustix::process::setpgid(None, None).map_err(|error| failed("setpgid", &error))?;
        let affinity = self.process.exec_cpu_affinity().as_ref();
        process_attributes::keep_to(affinity.and_then(|both| both.initial().as_deref()))?;
        if let Entry::TasksFiles(files) = &self.entry {
            join(files).map_err(|error| failed("join the control groups", &error))?;
        }
        process_attributes::keep_to(
            affinity.and_then(|both| both.cpu_affinity_final().as_deref()),
        )?;
        process_attributes::set(&self.process)?;
        process_attributes::confine(&self.process)?;
        take_streams(&self.streams)?;
        // From here on the process holds nothing of the host's but its executable.
        self.close_but(&[self.init.as_fd(), channel.as_fd()])?;
        move_into_thread_name_spaces(self.init.as_fd(), self.namespaces)
            .map_err(|error| failed("join the container's namespaces", &error))?;
        if self.namespaces.contains(ThreadNameSpaceType::USER) {
            become_root()?;
        }
        self.close_but(&[channel.as_fd()])?;
        self.identity.shed()?;
        let cloned = sys::clone::clone_sibling(false, None);
        match cloned.map_err(|error| failed("clone in the container", &error))? {
            Some((pid, _)) => channel
                .send(&Message::Cloned { pid })
                .map_err(|error| failed("tell the pid", &error)),
            None => self.inside(),
        }
    }

    /// The second clone's part.
    fn inside(&self) -> ! {
        let failure = match self.settle() {
            // If the shim has this pid nevertheless, it reads the reason from the report.
            Ok(_) if !self.hold.wait() => {
                Failure::new(Reason::ProcessEnded, "the helper ended before the process was let go")
            }
            Ok(command) => match self.identity.confine() {
                Ok(()) => execute(&command),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        error_pipe::tell(self.report.as_fd(), &failure);
        sys::clone::exit(1)
    }

    fn settle(&self) -> Result<ContainerCommand, Failure> {
        self.close_but(&[])?;
        rustix::process::setsid().map_err(|error| failed("setsid", &error))?;
        if let Some(keyring) = &self.keyring {
            keyring.join()?;
        }
        match &self.console {
            Some(console) => {
                let root = container_path::open(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY);
                let root = root.map_err(|error| failed("open /", &error))?;
                terminal::attach(rootfs::open_terminal(root)?, console)?;
                sys::fd::close_all_but(&[self.report.as_fd(), self.hold.as_fd()])
                    .map_err(|error| failed("close descriptors", &error))?;
            }
            None => dev_null::take_the_containers(),
        }
        process_attributes::set_habits(self.personality.as_ref(), self.process.user().umask())?;
        process_attributes::limit(&self.process)?;
        // A container with a listener has no further processes.
        self.identity.assume(|_| Ok(()))
    }

    /// Closes all descriptors but these, the standard streams, and those that the process still needs.
    fn close_but(&self, these: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let mut kept = vec![self.report.as_fd(), self.hold.as_fd()];
        kept.extend(self.console.as_ref().map(AsFd::as_fd));
        kept.extend_from_slice(these);
        sys::fd::close_all_but(&kept).map_err(|error| failed("close descriptors", &error))
    }
}

/// Makes these the standard streams. A stream that is absent stays the helper's.
pub(super) fn take_streams(streams: &[Option<OwnedFd>; 3]) -> Result<(), Failure> {
    let [stdin, stdout, stderr] = streams;
    let take = || {
        stdin.as_ref().map_or(Ok(()), dup2_stdin)?;
        stdout.as_ref().map_or(Ok(()), dup2_stdout)?;
        stderr.as_ref().map_or(Ok(()), dup2_stderr)
    };
    take().map_err(|error| failed("take the standard streams", &error))
}

/// Becomes root of the user namespace that was joined or made, if root is mapped in it.
pub(super) fn become_root() -> Result<(), Failure> {
    // If the id is not mapped, the process has all capabilities as the overflow user.
    let _ = rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT);
    let _ = rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT);
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("set the process non-dumpable", &error))
}

/// Executes the command; returns why that failed.
pub(super) fn execute(command: &ContainerCommand) -> Failure {
    // Rust ignores it; a pipeline in the container relies on the default.
    let _ = sys::signal::reset_signal(Signal::SIGPIPE);
    let Err(error) =
        nix::unistd::execve(&command.program, &command.arguments, &command.environment);
    let name = command.arguments.first().map(|name| name.to_string_lossy());
    executable::failed(name.as_deref().unwrap_or_default(), error)
}
