//! The limits of a container's new groups of version 1, set before anything runs in them.
//!
//! libcontainer sets them from inside, when the first process is there already, and opens a file
//! for each rule about devices.
//!
//! Promise: the devices that a container may use are those of its spec, and those that every
//! container has; nothing runs before that is so.
//! Not here: version 2. See cgroups(7); the kernel's devices.txt for version 1.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources, Spec};

use super::validate;
use crate::cgroup::v1::Groups;
use crate::error::{EngineError, Limitation, Operation, SystemCall};

/// What every container may use, whatever its spec says: making any device; null, zero, full,
/// random, urandom and tty; terminals of its own; network tunnels. As libcontainer has it.
const FOR_ALL: [&str; 11] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c *:* m",
    "b *:* m",
    "c 136:* rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
];

/// The limits of a spec; a spec without rules for devices denies them all. On version 2 the weights of
/// block devices are left to `resource_fixups`, because libcontainer computes another number, or none.
pub(super) fn wanted(spec: &Spec) -> LinuxResources {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    let mut resources = resources.unwrap_or_default();
    if resources.devices().as_ref().is_none_or(Vec::is_empty) {
        let mut none = LinuxDeviceCgroup::default();
        none.set_allow(false).set_access(Some("rwm".to_owned()));
        resources.set_devices(Some(vec![none]));
    }
    if validate::is_unified()
        && let Some(mut block_io) = resources.block_io().clone()
    {
        block_io.set_weight(None);
        block_io.set_weight_device(None);
        resources.set_block_io(Some(block_io));
    }
    resources
}

/// Sets them all.
pub(super) fn set(groups: &Groups, resources: &LinuxResources) -> Result<(), EngineError> {
    groups.update(resources)?;
    let Some(group) = groups.controller("devices") else {
        return Err(EngineError::Unsupported {
            operation: Operation::Create,
            limit: Limitation::NoDevicesController,
        });
    };
    let (allow, deny) = (Rules::open(group, "devices.allow")?, Rules::open(group, "devices.deny")?);
    for rule in resources.devices().iter().flatten() {
        let rules = if rule.allow() { &allow } else { &deny };
        rules.add(&rule.to_string())?;
    }
    FOR_ALL.iter().try_for_each(|rule| allow.add(rule))
}

/// One of the two files that take a rule with each write.
struct Rules<'a> {
    file: std::fs::File,
    group: &'a Path,
    name: &'static str,
}

impl<'a> Rules<'a> {
    fn open(group: &'a Path, name: &'static str) -> Result<Self, EngineError> {
        let path = group.join(name);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Ok(Self { file, group, name }),
            Err(cause) => Err(EngineError::file("open", path, cause)),
        }
    }

    fn add(&self, rule: &str) -> Result<(), EngineError> {
        let written = (&self.file).write(rule.as_bytes());
        written.map(drop).map_err(|cause: io::Error| {
            let file = self.group.join(self.name);
            EngineError::system(SystemCall::WriteCgroupFile { file, value: rule.to_owned() }, cause)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::cgroup::hierarchy::Hierarchies;

    #[test]
    fn a_container_has_its_own_devices_and_those_of_everybody() {
        let name = PathBuf::from(format!("/shim-test-limits-{}", std::process::id()));
        let (cgroups, groups) = Hierarchies::read().unwrap().make(&name).unwrap();
        let resources = json!({
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ],
            "pids": {"limit": 7},
        });
        let result = set(&groups, &serde_json::from_value(resources).unwrap());
        let read = |controller: &str, file: &str| {
            std::fs::read_to_string(groups.controller(controller).unwrap().join(file)).unwrap()
        };
        let (devices, pids) = (read("devices", "devices.list"), read("pids", "pids.max"));
        cgroups.remove().unwrap();
        result.unwrap();
        let mut listed: Vec<_> = devices.lines().collect();
        let mut expected: Vec<_> = FOR_ALL.into_iter().chain(["c 10:229 rw"]).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        assert_eq!(pids, "7\n");
    }
}
