//! The namespaces of a new container: which are made, which are joined, and when.
//!
//! Those that another container made are joined as the host's root; those that are made belong to
//! the container's user namespace. A pid namespace is for what is cloned next, and so is a time
//! namespace: an init that wants a user or a time namespace, or joins a pid namespace, is cloned by
//! an intermediate process.
//!
//! Promise: an existing pid namespace is entered last of all, by a process that has nothing of the
//! host's left: its processes see it from then on.
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
use super::init_channel::{Word, Words};

/// A time namespace, which nix does not name.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// One namespace.
#[derive(Debug, Default)]
pub(super) enum Space {
    /// The shim's own.
    #[default]
    Shared,
    New,
    Joined(OwnedFd),
}

/// The namespaces of a container.
#[derive(Debug)]
pub(super) struct Spaces {
    user: Space,
    time: Space,
    /// The clock offsets of a new time namespace.
    offsets: String,
    pid: Space,
    mount: Space,
    /// Of every other kind, those that are made.
    new: CloneFlags,
    joined: Vec<(LinkNameSpaceType, OwnedFd)>,
}

impl Space {
    fn of(listed: &LinuxNamespace) -> Result<Self, Failure> {
        match listed.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            None => Ok(Self::New),
            Some(path) => File::open(path).map(|file| Self::Joined(file.into())).map_err(|error| {
                failed(&format!("open the {} namespace {}", listed.typ(), path.display()), &error)
            }),
        }
    }
}

impl Spaces {
    /// Reads them out of a spec, and opens those that are to be joined.
    pub(super) fn of(spec: &Spec) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
        let offsets = offsets.into_iter().flatten().map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
            format!("{clock} {} {}\n", seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
        });
        let mut spaces = Self {
            user: Space::Shared,
            time: Space::Shared,
            offsets: offsets.collect(),
            pid: Space::Shared,
            mount: Space::Shared,
            new: CloneFlags::empty(),
            joined: Vec::new(),
        };
        let listed = linux.and_then(|linux| linux.namespaces().as_ref());
        for one in listed.into_iter().flatten() {
            let space = Space::of(one)?;
            let (kind, flag) = match one.typ() {
                LinuxNamespaceType::User => {
                    spaces.user = space;
                    continue;
                }
                LinuxNamespaceType::Time => {
                    spaces.time = space;
                    continue;
                }
                LinuxNamespaceType::Pid => {
                    spaces.pid = space;
                    continue;
                }
                LinuxNamespaceType::Mount => {
                    spaces.mount = space;
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
            match space {
                Space::Joined(namespace) => spaces.joined.push((kind, namespace)),
                Space::New | Space::Shared => spaces.new |= flag,
            }
        }
        Ok(spaces)
    }

    /// Whether init is cloned by an intermediate process.
    pub(super) fn need_intermediate(&self) -> bool {
        !matches!((&self.user, &self.time), (Space::Shared, Space::Shared))
            || self.join_pid_namespace()
    }

    /// Whether there are processes already in init's pid namespace.
    pub(super) fn join_pid_namespace(&self) -> bool {
        matches!(self.pid, Space::Joined(_))
    }

    /// The pid namespace that is joined.
    pub(super) fn pid_namespace(&self) -> Option<BorrowedFd<'_>> {
        match &self.pid {
            Space::Joined(namespace) => Some(namespace.as_fd()),
            Space::New | Space::Shared => None,
        }
    }

    /// Whether init is the first process of its pid namespace.
    pub(super) fn make_pid_namespace(&self) -> bool {
        matches!(self.pid, Space::New)
    }

    pub(super) fn make_network(&self) -> bool {
        self.new.contains(CloneFlags::CLONE_NEWNET)
    }

    pub(super) fn make_host_name(&self) -> bool {
        self.new.contains(CloneFlags::CLONE_NEWUTS)
    }

    /// Enters what has to be entered before init is cloned. Called by the intermediate process.
    pub(super) fn enter_first(&self, words: &Words) -> Result<(), Failure> {
        // Opened while that is allowed: it belongs to the host's root.
        let offsets = match self.time {
            Space::New if !self.offsets.is_empty() => {
                let path = "/proc/self/timens_offsets";
                let file = OpenOptions::new().write(true).open(path);
                Some(file.map_err(|error| failed(&format!("open {path}"), &error))?)
            }
            _ => None,
        };
        self.join_others()?;
        match &self.user {
            Space::Shared => {}
            Space::New => {
                make(CloneFlags::CLONE_NEWUSER, "user")?;
                words.ask(&Word::Mapping)?;
                become_root()?;
            }
            Space::Joined(namespace) => {
                join(namespace, LinkNameSpaceType::User, "user")?;
                become_root()?;
            }
        }
        match &self.time {
            Space::Shared => {}
            Space::New => make(NEW_TIME, "time")?,
            Space::Joined(namespace) => join(namespace, LinkNameSpaceType::Time, "time")?,
        }
        if let Some(mut file) = offsets {
            file.write_all(self.offsets.as_bytes())
                .map_err(|error| failed("set the offsets of the time namespace", &error))?;
        }
        match &self.pid {
            Space::Joined(namespace) => join(namespace, LinkNameSpaceType::ProcessID, "pid"),
            Space::New | Space::Shared => Ok(()),
        }
    }

    /// Enters the others. Called once init, or who does that in its place, is in its user namespace.
    pub(super) fn enter_rest(&self) -> Result<(), Failure> {
        if !self.need_intermediate() {
            self.join_others()?;
        }
        let mount = match self.mount {
            Space::New => CloneFlags::CLONE_NEWNS,
            Space::Joined(_) | Space::Shared => CloneFlags::empty(),
        };
        make(self.new | mount, "container's")?;
        match &self.mount {
            Space::Joined(namespace) => join(namespace, LinkNameSpaceType::Mount, "mount"),
            Space::New | Space::Shared => Ok(()),
        }
    }

    /// Runs something whose processes are to be in the shim's own pid namespace, whichever is joined.
    pub(super) fn outside<T>(
        &self,
        run: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Space::Joined(inside) = &self.pid else { return run() };
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

    fn spaces(listed: serde_json::Value) -> Result<Spaces, Failure> {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"namespaces": listed}});
        Spaces::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn an_intermediate_is_for_what_only_a_clone_can_be_given() {
        let plain = spaces(json!([{"type": "pid"}, {"type": "mount"}, {"type": "network"}]));
        let plain = plain.unwrap();
        assert!(!plain.need_intermediate() && plain.make_pid_namespace() && plain.make_network());
        let own = "/proc/self/ns/pid";
        for other in
            [json!({"type": "user"}), json!({"type": "time"}), json!({"type": "pid", "path": own})]
        {
            assert!(spaces(json!([other])).unwrap().need_intermediate(), "{other}");
        }
        let refused = spaces(json!([{"type": "ipc", "path": "/nonexistent"}])).unwrap_err();
        assert!(refused.message.contains("/nonexistent"), "{}", refused.message);
    }
}
