//! The namespaces of a new container: which are made, which are joined, and in which order.
//!
//! Namespaces of other containers are joined as the host's root; new ones belong to the container's user
//! namespace. A pid or time namespace takes effect for the next clone. So an intermediate process clones
//! init if init has a user or time namespace, or joins a pid namespace.
//!
//! Promise: an existing pid namespace is entered last, by a process that holds nothing of the host's. The
//! processes in it see that process from then on.
//! See namespaces(7), setns(2), unshare(2), user_namespaces(7), time_namespaces(7).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::wire::Failure;
use super::exec_process::become_root;
use super::failure::failed;
use super::init_channel::{InitChannel, Message};

/// The flag of a time namespace, which nix does not have.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// One namespace.
#[derive(Debug, Default)]
pub(super) enum Namespace {
    /// The shim's own.
    #[default]
    Shared,
    New,
    Joined(OwnedFd),
}

/// The namespaces of a container.
#[derive(Debug)]
pub(super) struct Namespaces {
    user: Namespace,
    time: Namespace,
    /// The clock offsets of a new time namespace.
    offsets: String,
    pid: Namespace,
    mount: Namespace,
    /// The new namespaces of all other kinds.
    new: CloneFlags,
    joined: Vec<(LinkNameSpaceType, OwnedFd)>,
}

impl Namespace {
    fn of(listed: &LinuxNamespace) -> Result<Self, Failure> {
        match listed.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            None => Ok(Self::New),
            Some(path) => File::open(path).map(|file| Self::Joined(file.into())).map_err(|error| {
                failed(&format!("open the {} namespace {}", listed.typ(), path.display()), &error)
            }),
        }
    }
}

impl Namespaces {
    /// Reads the list of a spec, and opens the namespaces that are joined.
    pub(super) fn of(spec: &Spec) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
        let offsets = offsets.into_iter().flatten().map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
            format!("{clock} {} {}\n", seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
        });
        let mut namespaces = Self {
            user: Namespace::Shared,
            time: Namespace::Shared,
            offsets: offsets.collect(),
            pid: Namespace::Shared,
            mount: Namespace::Shared,
            new: CloneFlags::empty(),
            joined: Vec::new(),
        };
        let listed = linux.and_then(|linux| linux.namespaces().as_ref());
        for one in listed.into_iter().flatten() {
            let namespace = Namespace::of(one)?;
            let (kind, flag) = match one.typ() {
                LinuxNamespaceType::User => {
                    namespaces.user = namespace;
                    continue;
                }
                LinuxNamespaceType::Time => {
                    namespaces.time = namespace;
                    continue;
                }
                LinuxNamespaceType::Pid => {
                    namespaces.pid = namespace;
                    continue;
                }
                LinuxNamespaceType::Mount => {
                    namespaces.mount = namespace;
                    continue;
                }
                LinuxNamespaceType::Uts => {
                    (LinkNameSpaceType::HostNameAndNISDomainName, CloneFlags::CLONE_NEWUTS)
                }
                LinuxNamespaceType::Ipc => {
                    (LinkNameSpaceType::InterProcessCommunication, CloneFlags::CLONE_NEWIPC)
                }
                LinuxNamespaceType::Network => {
                    (LinkNameSpaceType::Network, CloneFlags::CLONE_NEWNET)
                }
                LinuxNamespaceType::Cgroup => {
                    (LinkNameSpaceType::ControlGroup, CloneFlags::CLONE_NEWCGROUP)
                }
            };
            match namespace {
                Namespace::Joined(namespace) => namespaces.joined.push((kind, namespace)),
                Namespace::New | Namespace::Shared => namespaces.new |= flag,
            }
        }
        Ok(namespaces)
    }

    /// Whether init is cloned by an intermediate process.
    pub(super) fn need_intermediate(&self) -> bool {
        !matches!((&self.user, &self.time), (Namespace::Shared, Namespace::Shared))
            || self.join_pid_namespace()
    }

    /// Whether there are processes already in init's pid namespace.
    pub(super) fn join_pid_namespace(&self) -> bool {
        matches!(self.pid, Namespace::Joined(_))
    }

    /// The pid namespace that is joined.
    pub(super) fn pid_namespace(&self) -> Option<BorrowedFd<'_>> {
        match &self.pid {
            Namespace::Joined(namespace) => Some(namespace.as_fd()),
            Namespace::New | Namespace::Shared => None,
        }
    }

    /// Whether init is the first process of its pid namespace.
    pub(super) fn make_pid_namespace(&self) -> bool {
        matches!(self.pid, Namespace::New)
    }

    pub(super) fn make_network(&self) -> bool {
        self.new.contains(CloneFlags::CLONE_NEWNET)
    }

    pub(super) fn make_host_name(&self) -> bool {
        self.new.contains(CloneFlags::CLONE_NEWUTS)
    }

    /// Enters the namespaces that must be entered before init is cloned. Called by the intermediate process.
    pub(super) fn enter_first(&self, channel: &InitChannel) -> Result<(), Failure> {
        // Opened first: only the host's root may open it.
        let offsets = match self.time {
            Namespace::New if !self.offsets.is_empty() => {
                let path = "/proc/self/timens_offsets";
                let file = OpenOptions::new().write(true).open(path);
                Some(file.map_err(|error| failed(&format!("open {path}"), &error))?)
            }
            _ => None,
        };
        self.join_others()?;
        match &self.user {
            Namespace::Shared => {}
            Namespace::New => {
                make(CloneFlags::CLONE_NEWUSER, "user")?;
                channel.request(&Message::Mapping)?;
                become_root()?;
            }
            Namespace::Joined(namespace) => {
                join(namespace, LinkNameSpaceType::User, "user")?;
                become_root()?;
            }
        }
        match &self.time {
            Namespace::Shared => {}
            Namespace::New => make(NEW_TIME, "time")?,
            Namespace::Joined(namespace) => join(namespace, LinkNameSpaceType::Time, "time")?,
        }
        if let Some(mut file) = offsets {
            file.write_all(self.offsets.as_bytes())
                .map_err(|error| failed("set the offsets of the time namespace", &error))?;
        }
        match &self.pid {
            Namespace::Joined(namespace) => join(namespace, LinkNameSpaceType::ProcessID, "pid"),
            Namespace::New | Namespace::Shared => Ok(()),
        }
    }

    /// Enters the other namespaces. Called in the user namespace, by init or by the intermediate process.
    pub(super) fn enter_rest(&self) -> Result<(), Failure> {
        if !self.need_intermediate() {
            self.join_others()?;
        }
        let mount = match self.mount {
            Namespace::New => CloneFlags::CLONE_NEWNS,
            Namespace::Joined(_) | Namespace::Shared => CloneFlags::empty(),
        };
        make(self.new | mount, "container's")?;
        match &self.mount {
            Namespace::Joined(namespace) => join(namespace, LinkNameSpaceType::Mount, "mount"),
            Namespace::New | Namespace::Shared => Ok(()),
        }
    }

    /// Calls `run` while new processes are made in the shim's pid namespace.
    pub(super) fn outside<T>(
        &self,
        run: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Namespace::Joined(inside) = &self.pid else { return run() };
        let kind = LinkNameSpaceType::ProcessID;
        let own = Path::new("/proc/self/ns/pid");
        let own = File::open(own).map_err(|error| failed("open the own pid namespace", &error))?;
        join(&own, kind, "own pid")?;
        let result = run()?;
        join(inside, kind, "pid")?;
        Ok(result)
    }

    fn join_others(&self) -> Result<(), Failure> {
        self.joined.iter().try_for_each(|(kind, namespace)| {
            let name = match kind {
                LinkNameSpaceType::Network => "network",
                LinkNameSpaceType::ControlGroup => "cgroup",
                LinkNameSpaceType::InterProcessCommunication => "ipc",
                _ => "uts",
            };
            join(namespace, *kind, name)
        })
    }
}

fn make(flags: CloneFlags, name: &str) -> Result<(), Failure> {
    if flags.is_empty() {
        return Ok(());
    }
    unshare(flags).map_err(|error| failed(&format!("make the {name} namespace"), &error))
}

fn join(namespace: impl AsFd, kind: LinkNameSpaceType, name: &str) -> Result<(), Failure> {
    move_into_link_name_space(namespace.as_fd(), Some(kind))
        .map_err(|error| failed(&format!("join the {name} namespace"), &error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespaces(listed: serde_json::Value) -> Result<Namespaces, Failure> {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"namespaces": listed}});
        Namespaces::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn an_intermediate_is_for_what_only_a_clone_can_be_given() {
        let plain = namespaces(json!([{"type": "pid"}, {"type": "mount"}, {"type": "network"}]));
        let plain = plain.unwrap();
        assert!(!plain.need_intermediate() && plain.make_pid_namespace() && plain.make_network());
        let own = "/proc/self/ns/pid";
        for other in
            [json!({"type": "user"}), json!({"type": "time"}), json!({"type": "pid", "path": own})]
        {
            assert!(namespaces(json!([other])).unwrap().need_intermediate(), "{other}");
        }
        let refused = namespaces(json!([{"type": "ipc", "path": "/nonexistent"}])).unwrap_err();
        assert!(refused.message.contains("/nonexistent"), "{}", refused.message);
    }
}
