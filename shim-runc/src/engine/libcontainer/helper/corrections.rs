//! Limits that libcontainer gets wrong, put right before the container is started.
//!
//! On version 1 it never switches the out-of-memory killer off, and it grants every container the
//! host's console (5:1), which runc does not. On version 2, which has no such switch, it leaves every
//! device to every container (see [`Devices`]).
//!
//! See cgroups(7); the kernel's memory.txt and devices.txt for version 1.

use std::fs;
use std::io;
use std::path::Path;

use libcontainer::config::YoukiConfig;
use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

use super::cgroup::Cgroups;
use super::devices::Devices;

/// What is to be put right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Corrections {
    no_killer: bool,
    no_console: bool,
    rules: Vec<LinuxDeviceCgroup>,
}

impl Corrections {
    /// Reads it out of a container's own spec.
    pub(super) fn of(spec: &Spec) -> Self {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let memory = resources.and_then(|all| all.memory().as_ref());
        let rules = resources.and_then(|all| all.devices().as_ref());
        // The last that says anything about it decides.
        let console = rules.into_iter().flatten().rfind(|rule| covers_console(rule));
        Self {
            no_killer: memory.and_then(|memory| memory.disable_oom_killer()) == Some(true),
            no_console: !console.is_some_and(LinuxDeviceCgroup::allow),
            rules: rules.cloned().unwrap_or_default(),
        }
    }

    /// Puts it right in the groups of a container, known by its record.
    pub(super) fn apply(&self, record: &Path) -> io::Result<()> {
        let config = YoukiConfig::load(record).map_err(io::Error::other)?;
        let groups = Cgroups::find(&config.cgroup_path)?;
        if let Some(group) = groups.unified() {
            return Devices::of(&self.rules)?.attach(group);
        }
        let write = |name: &str, text: &str| match groups.file(name) {
            Some(file) => fs::write(file, text),
            None => Ok(()),
        };
        if self.no_killer {
            write("memory.oom_control", "1")?;
        }
        if self.no_console {
            write("devices.deny", "c 5:1 rwm")?;
        }
        Ok(())
    }
}

fn covers_console(rule: &LinuxDeviceCgroup) -> bool {
    let any =
        |number: Option<i64>, wanted| number.is_none_or(|number| number < 0 || number == wanted);
    let kind =
        rule.typ().is_none_or(|kind| matches!(kind, LinuxDeviceType::A | LinuxDeviceType::C));
    kind && any(rule.major(), 5) && any(rule.minor(), 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn corrections(devices: serde_json::Value) -> Corrections {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"resources": {"devices": devices}}});
        Corrections::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_console_is_only_for_a_container_that_was_granted_it() {
        let denied = json!({"allow": false, "access": "rwm"});
        assert!(corrections(json!([denied])).no_console);
        let zero = json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"});
        assert!(corrections(json!([denied, zero])).no_console);
        let console = json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"});
        assert!(!corrections(json!([denied, console])).no_console);
        assert!(!corrections(json!([denied, {"allow": true, "access": "rwm"}])).no_console);
    }
}
