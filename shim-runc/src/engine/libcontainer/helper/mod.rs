//! The helper: a process with one thread that makes, joins and removes containers for its shim.
//!
//! It clones without executing, and calls libcontainer, which changes the working directory and
//! blocks: neither is for a process that serves others. So there is one of its own, which the
//! shim starts from its own binary, out of a container's reach (`helper_executable`), and can replace.
//!
//! Promise: one request at a time, each answered once; no descriptor but the socket, no thread,
//! no environment; gone when the shim is gone. What it clones has the shim as parent.
//! Not here: waiting for deadlines and for this process's own death (`connection`).
//! See clone(2) CLONE_PARENT, prctl(2) PR_SET_DUMPABLE.

mod cgroup;
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

/// A helper that is asked nothing for so long leaves; the next request starts another.
const QUIET: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What the process is called in `ps`; at most 15 bytes.
const NAME: &CStr = c"shim-libcontain";

/// What one request leaves behind in the process that served it.
#[derive(Debug, Default)]
struct Session {
    retire: Cell<bool>,
    release: RefCell<Option<Release>>,
}

/// What one request leaves to the next: the plan of the container that is expected.
type Expected = Option<PreparedSpec>;

impl Session {
    /// This process is not to serve another request.
    fn retire(&self) {
        self.retire.set(true);
    }

    /// What was cloned is to go on once its request is answered.
    fn release(&self, release: Release) {
        *self.release.borrow_mut() = Some(release);
    }
}

/// Runs the helper until its shim has no more use for it.
pub(crate) fn run() -> ExitCode {
    match prepare().and_then(|socket| serve(&socket)) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the standard streams; the shim reports the exit status.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Makes the process what libcontainer and the safety of the host want it to be.
fn prepare() -> io::Result<OwnedFd> {
    let socket = sys::fd::inherited(HELPER_SOCKET)?;
    sys::fd::close_from(HELPER_SOCKET + 1)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_name(NAME)?;
    rustix::process::chdir("/")?;
    // Clones inherit this. posix_spawn(3), by which the shim starts the helper, leaves signals 32 and
    // 33 ignored.
    sys::signal::reset_signals(libc::SIGPIPE)?;
    // A hook may end without having read its state. What is executed in a container gets the default.
    sys::signal::ignore_broken_pipes()?;
    // runc's own; what a container's spec leaves open is inherited from here.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A container gets the groups its spec lists and none of the shim's. In a user namespace
    // without setgroups there is nothing to be done about them.
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
            // What is wrong with it is told to whoever asks for it.
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
        // libcontainer runs a hook that has a timeout from a thread, which is not for the next
        // container: a fresh helper takes over.
        if session.retire.get() {
            return leave(socket);
        }
    }
}

/// Lets others have the processor who may be waiting for it: what is done ahead is done while the shim
/// mounts the root file system, and the kernel may have put both on the same one.
fn make_way() {
    rustix::thread::sched_yield();
}

fn leave(socket: &OwnedFd) -> io::Result<()> {
    // A request that arrives from here on stays unread, and the shim, which reads this, asks anew.
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
            let hooked = plan.hooked;
            let options = launch::CreateOptions { no_pivot_root, no_new_keyring };
            let (pid, report) = container::create(session, plan, options, streams)?;
            Ok((HelperReply::Created { pid, hooked }, Some(report)))
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

/// Where a container's cgroups would be, for checks that they are gone.
#[cfg(test)]
pub(super) fn cgroup_directories(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    cgroup::everywhere(path)
}

/// Ends what a failed test left.
#[cfg(test)]
pub(super) fn cgroup_remove(path: &std::path::Path) {
    let _ = cgroup::Cgroups::find(path).and_then(|cgroups| cgroups.remove());
}

/// What runs in a container, for checks that nothing else does.
#[cfg(test)]
pub(super) fn cgroup_pids(path: &std::path::Path) -> Vec<i32> {
    cgroup::Cgroups::find(path).map(|cgroups| cgroups.pids()).unwrap_or_default()
}
