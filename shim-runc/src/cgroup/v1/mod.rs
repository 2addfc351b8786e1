//! A container's groups in the hierarchies of cgroup v1.

mod stats;
mod update;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Freeze, Keyed, write};
use crate::error::{EngineError, SystemCall};

/// One group in each hierarchy, by controller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(BTreeMap<String, PathBuf>);

impl Groups {
    /// Adds the group at `path`, which these controllers share.
    pub(crate) fn insert(&mut self, controllers: &[&str], path: PathBuf) {
        for controller in controllers {
            self.0.insert((*controller).to_owned(), path.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The group that a controller acts on.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(PathBuf::as_path)
    }

    /// A control file of a controller.
    fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        Some(self.controller(controller)?.join(name))
    }

    /// The group whose processes are the container's.
    ///
    /// Any would do; a container that manages groups of its own (systemd in it) rarely touches
    /// these.
    pub(super) fn membership(&self) -> &Path {
        ["pids", "devices", "freezer", "memory"]
            .iter()
            .find_map(|name| self.controller(name))
            .or_else(|| self.0.values().next().map(PathBuf::as_path))
            .unwrap_or(Path::new("/nonexistent")) // never: `find` does not make empty ones
    }

    /// The control file that freezes.
    pub(super) fn freezer(&self) -> Option<PathBuf> {
        self.file("freezer", "freezer.state")
    }

    pub(super) fn request_freeze(&self, to: Freeze) -> Result<(), EngineError> {
        let value = match to {
            Freeze::Frozen => "FROZEN",
            Freeze::Thawed => "THAWED",
        };
        write(&self.required_freezer()?, value)
    }

    pub(super) fn is(&self, freeze: Freeze) -> Result<bool, EngineError> {
        let path = self.required_freezer()?;
        let state =
            fs::read_to_string(&path).map_err(|cause| EngineError::file("read", path, cause))?;
        Ok(state.trim_end()
            == match freeze {
                Freeze::Frozen => "FROZEN",
                Freeze::Thawed => "THAWED",
            })
    }

    /// Whether memory has run out in a way that no count tells: the container's processes wait
    /// because the killer is off, or the kernel does not count (before 4.13). `None`: there is no
    /// group any more.
    pub(crate) fn out_of_memory(&self) -> Option<bool> {
        let control = Keyed::read(&self.file("memory", "memory.oom_control")?)?;
        let waiting = control.count("oom_kill_disable") == 1 && control.count("under_oom") == 1;
        Some(waiting || control.get("oom_kill").is_none())
    }

    /// How many processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        Keyed::read(&self.file("memory", "memory.oom_control")?)?.get("oom_kill")
    }

    fn required_freezer(&self) -> Result<PathBuf, EngineError> {
        self.freezer()
            .ok_or_else(|| EngineError::system(SystemCall::FindFreezer, io::ErrorKind::NotFound))
    }
}
