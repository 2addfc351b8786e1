//! `delete`: cleans up after a shim that died, and prints the exit of its container.
//!
//! The exit is that of the journal. Without one in the journal, the container counts as killed.
//! After a failed step the other steps are still done, because the daemon calls `delete` only once.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protos::ttrpc::api::DeleteResponse;
use protos::ttrpc::protobuf::Message;
use tokio::task::LocalSet;

use super::args::Args;
use super::endpoint;
use crate::journal::Stage;
use crate::wire::convert;
use crate::{
    Bundle, ContainerId, Error, Exit, Journal, Kind, Pid, ProcessHandle, Result, Runtime, Signal,
    file, mount,
};

/// How long the runtime may take; the daemon itself waits 5 s.
const CLEAN_UP: Duration = Duration::from_millis(4500);

/// The limit for reading a pid file.
const MAX_PID_BYTES: u64 = 64;

/// The bundle of the container: the one in the arguments, or the one with this id beside the
/// working directory. The working directory may be the bundle of another member of the group.
pub(crate) fn bundle(args: &Args) -> Result<Bundle> {
    let here = std::env::current_dir().map_err(|cause| Error::io("getcwd", cause))?;
    let named = args.bundle.clone().filter(|path| path.is_dir());
    let sibling = || here.parent().map(|parent| parent.join(&args.id)).filter(|path| path.is_dir());
    Ok(Bundle::new(named.or_else(sibling).unwrap_or_else(|| here.clone())))
}

/// Answers `delete`.
pub(crate) fn delete<R: Runtime>(id: &ContainerId, bundle: &Bundle, runtime: R) -> Result<()> {
    let journal = match Journal::read(bundle) {
        Ok(journal) => journal.filter(|journal| journal.id == *id),
        // With a damaged journal the container is still cleaned up.
        Err(_) => None,
    };
    // The start time is checked, so another process with a reused pid is not killed.
    let init = journal.as_ref().map(|journal| journal.init.clone()).unwrap_or_default();
    if let (Some(pid), None) = (init.pid, init.exit)
        && let Ok(handle) = ProcessHandle::open(pid)
        && init.start_time.is_some()
        && crate::process::start_time::start_time(pid) == init.start_time
    {
        // It may end in between; that is the same result.
        let _ = handle.signal(Signal::KILL);
    }
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let event_loop = event_loop.map_err(|cause| Error::io("start the event loop", cause))?;
    // The container was deleted before the shim ended: the runtime has nothing to do.
    let deleted = journal.as_ref().is_some_and(|journal| journal.stage == Stage::Deleted);
    let cleaned = LocalSet::new().block_on(&event_loop, async {
        if deleted {
            return Ok(());
        }
        crate::reaper::start()?;
        let cleaned = tokio::time::timeout(CLEAN_UP, runtime.clean_up(id, bundle)).await;
        cleaned.unwrap_or_else(|_| {
            let text = format!("cleaning up {id} took longer than {CLEAN_UP:?}");
            Err(Error::new(Kind::DeadlineExceeded, text))
        })
    });
    event_loop.shutdown_background();
    let unmounted = mount::unmount_recursive(&bundle.rootfs()).map_err(Error::from);
    endpoint::remove_socket(bundle);
    let exit = init.exit.unwrap_or_else(Exit::killed);
    let pid = init.pid.or_else(|| pid_file(&bundle.file("init.pid")));
    // The first error is returned.
    cleaned.and(unmounted)?;
    let response = DeleteResponse {
        pid: convert::pid(pid),
        exit_status: exit.status,
        exited_at: convert::exited_at(&exit),
        ..DeleteResponse::default()
    };
    let bytes = response
        .write_to_bytes()
        .map_err(|cause| Error::new(Kind::Internal, "encode the answer").with_source(cause))?;
    io::stdout().lock().write_all(&bytes).map_err(|cause| Error::io("print the answer", cause))
}

/// The pid in a pid file that a runtime has written.
fn pid_file(path: &Path) -> Option<Pid> {
    let text = String::from_utf8(file::read_regular(path, MAX_PID_BYTES).ok()?).ok()?;
    text.trim().parse().ok().and_then(Pid::new)
}

/// The bundle with an absolute path, for messages, and for runtimes with another working directory.
pub(crate) fn absolute(bundle: Bundle) -> Bundle {
    let path: Option<PathBuf> = std::path::absolute(bundle.path()).ok();
    path.map_or(bundle, Bundle::new)
}
