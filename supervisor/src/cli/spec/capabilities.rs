//! The capabilities of a container's processes.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

/// containerd's default.
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

/// Sets for a process: bounding, effective and permitted are the same; inheritable and ambient are
/// empty (CVE-2022-24769).
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
