//! Deletes a stopped container of runc, without running runc.
//!
//! `runc delete` removes the cgroups, the resctrl group and the state directory of a stopped
//! container, and runs the poststop hooks. If there is neither a resctrl group nor a hook, the shim
//! does it itself, which saves the start of a Go program. `state.json` in the state directory says so.
//!
//! `state.json` is private to runc: no document promises it. The fields that are read here have the same
//! names since runc 1.0, and the tests run this with 1.1.5. A `state.json` without one of these fields,
//! a program whose file name is not `runc`, and a container that systemd manages are left to
//! `runc delete`, which accepts that a part is removed already.
//!
//! A wrapper whose file name is `runc` is not run for such a delete if it calls a real runc with the same
//! `--root`; [`start`](super::start) says more.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::start::is_runc;
use crate::cgroup::directory::{is_root, remove_group};

/// The part of `state.json` that is used here.
#[derive(Debug, Deserialize)]
struct RuncState {
    cgroup_paths: HashMap<String, PathBuf>,
    intel_rdt_path: String,
    config: RuncConfig,
}

#[derive(Debug, Deserialize)]
struct RuncConfig {
    #[serde(rename = "Hooks")]
    hooks: Option<HashMap<String, Value>>,
    cgroups: RuncCgroups,
}

#[derive(Debug, Deserialize)]
struct RuncCgroups {
    #[serde(rename = "Systemd")]
    systemd: bool,
}

/// Removes the cgroups of a stopped container for which `owns` is true, and its state directory.
/// Returns false if the runtime must be run instead.
pub(super) fn without_runtime(program: &Path, record: &Path, owns: impl Fn(&Path) -> bool) -> bool {
    if !is_runc(program) {
        return false;
    }
    let Some(state) = read(&record.join("state.json")) else {
        return false;
    };
    // rmdir(2) fails while a process is in a cgroup, so no running process is lost.
    let mut own = state.cgroup_paths.values().filter(|group| owns(group));
    own.all(|group| !is_root(group) && remove_group(group).is_ok())
        // The state directory is removed last, so that everything before can be repeated.
        && fs::remove_dir_all(record).is_ok()
}

/// Reads `state.json`, if the container needs nothing that only runc can do.
fn read(path: &Path) -> Option<RuncState> {
    let state: RuncState = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let poststop = state.config.hooks.as_ref().and_then(|hooks| hooks.get("poststop"));
    let no_hooks = match poststop {
        None | Some(Value::Null) => true,
        Some(Value::Array(hooks)) => hooks.is_empty(),
        Some(_) => false,
    };
    let plain_groups = state.cgroup_paths.values().all(|path| {
        path.starts_with("/sys/fs/cgroup") && path.components().count() > 4 && !has_dots(path)
    });
    (no_hooks && plain_groups && !state.config.cgroups.systemd && state.intel_rdt_path.is_empty())
        .then_some(state)
}

fn has_dots(path: &Path) -> bool {
    path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Value {
        serde_json::json!({
            "id": "c1",
            "cgroup_paths": {"": "/sys/fs/cgroup/unified/c1", "pids": "/sys/fs/cgroup/pids/c1"},
            "intel_rdt_path": "",
            "config": {"Hooks": {"poststop": null}, "cgroups": {"Systemd": false}},
        })
    }

    fn accepted(change: impl FnOnce(&mut Value)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let mut state = plain();
        change(&mut state);
        let path = folder.path().join("state.json");
        fs::write(&path, state.to_string()).unwrap();
        read(&path).is_some()
    }

    #[test]
    fn only_a_plain_record_is_removed_by_hand() {
        assert!(accepted(|_| {}));
        assert!(accepted(|state| state["config"]["Hooks"] = Value::Null));
        assert!(!accepted(|state| state["config"]["Hooks"]["poststop"] = serde_json::json!([{}])));
        assert!(!accepted(|state| state["config"]["cgroups"]["Systemd"] = true.into()));
        assert!(!accepted(|state| state["config"]["cgroups"] = serde_json::json!({})));
        assert!(!accepted(|state| state["intel_rdt_path"] = "/sys/fs/resctrl/c1".into()));
    }

    #[test]
    fn a_record_can_not_make_the_shim_remove_other_directories() {
        assert!(!accepted(|state| state["cgroup_paths"]["pids"] = "/etc".into()));
        assert!(!accepted(
            |state| state["cgroup_paths"]["pids"] = "/sys/fs/cgroup/../../x/y".into()
        ));
        assert!(!accepted(|state| state["cgroup_paths"]["pids"] = "/sys/fs/cgroup".into()));
    }

    #[test]
    fn other_runtimes_delete_themselves() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state.json"), plain().to_string()).unwrap();
        assert!(!without_runtime(Path::new("crun"), folder.path(), |_| true));
        assert!(folder.path().exists());
        assert!(without_runtime(Path::new("/usr/sbin/runc"), folder.path(), |_| true));
        assert!(!folder.path().exists());
    }
}
