//! The part of a bundle's `config.json` that the shim itself needs.
//!
//! Reading a part takes a fraction of the time and memory of the whole spec. What is missing or null
//! here is valid; the engine validates the spec. See the OCI runtime specification, config.md.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use shim_sdk::bundle::MAX_SPEC_BYTES;
use shim_sdk::file::read_regular;

/// Some fields of a spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SpecExcerpt {
    root: Option<Root>,
    mounts: Option<Vec<SpecMount>>,
    linux: Option<Linux>,
    hooks: Option<Hooks>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: String,
}

#[derive(Debug, Deserialize)]
struct SpecMount {
    destination: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<PathBuf>,
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Hooks {
    poststop: Option<Vec<IgnoredAny>>,
}

impl SpecExcerpt {
    /// Reads the spec of a bundle. Returns `None` if it cannot be read; the engine then refuses it.
    pub(crate) fn read(bundle: &Path) -> Option<Self> {
        let json = read_regular(&bundle.join("config.json"), MAX_SPEC_BYTES).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// The path of the root file system; a relative one is relative to the bundle.
    pub(crate) fn root_path(&self) -> &str {
        self.root.as_ref().map_or("rootfs", |root| &root.path)
    }

    /// Whether a mount has this destination.
    pub(crate) fn has_mount_at(&self, destination: &Path) -> bool {
        self.mounts.iter().flatten().any(|mount| mount.destination == destination)
    }

    /// `cgroupsPath`.
    pub(crate) fn cgroups_path(&self) -> Option<&Path> {
        self.linux.as_ref()?.cgroups_path.as_deref()
    }

    /// Whether the container has a new pid namespace. The kernel kills its processes when init exits.
    pub(crate) fn has_new_pid_namespace(&self) -> bool {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        namespaces
            .into_iter()
            .flatten()
            .any(|one| one.r#type == "pid" && one.path.as_ref().is_none_or(String::is_empty))
    }

    /// Whether there are poststop hooks.
    pub(crate) fn has_poststop_hooks(&self) -> bool {
        let poststop = self.hooks.as_ref().and_then(|hooks| hooks.poststop.as_ref());
        poststop.is_some_and(|hooks| !hooks.is_empty())
    }
}
