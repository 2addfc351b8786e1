//! Starts a container that runc has created, without running runc.
//!
//! runc's init opens `exec.fifo` in the container's state directory for writing, writes a byte, and
//! executes the user's command. `runc start` only reads that byte and removes the fifo; the hooks
//! have run before. The shim does the same itself, which saves the start of a Go program.
//!
//! `exec.fifo` is private to runc: no document promises it. The protocol is known for runc 1.0 to 1.4,
//! and the tests run it with 1.1.5. The engine runs `runc start` instead in each of these cases:
//!
//! - The program's file name is not `runc`. crun has a fifo too, and uses it differently.
//! - The state directory below `--root` has no `state.json`, or `exec.fifo` is no fifo.
//! - Init has ended without its byte. `runc start` then reports the error.
//!
//! # A wrapper that is named runc
//!
//! A wrapper whose file name is `runc` is not run for this start if it calls a real runc with the same
//! `--root`. If it calls another runtime, or changes `--root`, the state directory looks different and
//! the wrapper is run. A wrapper that must see every start needs another file name; the runtime option
//! `BinaryName` selects it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use shim_sdk::{Pid, ProcessHandle};
use tokio::io::unix::AsyncFd;

use crate::error::{EngineError, Operation, SystemCall};
use crate::sys;

/// Starts the init of a created container. Returns false if the runtime must be run instead.
///
/// Only for a program named `runc`: other runtimes have a fifo too, but use it differently.
pub(super) async fn through_fifo(
    program: &Path,
    record: &Path,
    init: Pid,
) -> Result<bool, EngineError> {
    let fifo = record.join("exec.fifo");
    if !is_runc(program)
        || !record.join("state.json").exists()
        || !fs::symlink_metadata(&fifo).is_ok_and(|entry| entry.file_type().is_fifo())
    {
        return Ok(false);
    }
    // This open does not wait for a writer. Init waits for a reader, so it continues now.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(reader) = rustix::fs::open(&fifo, flags, Mode::empty()) else {
        return Ok(false);
    };
    let process = ProcessHandle::open(init)
        .map_err(|cause| EngineError::Process { operation: Operation::Start, cause })?;
    let Some(pidfd) = process.pidfd() else {
        return Ok(false);
    };
    let watch = |fd: io::Result<OwnedFd>| {
        fd.and_then(sys::poll::readable)
            .map_err(|cause| EngineError::system(SystemCall::EpollAdd, cause))
    };
    let reader = watch(Ok(reader))?;
    let exited = watch(pidfd.try_clone_to_owned())?;
    let told = tokio::select! {
        // In this order: an init that wrote its byte and has exited since was started.
        biased;
        told = byte(&reader) => told.map_err(|cause| EngineError::file("read", &fifo, cause))?,
        _ = exited.readable() => byte_now(reader.get_ref()).unwrap_or(false),
    };
    if told {
        fs::remove_file(&fifo).map_err(|cause| EngineError::file("remove", &fifo, cause))?;
    }
    // Without a byte init is dead; the runtime then reports the error.
    Ok(told)
}

/// Whether a program's state directory has the format of runc.
pub(super) fn is_runc(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "runc")
}

/// Waits for init's byte. Returns false if a writer closed the fifo without one.
async fn byte(reader: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    loop {
        let mut ready = reader.readable().await?;
        if let Ok(read) = ready.try_io(|reader| byte_now(reader.get_ref())) {
            return read;
        }
    }
}

fn byte_now(reader: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::io::read(reader, &mut [0; 8])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    fn record(folder: &Path) {
        fs::write(folder.join("state.json"), "{}").unwrap();
        nix::unistd::mkfifo(&folder.join("exec.fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }

    fn start(program: &str, folder: &Path, init: u32) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let init = Pid::new(init).unwrap();
        runtime.block_on(through_fifo(Path::new(program), folder, init)).unwrap()
    }

    #[test]
    fn an_init_that_waits_is_let_go_and_the_fifo_removed() {
        let folder = tempfile::tempdir().unwrap();
        record(folder.path());
        let fifo = folder.path().join("exec.fifo");
        let init = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                let mut file = fs::OpenOptions::new().write(true).open(fifo).unwrap();
                file.write_all(b"0").unwrap();
            })
        };
        assert!(start("/usr/sbin/runc", folder.path(), std::process::id()));
        init.join().unwrap();
        assert!(!fifo.exists());
    }

    #[test]
    fn a_dead_init_is_left_to_the_runtime_to_report() {
        let folder = tempfile::tempdir().unwrap();
        record(folder.path());
        let mut init = Command::new("sleep").arg("0.05").spawn().unwrap();
        assert!(!start("runc", folder.path(), init.id()));
        init.wait().unwrap();
        assert!(folder.path().join("exec.fifo").exists());
    }

    #[test]
    fn other_runtimes_and_other_layouts_are_started_by_their_own_command() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!start("runc", folder.path(), 1));
        record(folder.path());
        assert!(!start("crun", folder.path(), 1));
        assert!(!start("/opt/wrapped-runc", folder.path(), 1));
    }
}
