//! The helper: a process with one thread that creates, joins and removes containers for its shim.
//!
//! It clones without executing a program, and calls libcontainer, which changes the working directory and
//! blocks. The shim serves other containers meanwhile and must do none of these. So the shim starts the
//! helper from its own binary, which no container can reach (`helper_executable`), and can replace it.
//!
//! Promise: it serves one request at a time and answers each once. It has no descriptor but the socket, no
//! second thread and no environment, and exits when the shim exits. Its clones are children of the shim.
//! Not here: deadlines, and the death of this process (`connection`).
//! See clone(2) CLONE_PARENT, prctl(2) PR_SET_DUMPABLE.

mod cgroup_barrier;
mod container;
mod container_path;
mod dev_null;
mod devices;
mod environment;
mod exec;
mod exec_process;
mod executable;
mod failure;
mod identity;
mod init_channel;
mod init_process;
mod init_requests;
mod keyring;
mod launch;
mod limits;
mod namespaces;
mod prepared_spec;
mod process_attributes;
mod procfs;
mod release_pipe;
mod resource_fixups;
mod rootfs;
mod seccomp;
mod seccomp_listener;
mod spec_file;
mod streams;
mod terminal;
mod validate;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::DumpableBehavior;

use self::prepared_spec::PreparedSpec;
use self::release_pipe::Release;
use self::streams::StandardStreams;
use super::wire::{self, Failure, Frame, HelperReply, HelperRequest, Reason};
use super::{HELPER_SOCKET, error_pipe};
use crate::sys;

/// A helper exits after so long without a request. The next request starts another.
const QUIET: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The name of the process in `ps`; at most 15 bytes.
const NAME: &CStr = c"shim-libcontain";

/// What remains to be done after a request was answered.
#[derive(Debug, Default)]
struct Session {
    retire: Cell<bool>,
    release: RefCell<Option<Release>>,
}

/// The prepared spec of the container that is expected next.
type Expected = Option<PreparedSpec>;

impl Session {
    /// Makes this process exit after the request.
    fn retire(&self) {
        self.retire.set(true);
    }

    /// Releases a clone after its request was answered.
    fn release(&self, release: Release) {
        *self.release.borrow_mut() = Some(release);
    }
}

/// Runs the helper until it exits.
pub(crate) fn run() -> ExitCode {
    match prepare().and_then(|socket| serve(&socket)) {
        Ok(()) => ExitCode::SUCCESS,
        // The standard streams are /dev/null; the shim reports the exit status.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Sets up the process as libcontainer and the safety of the host need it.
fn prepare() -> io::Result<OwnedFd> {
    let socket = sys::fd::inherited(HELPER_SOCKET)?;
    sys::fd::close_from(HELPER_SOCKET + 1)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_name(NAME)?;
    rustix::process::chdir("/")?;
    // Clones inherit this. posix_spawn(3), by which the shim starts the helper, leaves signals 32 and
    // 33 ignored.
    sys::signal::reset_signals(libc::SIGPIPE)?;
    // A hook may exit before it has read its state. Programs in a container get the default action.
    sys::signal::ignore_broken_pipes()?;
    // The umask of runc. A container whose spec has none inherits it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A container gets the groups of its spec and none of the shim's. Harmless if it fails: it does so only
    // in a user namespace without setgroups, where the groups cannot be changed.
    let _ = nix::unistd::setgroups(&[]);
    error_pipe::listen();
    make_way();
    Ok(socket)
}

fn serve(socket: &OwnedFd) -> io::Result<()> {
    let mut expected = Expected::default();
    loop {
        let mut readable = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut readable, Some(&QUIET)) {
            Ok(0) => return leave(socket),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let Some((bytes, fds)) = wire::receive(socket)? else { return Ok(()) };
        let Frame { sequence, body: request, .. } = wire::decode(&bytes)?;
        if let HelperRequest::Expect { root, id, bundle } = &request {
            make_way();
            // The Create reports what is wrong with the spec.
            expected = PreparedSpec::make(root, id, bundle).ok();
            continue;
        }
        let session = Session::default();
        let (reply, beside) = match handle(&session, request, fds, expected.take()) {
            Ok((reply, beside)) => (reply, beside),
            Err(failure) => (HelperReply::Failed(failure), None),
        };
        let fds: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        wire::send(socket, &wire::encode(sequence, &reply)?, &fds)?;
        if let Some(release) = session.release.take() {
            release.go();
        }
        // libcontainer runs a hook with a timeout in a thread, and a helper with a second thread must not
        // clone. Another helper serves the next request.
        if session.retire.get() {
            return leave(socket);
        }
    }
}

/// Yields the processor. The spec is prepared while the shim mounts the root file system, and the kernel
/// may have put both processes on one processor.
fn make_way() {
    rustix::thread::sched_yield();
}

fn leave(socket: &OwnedFd) -> io::Result<()> {
    // A request that arrives from here on is not read. The shim reads this answer and sends the request to
    // another helper.
    wire::send(socket, &wire::encode(0, &HelperReply::Leaving)?, &[])
}

fn handle(
    session: &Session,
    request: HelperRequest,
    fds: Vec<OwnedFd>,
    expected: Expected,
) -> Result<(HelperReply, Option<OwnedFd>), Failure> {
    match request {
        HelperRequest::Expect { .. } => Ok((HelperReply::Done, None)),
        HelperRequest::Create { root, id, bundle, no_pivot_root, no_new_keyring, streams } => {
            let streams = StandardStreams::take(streams, &mut fds.into_iter())?;
            let plan = match expected.filter(|plan| plan.is_for(&root, &id, &bundle)) {
                Some(plan) => plan,
                None => PreparedSpec::make(&root, &id, &bundle)?,
            };
            let has_hooks = plan.has_hooks;
            let options = launch::CreateOptions { no_pivot_root, no_new_keyring };
            let (pid, report) = container::create(session, plan, options, streams)?;
            Ok((HelperReply::Created { pid, has_hooks }, Some(report)))
        }
        HelperRequest::Start { root, id } => done(container::start(session, &root, &id)),
        HelperRequest::Exec { root, id, streams } => {
            let mut fds = fds.into_iter();
            let streams = StandardStreams::take(streams, &mut fds)?;
            let process = fds.next().ok_or_else(|| missing("process"))?;
            let (pid, report) = exec::exec(session, &root, &id, process, streams)?;
            Ok((HelperReply::Executed { pid }, Some(report)))
        }
        HelperRequest::Delete { root, id, force } => {
            done(container::delete(session, &root, &id, force))
        }
        HelperRequest::Pause { root, id } => done(container::pause(&root, &id)),
        HelperRequest::Resume { root, id } => done(container::resume(&root, &id)),
    }
}

fn done(result: Result<(), Failure>) -> Result<(HelperReply, Option<OwnedFd>), Failure> {
    result.map(|()| (HelperReply::Done, None))
}

fn missing(what: &str) -> Failure {
    Failure::new(Reason::InvalidRequest, format!("no descriptor for {what} came with the request"))
}

/// The directories of a container's cgroups, for tests that they do not exist.
#[cfg(test)]
pub(super) fn cgroup_directories(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    hierarchies().directories(path)
}

/// Removes the cgroups that a failed test left.
#[cfg(test)]
pub(super) fn cgroup_remove(path: &std::path::Path) {
    let _ = hierarchies().find(path).remove();
}

/// The processes in a container's cgroups, for tests.
#[cfg(test)]
pub(super) fn cgroup_pids(path: &std::path::Path) -> Vec<i32> {
    hierarchies().find(path).pids()
}

#[cfg(test)]
fn hierarchies() -> crate::cgroup::hierarchy::Hierarchies {
    crate::cgroup::hierarchy::Hierarchies::read().expect("the table of mounts")
}
