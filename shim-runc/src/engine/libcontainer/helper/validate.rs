//! Refuses specs that libcontainer would accept by mistake, before a part of the container is made.
//!
//! Promise: a refusal names the field, and nothing was created. Not here: the checks of libcontainer's own
//! validators (`launch`).
//! See the OCI runtime specification, config.md and config-linux.md.

use std::fs;
use std::path::Path;

use libcontainer::oci_spec::runtime::{Hook, Hooks, Linux, LinuxNamespaceType, Process, Spec};

use super::super::wire::{Failure, Reason};
use crate::cgroup::hierarchy::is_safe;

/// The file that shows whether AppArmor is enabled.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// The file that exists if version 2 is the host's only hierarchy.
const CGROUP_V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Whether the host has control groups of version 2 alone.
pub(super) fn is_unified() -> bool {
    Path::new(CGROUP_V2).exists()
}

/// Refuses a container's spec.
pub(super) fn spec(spec: &Spec) -> Result<(), Failure> {
    let Some(linux) = spec.linux() else {
        return invalid("the spec has no linux section");
    };
    namespaces(linux)?;
    if let Some(path) = linux.cgroups_path()
        && !is_safe(path)
    {
        return invalid(format!("cgroupsPath {:?} is not below the root", path.display()));
    }
    let unified = linux.resources().as_ref().and_then(|all| all.unified().as_ref());
    if unified.is_some_and(|keys| !keys.is_empty()) && !is_unified() {
        return invalid("resources.unified on a host with control groups of version 1");
    }
    // With a slash it would be a file of another group.
    if let Some(key) =
        unified.into_iter().flat_map(|keys| keys.keys()).find(|key| key.contains('/'))
    {
        return invalid(format!("unified resource {key:?} is not the name of a control file"));
    }
    if let Some(label) = linux.mount_label().as_ref().filter(|label| !label.is_empty()) {
        return selinux(label);
    }
    if let Some(all) = spec.hooks() {
        hooks(all)?;
    }
    spec.process().as_ref().map_or(Ok(()), process)
}

/// Refuses a process with a terminal and no console socket, or with a console socket and no terminal.
pub(super) fn terminal(process: &Process, has_socket: bool) -> Result<(), Failure> {
    match (process.terminal() == Some(true), has_socket) {
        (true, false) => invalid("a terminal is wanted, and no console socket was given"),
        (false, true) => invalid("a console socket was given, and no terminal is wanted"),
        _ => Ok(()),
    }
}

/// Refuses a process: a container's first process, or an exec.
pub(super) fn process(process: &Process) -> Result<(), Failure> {
    let user = process.user();
    let ids = [user.uid(), user.gid()];
    // For the kernel this id means "unchanged", which is root.
    if ids.iter().chain(user.additional_gids().iter().flatten()).any(|id| *id == u32::MAX) {
        return invalid(format!("user or group id {} is none", u32::MAX));
    }
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return invalid(format!("cwd {:?} is not an absolute path", cwd.display()));
    }
    let words = process.args().iter().flatten().chain(process.env().iter().flatten());
    if words.into_iter().any(|word| word.contains('\0')) {
        return invalid("a NUL byte in args or env");
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        return selinux(label);
    }
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|name| !name.is_empty())
        && !fs::read(APPARMOR).is_ok_and(|state| state.starts_with(b"Y"))
    {
        return unsupported(format!("AppArmor profile {profile:?}: this kernel has no AppArmor"));
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Result<(), Failure> {
    let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|one| one.typ()).collect();
    if let Some((_, twice)) =
        kinds.iter().enumerate().find(|(index, kind)| kinds[..*index].contains(kind))
    {
        return invalid(format!("the namespace {twice} is listed twice"));
    }
    if !kinds.contains(&LinuxNamespaceType::Mount) {
        // libcontainer would change the host's own mounts.
        return unsupported("a container without a mount namespace of its own");
    }
    let ranges = [linux.uid_mappings(), linux.gid_mappings()];
    if ranges.iter().any(|list| list.as_ref().is_some_and(|list| list.len() > 1)) {
        // libcontainer leaves several ranges to newuidmap(1) and does not check its result.
        return unsupported("user or group mappings of more than one range");
    }
    Ok(())
}

fn hooks(hooks: &Hooks) -> Result<(), Failure> {
    #[allow(deprecated)] // still in use
    let prestart = hooks.prestart();
    let stages: [&Option<Vec<Hook>>; 6] = [
        prestart,
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    match stages.into_iter().flatten().flatten().find(|hook| !hook.path().is_absolute()) {
        Some(hook) => invalid(format!("hook {:?} is not an absolute path", hook.path().display())),
        None => Ok(()),
    }
}

fn selinux(label: &str) -> Result<(), Failure> {
    // It would be ignored, and the container less confined than the client wants.
    unsupported(format!("SELinux label {label:?}: this engine knows no SELinux"))
}

fn invalid(message: impl Into<String>) -> Result<(), Failure> {
    Err(Failure::new(Reason::InvalidRequest, message.into()))
}

fn unsupported(message: impl Into<String>) -> Result<(), Failure> {
    Err(Failure::new(Reason::Unsupported, message.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut text = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        });
        change(&mut text);
        let parsed: Spec = serde_json::from_value(text).unwrap();
        spec(&parsed).err().map(|failure| failure.message).unwrap_or_default()
    }

    #[test]
    fn a_plain_spec_is_not_refused() {
        assert_eq!(refused(|_| ()), "");
    }

    #[test]
    fn an_id_that_would_leave_root_as_it_is_is_refused() {
        let text = refused(|spec| spec["process"]["user"]["uid"] = json!(u32::MAX));
        assert!(text.contains("4294967295"), "{text}");
    }

    #[test]
    fn a_container_among_the_hosts_mounts_is_refused() {
        let text = refused(|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}]));
        assert!(text.contains("mount namespace"), "{text}");
    }

    #[test]
    fn a_namespace_listed_twice_is_refused() {
        let twice = json!([{"type": "mount"}, {"type": "ipc"}, {"type": "ipc"}]);
        let text = refused(|spec| spec["linux"]["namespaces"] = twice);
        assert_eq!(text, "the namespace ipc is listed twice");
    }

    #[test]
    fn a_relative_directory_and_a_relative_hook_are_refused() {
        assert!(refused(|spec| spec["process"]["cwd"] = json!("tmp")).contains("cwd \"tmp\""));
        let hooks = json!({"poststop": [{"path": "bin/true"}]});
        assert!(refused(|spec| spec["hooks"] = hooks).contains("hook \"bin/true\""));
    }
}
