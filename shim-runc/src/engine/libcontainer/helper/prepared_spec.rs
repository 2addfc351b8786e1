//! What a container will be, by its spec: all that a create needs and that only reads.
//!
//! The shim's first container is known before it is asked for, so its plan is made while the daemon
//! connects and the root file system is mounted.
//!
//! Promise: making a plan changes nothing that a container could see or that would have to be
//! undone; a profile may be kept for the next one. It counts only as long as the spec is the one that
//! it was made of. Not here: making anything (`container`).

use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;

use super::super::wire::{Failure, Reason};
use super::cgroup::Hierarchies;
use super::failure::failure;
use super::identity::Identity;
use super::resource_fixups::Corrections;
use super::spec_file::{SpecVersion, read_spec};
use super::validate;

/// The plan of one container.
pub(super) struct PreparedSpec {
    pub(super) root: PathBuf,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) spec: Spec,
    pub(super) hooked: bool,
    /// Where its control groups are, in each hierarchy.
    pub(super) group: PathBuf,
    pub(super) identity: Identity,
    pub(super) corrections: Corrections,
    pub(super) hierarchies: Hierarchies,
    version: Option<SpecVersion>,
}

impl PreparedSpec {
    /// Reads and checks the spec in the bundle.
    pub(super) fn make(root: &Path, id: &str, bundle: &Path) -> Result<Self, Failure> {
        let version = SpecVersion::of(bundle);
        let spec = read_spec(bundle)?;
        let hooked = spec.hooks().is_some();
        let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let group = Path::new("/").join(asked.unwrap_or(Path::new(id)));
        let corrections = Corrections::of(&spec);
        validate::spec(&spec)?;
        let identity = Identity::of_init(root, &spec)?;
        let hierarchies = Hierarchies::read().map_err(|error| failure(Reason::Cgroup, &error))?;
        let (root, id, bundle) = (root.to_owned(), id.to_owned(), bundle.to_owned());
        Ok(Self {
            root,
            id,
            bundle,
            spec,
            hooked,
            group,
            identity,
            corrections,
            hierarchies,
            version,
        })
    }

    /// Whether it is the plan of this container, whose spec is as it was.
    pub(super) fn is_for(&self, root: &Path, id: &str, bundle: &Path) -> bool {
        let is_same = self.root == root && self.id == id && self.bundle == bundle;
        is_same && self.version.is_some() && self.version == SpecVersion::of(bundle)
    }
}
