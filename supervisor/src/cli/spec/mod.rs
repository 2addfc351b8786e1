//! The OCI runtime spec of a container: the image's configuration, the command line's options, and
//! containerd's defaults for the rest.
//!
//! Promise: the result depends on the arguments, on the host's cgroup version and on whether the
//! source of a bind mount exists, on nothing else. Not here: reading the image's configuration
//! (`resolve`), its files (`rootfs`).
//! See the OCI runtime specification (config.md, config-linux.md) and image specification
//! (conversion.md).

mod capabilities;
mod mounts;
mod process;
mod seccomp;
mod user;

use std::io;
use std::path::PathBuf;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    Mount, Process, Root, Spec, User,
};

pub(crate) use mounts::{parse_mount, parse_volume};
pub(crate) use process::{Command, Environment, explain, explain_by_words, search_path};
pub(crate) use user::Accounts;

/// A container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Network {
    /// A network namespace with a loopback device only
    None,
    /// The host's network
    Host,
}

/// The input of [`build`].
pub(crate) struct SpecInput<'a> {
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: User,
    pub(crate) terminal: bool,
    pub(crate) read_only: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) network: Network,
    pub(crate) mounts: Vec<Mount>,
}

/// Why a spec cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("mount {text:?}: {why}")]
    BadMount { text: String, why: &'static str },
    #[error("user {text:?} is not of the form USER[:GROUP]")]
    BadUser { text: String },
    #[error("user {name} is not in the image's /etc/passwd")]
    NoSuchUser { name: String },
    #[error("group {name} is not in the image's /etc/group")]
    NoSuchGroup { name: String },
    #[error("read /{path} in the image")]
    ReadAccounts {
        path: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("no command: the image has none, and none was given")]
    NoCommand,
    #[error("working directory {0} is not an absolute path")]
    RelativeDirectory(PathBuf),
    #[error("environment variable {0:?} has no name")]
    BadVariable(String),
}

/// Why a container's own command cannot run, with the runtime's message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandFault {
    #[error("command not found: {command}: {reason}")]
    NotFound { command: String, reason: String },
    #[error("command is not executable: {command}: {reason}")]
    NotExecutable { command: String, reason: String },
}

impl CommandFault {
    /// The status that a shell exits with when it cannot run a command.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
        }
    }
}

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Devices that a container may use: type, major and minor number, access. `None` is any number.
const DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"), // console
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pseudo-terminals
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
];

/// Builds the spec.
pub(crate) fn build(input: SpecInput<'_>) -> Spec {
    let unified = is_unified();
    let host_network = input.network == Network::Host;
    let capabilities = capabilities::default_set();

    let mut process = Process::default();
    process
        .set_terminal(input.terminal.then_some(true))
        .set_user(input.user)
        .set_args(Some(input.args))
        .set_env(Some(input.env))
        .set_cwd(input.cwd)
        .set_capabilities(Some(capabilities::of(&capabilities)))
        .set_rlimits(Some(vec![process::open_files_limit()]))
        .set_no_new_privileges(Some(true))
        .set_apparmor_profile(None)
        .set_selinux_label(None)
        .set_oom_score_adj(None);

    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(input.read_only.then_some(true));

    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices()));

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(unified, host_network)))
        .set_resources(Some(resources))
        // One level: runtimes remove only the container's own cgroup, so a parent for the namespace
        // would stay. No identifier has two dashes in a row, so the name is unique.
        .set_cgroups_path(Some(PathBuf::from(format!("/{}--{}", input.namespace, input.id))))
        .set_masked_paths(Some(MASKED.map(str::to_owned).into()))
        .set_readonly_paths(Some(READ_ONLY.map(str::to_owned).into()))
        .set_seccomp(Some(seccomp::default_profile(&capabilities)));

    let mut spec = Spec::default();
    spec.set_version("1.1.0".to_owned())
        .set_process(Some(process))
        .set_root(Some(root))
        .set_hostname(input.hostname)
        .set_mounts(Some(mounts::all(unified, host_network, &input.mounts)))
        .set_annotations(None)
        .set_linux(Some(linux));
    spec
}

fn namespaces(unified: bool, host_network: bool) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let network = (!host_network).then_some(Network);
    let cgroup = unified.then_some(Cgroup);
    let kinds = [Pid, Ipc, Uts, Mount].into_iter().chain(network).chain(cgroup);
    kinds
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace
        })
        .collect()
}

fn devices() -> Vec<LinuxDeviceCgroup> {
    let rule = |allow, kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(kind)
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let deny_all = rule(false, None, None, None, "rwm");
    let allowed = DEVICES
        .iter()
        .map(|(kind, major, minor, access)| rule(true, Some(*kind), *major, *minor, access));
    std::iter::once(deny_all).chain(allowed).collect()
}

/// Whether the host has cgroup v2 only.
fn is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> SpecInput<'static> {
        SpecInput {
            id: "c1",
            namespace: "ns",
            args: vec!["/bin/true".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            user: User::default(),
            terminal: false,
            read_only: false,
            hostname: Some("c1".into()),
            network: Network::None,
            mounts: Vec::new(),
        }
    }

    #[test]
    fn a_spec_survives_its_own_json() {
        let spec = build(input());
        let json = serde_json::to_vec(&spec).unwrap();
        assert_eq!(serde_json::from_slice::<Spec>(&json).unwrap(), spec);
    }

    #[test]
    fn containers_are_placed_by_namespace_and_id_and_confined() {
        let spec = build(input());
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_ref().unwrap(), &PathBuf::from("/ns--c1"));
        assert!(linux.seccomp().is_some());
        let devices = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        assert!(!devices[0].allow() && devices[1..].iter().all(LinuxDeviceCgroup::allow));
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        assert!(process.capabilities().as_ref().unwrap().ambient().is_none());
    }

    #[test]
    fn the_hosts_network_is_shared_only_when_asked_for() {
        let has_network = |network| {
            let spec = build(SpecInput { network, ..input() });
            let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
            namespaces.iter().any(|found| found.typ() == LinuxNamespaceType::Network)
        };
        assert!(has_network(Network::None) && !has_network(Network::Host));
    }
}
