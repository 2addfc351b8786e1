//! Removes what runc keeps of a stopped container, without running runc.
//!
//! `runc delete` of a stopped container removes its cgroups, its resource control group, its record,
//! and runs the poststop hooks. Where there are only the first and the third to do, the shim does
//! it itself, which saves the start of a Go program. The record (`state.json`, stable since runc
//! 1.0) tells; whatever it does not tell plainly is left to `runc delete`, which takes what is
//! half removed for removed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::start::is_runc;
use crate::cgroup::remove::{is_root, remove_group};

/// What matters here of a record.
#[derive(Debug, Deserialize)]
struct State {
    cgroup_paths: HashMap<String, PathBuf>,
    intel_rdt_path: String,
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "Hooks")]
    hooks: Option<HashMap<String, Value>>,
    cgroups: Cgroups,
}

#[derive(Debug, Deserialize)]
struct Cgroups {
    #[serde(rename = "Systemd")]
    systemd: bool,
}

/// Removes the record of a stopped container and those of its groups that `owns` names; false if the
/// runtime must be asked.
pub(super) fn by_hand(program: &Path, record: &Path, owns: impl Fn(&Path) -> bool) -> bool {
    if !is_runc(program) {
        return false;
    }
    let Some(state) = read(&record.join("state.json")) else {
        return false;
    };
    // The kernel refuses while a process is left, so nothing that runs is ever lost sight of.
    let mut own = state.cgroup_paths.values().filter(|group| owns(group));
    own.all(|group| !is_root(group) && remove_group(group).is_ok())
        // The record goes last: until then, everything can be tried again.
        && fs::remove_dir_all(record).is_ok()
}

/// The record, if it asks for nothing special.
fn read(path: &Path) -> Option<State> {
    let state: State = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
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
        assert!(!by_hand(Path::new("crun"), folder.path(), |_| true));
        assert!(folder.path().exists());
        assert!(by_hand(Path::new("/usr/sbin/runc"), folder.path(), |_| true));
        assert!(!folder.path().exists());
    }
}
