//! A container's group in the one tree of cgroup v2.

mod stats;
mod update;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Freeze, Keyed, MOUNT_POINT, below, make_all, write};
use crate::error::EngineError;

/// The group of one container.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    mount: PathBuf,
    path: PathBuf,
}

impl Group {
    /// The group at `path` of the host's tree.
    pub(crate) fn of_host(path: &Path) -> Self {
        let mount = Path::new(MOUNT_POINT);
        Self { mount: mount.to_owned(), path: below(mount, path) }
    }

    /// The group in a directory of which it is not said where the tree begins.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { mount: directory.to_owned(), path: directory.to_owned() }
    }

    /// Makes it where it is missing, with every controller that the host has. Others may make the
    /// same groups above it at the same time.
    pub(crate) fn make(&self) -> Result<(), EngineError> {
        make_all(&self.path).map_err(|cause| EngineError::file("create", &self.path, cause))?;
        self.enable_controllers();
        Ok(())
    }

    /// The group's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A control file.
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Offers every controller that the host has to the container's group.
    ///
    /// Runtimes enable what the spec asks for; statistics and later updates want the others too.
    /// Best effort: in a user namespace, or where another manager owns a part of the tree, it is
    /// not allowed, and the container works without.
    pub(crate) fn enable_controllers(&self) {
        let Ok(all) = fs::read_to_string(self.mount.join("cgroup.controllers")) else {
            return;
        };
        let Ok(relative) = self.path.strip_prefix(&self.mount) else {
            return;
        };
        let mut group = self.mount.clone();
        for name in relative {
            let control = group.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).unwrap_or_default();
            for controller in all.split_whitespace() {
                if !enabled.split_whitespace().any(|name| name == controller)
                    && let Err(cause) = write(&control, format!("+{controller}"))
                {
                    log::debug!("{}", shim_sdk::error::report(&cause));
                }
            }
            group.push(name);
        }
    }

    /// Whether the kernel has the freezer (5.2).
    pub(super) fn can_freeze(&self) -> bool {
        self.file("cgroup.freeze").exists()
    }

    pub(super) fn request_freeze(&self, to: Freeze) -> Result<(), EngineError> {
        write(&self.file("cgroup.freeze"), u8::from(to == Freeze::Frozen))
    }

    pub(super) fn is(&self, freeze: Freeze) -> Result<bool, EngineError> {
        let path = self.file("cgroup.events");
        let text =
            fs::read_to_string(&path).map_err(|cause| EngineError::file("read", path, cause))?;
        Ok((Keyed(text).count("frozen") == 1) == (freeze == Freeze::Frozen))
    }

    /// Kills every process at once, frozen or not; false if the kernel cannot (before 5.14).
    pub(super) fn kill(&self) -> Result<bool, EngineError> {
        match write(&self.file("cgroup.kill"), 1) {
            Ok(()) => Ok(true),
            Err(EngineError::System { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The file whose change tells of processes killed for want of memory.
    pub(crate) fn memory_events(&self) -> PathBuf {
        self.file("memory.events")
    }

    /// How many processes the kernel has killed for want of memory, here and below.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        Keyed::read(&self.memory_events())?.get("oom_kill")
    }
}
