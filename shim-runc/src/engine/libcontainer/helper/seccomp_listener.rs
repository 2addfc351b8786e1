//! Sends the descriptor of a seccomp profile's notifications to its listener (SCMP_ACT_NOTIFY).
//!
//! Promise: the listener gets the descriptor and the container's state in the form of the specification. See the OCI runtime specification, "The Container Process State".

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::container::State;
use libcontainer::oci_spec::runtime::{
    ContainerProcessStateBuilder, ContainerState, SECCOMP_FD_NAME, Spec, StateBuilder, VERSION,
};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::super::wire::{self, Failure, Reason};
use super::failure::{failed, failure};

/// Sends the descriptor to the listener that the profile names.
pub(super) fn inform(spec: &Spec, state: &State, pid: i32, fd: OwnedFd) -> Result<(), Failure> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = profile.and_then(|profile| profile.listener_path().as_deref()).ok_or_else(|| {
        let text = "seccomp: SCMP_ACT_NOTIFY is used and no listenerPath is given";
        Failure::new(Reason::InvalidRequest, text)
    })?;
    let metadata = profile.and_then(|profile| profile.listener_metadata().clone());
    let built = || {
        let state = StateBuilder::default()
            .version(VERSION)
            .id(state.id.clone())
            .status(ContainerState::Creating)
            .pid(pid)
            .bundle(state.bundle.clone())
            .annotations(state.annotations.clone().unwrap_or_default())
            .build()?;
        ContainerProcessStateBuilder::default()
            .version(VERSION)
            .fds(vec![SECCOMP_FD_NAME.to_owned()])
            .pid(pid)
            .metadata(metadata.unwrap_or_default())
            .state(state)
            .build()
    };
    let text = built().map_err(|error| failure(Reason::Library, &error))?;
    send(path, &text, &fd).map_err(|error| {
        let path = path.display();
        failed(&format!("inform the seccomp listener {path}"), &error)
    })
}

fn send(path: &Path, text: &impl serde::Serialize, fd: &OwnedFd) -> io::Result<()> {
    let socket = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // By its descriptor: the path may be longer than a socket address.
    let listener = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    wire::send(&listener, &serde_json::to_vec(text)?, &[fd.as_fd()])
}
