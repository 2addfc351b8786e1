//! The requests to an engine.
//!
//! The runtime options and the SDK's requests are resolved into these types once, in `container` and
//! `checkpoint`; an engine reads no options. A request borrows from its caller for one call.

use std::path::Path;

use oci_spec::runtime::Process;
use shim_sdk::{ContainerId, ExecId};

use crate::options::CheckpointOptions;

/// Create a container ([`Engine::create`](super::Engine::create)).
#[derive(Debug)]
pub(crate) struct CreateRequest<'a> {
    pub(crate) id: &'a ContainerId,
    /// The bundle's directory.
    pub(crate) bundle: &'a Path,
    /// Use MS_MOVE instead of pivot_root(2).
    pub(crate) no_pivot_root: bool,
    /// Share the session keyring of the shim.
    pub(crate) no_new_keyring: bool,
}

/// Start a further process in a container ([`Engine::exec`](super::Engine::exec)).
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    pub(crate) container: &'a ContainerId,
    pub(crate) id: &'a ExecId,
    pub(crate) process: &'a Process,
}

/// Write a checkpoint of a container ([`Engine::checkpoint`](super::Engine::checkpoint)).
#[derive(Debug)]
pub(crate) struct CheckpointRequest<'a> {
    pub(crate) id: &'a ContainerId,
    /// The directory that criu writes the images to.
    pub(crate) image: &'a Path,
    /// The directory of criu's logs.
    pub(crate) work: &'a Path,
    pub(crate) options: &'a CheckpointOptions,
}

/// Restore a container from a checkpoint ([`Engine::restore`](super::Engine::restore)).
#[derive(Debug)]
pub(crate) struct RestoreRequest<'a> {
    pub(crate) id: &'a ContainerId,
    /// The bundle's directory.
    pub(crate) bundle: &'a Path,
    /// The directory of criu's images.
    pub(crate) image: &'a Path,
    /// The directory of criu's logs.
    pub(crate) work: &'a Path,
    /// Use MS_MOVE instead of pivot_root(2).
    pub(crate) no_pivot_root: bool,
}

/// Change the resource limits of a container ([`Engine::update`](super::Engine::update)).
#[derive(Debug)]
pub(crate) struct UpdateRequest<'a> {
    pub(crate) id: &'a ContainerId,
    /// OCI's `LinuxResources`, as JSON.
    pub(crate) resources: &'a [u8],
}
