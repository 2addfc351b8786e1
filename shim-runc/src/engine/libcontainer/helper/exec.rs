//! A further process in a container.
//!
//! libcontainer wants a running container, containerd also a created one; who the process is, is
//! made up for by its [`Identity`].

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use libcontainer::container::ContainerStatus;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::MemfdFlags;

use super::super::report::Report;
use super::super::wire::{Failure, Reason};
use super::Session;
use super::check;
use super::container::{Streams, failure, load, read_spec, record};
use super::executor::UserCommand;
use super::identity::{self, Identity};
use crate::making;

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
    // libcontainer makes the cgroups that it joins where they are missing: should the shim be killed
    // meanwhile, whoever cleans up after it must not be done before this.
    let _making = making::mark(container.bundle()).map_err(|error| {
        Failure::new(Reason::Other, format!("mark the bundle of {id}: {error}"))
    })?;
    let spec = read_spec(container.bundle())?;
    let mut process: Process = std::io::read_to_string(File::from(process))
        .and_then(|text| Ok(serde_json::from_str(&text)?))
        .map_err(|error| Failure::new(Reason::InvalidRequest, format!("process: {error}")))?;
    check::process(&process)?;
    let init = container.pid().map_or(0, |pid| pid.as_raw());
    let identity = Identity::of_exec(root, &spec, &process, init)?;
    identity::plain(&mut process)?;
    let process = in_memory(&process)?;
    let report = Report::open().map_err(|error| failure(Reason::Other, &error))?;
    let created = container.status() == ContainerStatus::Created;
    if created {
        // libcontainer refuses, containerd does not.
        record(&mut container, ContainerStatus::Running)?;
    }
    let result = streams
        .attach(ContainerBuilder::new(id.to_owned(), SyscallType::default()))
        .with_executor(UserCommand::new(report.writer(), identity, None))
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

/// The process as a file, which libcontainer wants.
fn in_memory(process: &Process) -> Result<File, Failure> {
    let write = || {
        let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(process)?)?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| failure(Reason::Other, &error))
}
