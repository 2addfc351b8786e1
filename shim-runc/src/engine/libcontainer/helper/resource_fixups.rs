//! Limits that libcontainer gets wrong, put right before the container is started.
//!
//! On version 1 it never switches the out-of-memory killer off, and it grants every container the
//! host's console (5:1), which runc does not. On version 2, which has no such switch, it leaves every
//! device to every container (see [`Devices`]), and makes other weights of the shares of the processor
//! and of block devices than runc and a later update do.
//!
//! See cgroups(7); the kernel's memory.txt and devices.txt for version 1.

use std::fs;
use std::io;

use libcontainer::oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec,
};

use super::devices::Devices;
use crate::cgroup::directories::GroupDirectories;
use crate::cgroup::v2 as unified;

/// What is to be put right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResourceFixups {
    no_killer: bool,
    no_console: bool,
    rules: Vec<LinuxDeviceCgroup>,
    weights: LinuxResources,
}

impl ResourceFixups {
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
            weights: resources.map(weights).unwrap_or_default(),
        }
    }

    /// Puts it right in a container's groups.
    pub(super) fn apply(&self, groups: &GroupDirectories) -> io::Result<()> {
        if let Some(group) = groups.unified() {
            unified::Group::at(group).update(&self.weights).map_err(io::Error::other)?;
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

/// The weights that were asked for and not given in words of version 2, which come first.
fn weights(asked: &LinuxResources) -> LinuxResources {
    let given = |file: &str| asked.unified().as_ref().is_some_and(|keys| keys.contains_key(file));
    let mut weights = LinuxResources::default();
    // One that idles has no weight.
    if let Some(cpu) = asked.cpu().as_ref().filter(|cpu| cpu.idle().unwrap_or(0) == 0)
        && !given("cpu.weight")
    {
        let mut shares = LinuxCpu::default();
        shares.set_shares(cpu.shares());
        weights.set_cpu(Some(shares));
    }
    if let Some(block_io) = asked.block_io().as_ref()
        && !given("io.weight")
        && !given("io.bfq.weight")
    {
        let mut weight = LinuxBlockIo::default();
        weight.set_weight(block_io.weight());
        weight.set_weight_device(block_io.weight_device().clone());
        weights.set_block_io(Some(weight));
    }
    weights
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

    fn fixups(devices: serde_json::Value) -> ResourceFixups {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"resources": {"devices": devices}}});
        ResourceFixups::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn weights_are_set_unless_they_are_given_in_words_of_version_2() {
        let of = |text: serde_json::Value| weights(&serde_json::from_value(text).unwrap());
        let asked = json!({"cpu": {"shares": 512, "quota": 1}, "blockIO": {"weight": 300}});
        let found = of(asked.clone());
        assert_eq!(found.cpu().as_ref().and_then(LinuxCpu::shares), Some(512));
        assert_eq!(found.cpu().as_ref().and_then(LinuxCpu::quota), None);
        assert_eq!(found.block_io().as_ref().and_then(LinuxBlockIo::weight), Some(300));
        let mut in_both = asked.clone();
        in_both["unified"] = json!({"cpu.weight": "7", "io.weight": "8"});
        assert_eq!(of(in_both), LinuxResources::default());
        assert_eq!(of(json!({"cpu": {"shares": 512, "idle": 1}})).cpu(), &None);
    }

    #[test]
    fn the_console_is_only_for_a_container_that_was_granted_it() {
        let denied = json!({"allow": false, "access": "rwm"});
        assert!(fixups(json!([denied])).no_console);
        let zero = json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"});
        assert!(fixups(json!([denied, zero])).no_console);
        let console = json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"});
        assert!(!fixups(json!([denied, console])).no_console);
        assert!(!fixups(json!([denied, {"allow": true, "access": "rwm"}])).no_console);
    }
}
