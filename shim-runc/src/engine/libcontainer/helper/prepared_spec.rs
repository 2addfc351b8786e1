//! The spec of a container, read and checked: everything that a create needs and that only reads.
//!
//! The id and the bundle of the shim's first container are known before its Create. So its spec is prepared
//! while the daemon connects and the root file system is mounted.
//!
//! Promise: preparing changes nothing that a container could see or that would have to be undone, except
//! that a compiled seccomp profile may be kept for later containers. A prepared spec is used only if the
//! file is unchanged. Not here: creating the container (`container`).

use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;

use super::super::wire::{Failure, Reason};
use super::failure::failure;
use super::identity::Identity;
use super::resource_fixups::ResourceFixups;
use super::spec_file::{SpecVersion, read_spec};
use super::validate;
use crate::cgroup::hierarchy::Hierarchies;

/// The prepared spec of one container.
pub(super) struct PreparedSpec {
    pub(super) root: PathBuf,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) spec: Spec,
    pub(super) has_hooks: bool,
    /// The path of its control groups in each hierarchy.
    pub(super) group: PathBuf,
    pub(super) identity: Identity,
    pub(super) fixups: ResourceFixups,
    pub(super) hierarchies: Hierarchies,
    version: Option<SpecVersion>,
}

impl PreparedSpec {
    /// Reads and checks the spec in the bundle.
    pub(super) fn make(root: &Path, id: &str, bundle: &Path) -> Result<Self, Failure> {
        let version = SpecVersion::of(bundle);
        let spec = read_spec(bundle)?;
        let has_hooks = spec.hooks().is_some();
        let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let group = Path::new("/").join(asked.unwrap_or(Path::new(id)));
        let fixups = ResourceFixups::of(&spec);
        validate::spec(&spec)?;
        let identity = Identity::of_init(root, &spec)?;
        let hierarchies = Hierarchies::read().map_err(|error| failure(Reason::Cgroup, &error))?;
        let (root, id, bundle) = (root.to_owned(), id.to_owned(), bundle.to_owned());
        Ok(Self {
            root,
            id,
            bundle,
            spec,
            has_hooks,
            group,
            identity,
            fixups,
            hierarchies,
            version,
        })
    }

    /// Whether it is the spec of this container, and the file is unchanged.
    pub(super) fn is_for(&self, root: &Path, id: &str, bundle: &Path) -> bool {
        let is_same = self.root == root && self.id == id && self.bundle == bundle;
        is_same && self.version.is_some() && self.version == SpecVersion::of(bundle)
    }
}
