//! Which capabilities a container's processes have.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

/// What containerd gives by default.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

pub(super) fn default_set() -> HashSet<Capability> {
    DEFAULT.into()
}

/// One set as the process's own; nothing inheritable or ambient (CVE-2022-24769).
pub(super) fn of(set: &HashSet<Capability>) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}
