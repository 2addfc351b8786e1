//! What a container will be, by its spec: all that a create needs and that only reads.
//!
//! The shim's first container is known before it is asked for, so its plan is made while the daemon
//! connects and the root file system is mounted.
//!
//! Promise: making a plan changes nothing that a container could see or that would have to be
//! undone; a profile may be kept for the next one. Not here: making anything (`container`).

use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;

use super::super::wire::{Failure, Reason};
use super::cgroup::Hierarchies;
use super::container::{failure, read_spec};
use super::corrections::Corrections;
use super::identity::Identity;
use super::interior::Interior;
use super::tailored;

/// The plan of one container.
pub(super) struct Plan {
    pub(super) root: PathBuf,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    /// As it is tailored for libcontainer.
    pub(super) spec: Spec,
    pub(super) hooked: bool,
    pub(super) group: PathBuf,
    pub(super) identity: Identity,
    pub(super) interior: Interior,
    pub(super) corrections: Corrections,
    pub(super) hierarchies: Hierarchies,
}

impl Plan {
    /// Reads and checks the spec in the bundle.
    pub(super) fn make(root: &Path, id: &str, bundle: &Path) -> Result<Self, Failure> {
        let spec = read_spec(bundle)?;
        let hooked = spec.hooks().is_some();
        let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let group = tailored::group(asked, id);
        let (interior, corrections) = (Interior::of(&spec), Corrections::of(&spec));
        let (spec, identity) = tailored::tailored(root, id, bundle, spec)?;
        let hierarchies = Hierarchies::read().map_err(|error| failure(Reason::Other, &error))?;
        let (root, id, bundle) = (root.to_owned(), id.to_owned(), bundle.to_owned());
        Ok(Self {
            root,
            id,
            bundle,
            spec,
            hooked,
            group,
            identity,
            interior,
            corrections,
            hierarchies,
        })
    }

    /// Whether it is the plan of this container.
    pub(super) fn is_for(&self, root: &Path, id: &str, bundle: &Path) -> bool {
        self.root == root && self.id == id && self.bundle == bundle
    }
}
