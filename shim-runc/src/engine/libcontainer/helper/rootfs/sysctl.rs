//! Sets the kernel parameters of a container's namespaces (sysctl).
//!
//! Promise: a parameter belongs to a namespace that only the container has; otherwise the spec is refused. It
//! is written through a detached procfs that no other process sees, without following links.
//! See the OCI runtime specification, config-linux.md, "Sysctl"; sysctl(8) on the two separators;
//! runc's `validate` and CVE-2025-52881.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::MountAttrFlags;

use super::super::super::wire::{Failure, Reason};
use super::failed;
use super::mounts::NewFileSystem;

/// The parameters of an IPC namespace, beside `fs/mqueue`.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The parameters: files below /proc/sys and their content.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<(PathBuf, String)>);

impl Settings {
    /// Reads them from a spec.
    pub(super) fn of(linux: &Linux) -> Result<Self, Failure> {
        let mut settings = Vec::new();
        for (key, value) in linux.sysctl().iter().flatten() {
            let path = path(key);
            if let Some(why) = refusal(&path, linux)? {
                let message = format!("sysctl {key:?} {why}");
                return Err(Failure::new(Reason::InvalidRequest, message));
            }
            settings.push((path, value.clone()));
        }
        settings.sort();
        Ok(Self(settings))
    }

    /// Sets them.
    pub(super) fn write(&self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let procfs = NewFileSystem { kind: "proc", source: "proc", flags: &[], data: &[] };
        let procfs = procfs
            .mount(MountAttrFlags::empty())
            .map_err(|error| failed("mount a procfs, to write sysctls", &error))?;
        for (path, value) in &self.0 {
            write(&procfs, path, value)
                .map_err(|error| failed(&format!("sysctl {}={value}", path.display()), &error))?;
        }
        Ok(())
    }
}

/// The file of a key. The first separator in the key separates; the other one is part of names.
fn path(key: &str) -> PathBuf {
    let separator = key.find(['.', '/']).map(|at| key.as_bytes()[at]);
    if separator != Some(b'.') {
        return PathBuf::from(key);
    }
    let exchanged = key.chars().map(|letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    PathBuf::from(exchanged.collect::<String>())
}

/// The reason why a parameter is refused, if it is.
fn refusal(path: &Path, linux: &Linux) -> Result<Option<String>, Failure> {
    if path.components().any(|component| !matches!(component, Component::Normal(_))) {
        return Ok(Some("is no name below /proc/sys".to_owned()));
    }
    let namespace =
        |kind| linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind);
    let without = |kind| {
        let has = namespace(kind).is_some();
        (!has).then(|| format!("needs a {kind} namespace of the container's own"))
    };
    let is_ipc = IPC.iter().any(|one| path == Path::new(one)) || path.starts_with("fs/mqueue");
    Ok(if is_ipc {
        without(LinuxNamespaceType::Ipc)
    } else if path.starts_with("net") {
        let network = namespace(LinuxNamespaceType::Network);
        let joined = network.and_then(|one| one.path().as_deref());
        match joined.filter(|path| !path.as_os_str().is_empty()) {
            Some(joined) if is_the_hosts(joined)? => {
                Some("cannot be set in the host's network namespace".to_owned())
            }
            _ => without(LinuxNamespaceType::Network),
        }
    } else if path.starts_with("user") {
        without(LinuxNamespaceType::User)
    } else if path == Path::new("kernel/domainname") {
        without(LinuxNamespaceType::Uts)
    } else if path == Path::new("kernel/hostname") {
        Some("is set by the spec's hostname".to_owned())
    } else {
        Some("belongs to no namespace, and would be the host's".to_owned())
    })
}

fn is_the_hosts(path: &Path) -> Result<bool, Failure> {
    let number = |path: &Path| {
        let found = fs::metadata(path).map(|file| (file.dev(), file.ino()));
        found.map_err(|error| failed(&format!("look at {}", path.display()), &error))
    };
    Ok(number(path)? == number(Path::new("/proc/self/ns/net"))?)
}

fn write(procfs: &OwnedFd, path: &Path, value: &str) -> io::Result<()> {
    let path = Path::new("sys").join(path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(procfs, path, flags, Mode::empty(), resolve)?;
    let written = rustix::io::write(file, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(key: &str, namespaces: &[&str]) -> String {
        let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
        let linux = json!({"sysctl": {key: "1"}, "namespaces": namespaces});
        let linux: Linux = serde_json::from_value(linux).unwrap();
        Settings::of(&linux).err().map(|failure| failure.message).unwrap_or_default()
    }

    #[test]
    fn a_setting_of_no_namespace_of_the_containers_is_refused() {
        assert_eq!(refused("net.ipv4.ip_forward", &["network"]), "");
        assert!(refused("net.ipv4.ip_forward", &["ipc"]).contains("container's own"));
        assert_eq!(refused("fs/mqueue/msg_max", &["ipc"]), "");
        assert!(refused("kernel.sem", &[]).contains("container's own"));
        assert!(refused("kernel.core_pattern", &["ipc", "uts"]).contains("host's"));
        assert!(refused("kernel.hostname", &["uts"]).contains("hostname"));
        assert!(refused("net/../kernel/core_pattern", &["network"]).contains("no name"));
        assert!(refused("/net/core/somaxconn", &["network"]).contains("no name"));
    }

    #[test]
    fn the_first_separator_is_the_one_that_separates() {
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding"),
            path("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(path("net.core.somaxconn"), Path::new("net/core/somaxconn"));
    }
}
