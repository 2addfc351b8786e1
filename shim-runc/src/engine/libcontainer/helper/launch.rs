//! A new container, from the helper's side: its record, its control groups, its first process.
//!
//! ```text
//!   helper ──clone, with the new pid namespace──> init
//!   makes the groups, sets limits                 namespaces, root file system
//!   opens their doors ──────────────────────────> joins, becomes the user, waits for its start
//! ```
//!
//! *Doors* are the open `tasks` files of groups of version 1 (`cgroup_barrier`). These groups are made while init
//! makes its mounts, and init joins them last of all, unless something before would be another in its
//! groups ([`joins_first`]). Into a group of version 2, init is cloned. An init that wants more of its
//! parent than a clone can give ([`Spaces`]) has an intermediate process between the helper and itself.
//!
//! Promise: after a failure nothing runs. Not here: init's own part ([`Init`]).
//! See clone(2), cgroups(7), the OCI runtime specification on the lifecycle and on hooks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::{ErrInvalidSpec, LibcontainerError, MissingSpecError};
use libcontainer::hooks::run_hooks;
use libcontainer::network::network_device::dev_change_net_namespace;
use libcontainer::oci_spec::runtime::{
    LinuxIdMapping, LinuxNamespaceType, LinuxResources, Mount, Spec,
};
use libcontainer::process::container_main_process::ProcessError;
use libcontainer::process::intel_rdt::setup_intel_rdt;
use libcontainer::user_ns::UserNamespaceConfig;
use libcontainer::validator::Validator;
use rustix::process::{Signal, pidfd_send_signal};
use shim_sdk::error::report;

use super::super::wire::{Failure, Reason};
use super::cgroup::{Cgroups, Hierarchies};
use super::cgroup_barrier::{self, Keeper};
use super::exec_process::NAME;
use super::failure::{failed, failure};
use super::identity::Identity;
use super::init_channel::{self, Word, Words};
use super::init_process::Init;
use super::keyring::Keyring;
use super::namespaces::Spaces;
use super::resource_fixups::Corrections;
use super::rootfs::RootFs;
use super::streams::StandardStreams;
use super::{limits, seccomp_listener, terminal, validate};
use crate::cgroup::v2 as unified;
use crate::sys;

/// What is to be made.
pub(super) struct Launch<'a> {
    pub(super) root: &'a Path,
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) group: &'a Path,
    pub(super) options: Options,
    pub(super) streams: StandardStreams,
    pub(super) identity: Identity,
    pub(super) report: std::rc::Rc<OwnedFd>,
    pub(super) groups: NewGroups<'a>,
    /// The mark of the container's making.
    pub(super) making: BorrowedFd<'a>,
}

/// How a container is made, beside its spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) no_pivot_root: bool,
    pub(super) no_new_keyring: bool,
}

/// The control groups that are made for it.
pub(super) struct NewGroups<'a> {
    pub(super) corrections: &'a Corrections,
    pub(super) hierarchies: &'a Hierarchies,
}

/// Whether init is to be in its groups before anything else: hooks look for them, a namespace of
/// control groups begins at them and mounts show them, the scheduler and the memory policy ask what
/// they allow, and what is copied into a mount counts there.
fn joins_first(spec: &Spec) -> bool {
    let (Some(linux), Some(process)) = (spec.linux(), spec.process()) else { return true };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let shows_groups = |mount: &Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        mount.typ().as_deref().is_some_and(|kind| kind.starts_with("cgroup"))
            || options.iter().any(|option| option == "tmpcopyup")
    };
    spec.hooks().is_some()
        || namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Cgroup)
        || spec.mounts().iter().flatten().any(shows_groups)
        || process.scheduler().is_some()
        || process.io_priority().is_some()
        || linux.memory_policy().is_some()
}

/// What of the spec is for libcontainer's validators to refuse.
fn validate(spec: &Spec) -> Result<(), LibcontainerError> {
    if !spec.version().starts_with("1.") {
        return Err(ErrInvalidSpec::UnsupportedVersion.into());
    }
    Validator::validate_spec(spec)?;
    UserNamespaceConfig::new(spec)?;
    Ok(())
}

impl Launch<'_> {
    /// Makes the container; returns its init, which waits for its start.
    pub(super) fn run(self) -> Result<i32, Failure> {
        let lib = |error: LibcontainerError| failure(Reason::Library, &error);
        let other = |error: std::io::Error| failure(Reason::System, &error);
        let Self { root, id, bundle, spec, group, options, streams, identity, report, .. } = self;
        let (groups, making) = (self.groups, self.making);
        validate(spec).map_err(lib)?;
        let process = spec.process().as_ref().ok_or(MissingSpecError::Process);
        let process = process.map_err(|error| lib(error.into()))?;
        validate::terminal(process, streams.console.is_some())?;
        let rootfs = RootFs::of(spec, bundle, options.no_pivot_root, group)?;
        let spaces = Spaces::of(spec)?;
        let directory = root.join(id);
        fs::create_dir(&directory).map_err(other)?;
        let mut config = YoukiConfig::from_spec(spec, id).map_err(|error| lib(error.into()))?;
        config.cgroup_path = group.to_owned();
        let mut container =
            Container::new(id, ContainerStatus::Creating, None, bundle, &directory).map_err(lib)?;
        container.set_annotations(spec.annotations().clone());
        container.state.bundle = bundle.to_owned();
        let keyring = if options.no_new_keyring { None } else { Some(Keyring::new(id)) };
        let keyring = keyring.transpose().map_err(other)?;
        if let Some(keyring) = &keyring {
            keyring.keep(&directory).map_err(other)?;
        }
        let console = streams.console.as_deref().map(terminal::connect).transpose()?;
        let listener = super::super::notify_socket::listen(&directory).map_err(other)?;
        // Before anything that would have to be found by it.
        let remember = || config.save(&directory).map_err(|error| lib(error.into()));
        let resources = limits::wanted(spec);
        let (keeper, gate) = cgroup_barrier::make().map_err(other)?;
        let mut init = Init {
            spec,
            process,
            spaces,
            rootfs,
            identity,
            keyring,
            gate: None,
            joins_first: joins_first(spec),
            streams: [streams.stdin, streams.stdout, streams.stderr],
            console,
            listener,
            state: container.state.clone(),
            report,
            making,
        };
        if validate::is_unified() {
            remember()?;
            let group = groups.make_unified(group, id, &resources)?;
            let group = File::open(group.path()).map_err(other)?;
            return clone(init, Some(&group), &mut container, || Ok(()));
        }
        init.gate = Some(gate);
        let make = move || {
            remember()?;
            open_doors(keeper, &groups.make(group, &resources).map_err(lib)?)
        };
        clone(init, None, &mut container, make)
    }
}

fn open_doors(keeper: Keeper, groups: &Cgroups) -> Result<(), Failure> {
    keeper.open(groups).map_err(|error| failure(Reason::Cgroup, &error))
}

impl NewGroups<'_> {
    /// Makes them, with their limits.
    fn make(&self, path: &Path, resources: &LinuxResources) -> Result<Cgroups, LibcontainerError> {
        let (groups, limited) = self.hierarchies.make(path).map_err(LibcontainerError::OtherIO)?;
        limits::set(&limited, resources)
            .map_err(|error| LibcontainerError::OtherCgroup(report(&error)))?;
        self.corrections.apply(&groups).map_err(LibcontainerError::OtherIO)?;
        Ok(groups)
    }

    /// The same on a host of version 2.
    fn make_unified(
        &self,
        path: &Path,
        id: &str,
        resources: &LinuxResources,
    ) -> Result<unified::Group, Failure> {
        let group = unified::Group::of_host(path);
        let made = group.make();
        made.map_err(|error| Failure::new(Reason::Cgroup, report(&error)))?;
        let config = CgroupConfig {
            cgroup_path: path.to_owned(),
            systemd_cgroup: false,
            container_name: id.to_owned(),
        };
        let limits = ControllerOpt {
            resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        let manager = create_cgroup_manager(config);
        let manager = manager.map_err(|error| failure(Reason::Cgroup, &error))?;
        manager.apply(&limits).map_err(|error| failure(Reason::Cgroup, &error))?;
        self.corrections
            .apply(&self.hierarchies.find(path))
            .map_err(|error| failure(Reason::Cgroup, &error))?;
        Ok(group)
    }
}

/// Clones init, has its groups made, and sees to it until it waits for its start.
fn clone(
    init: Init<'_>,
    group: Option<&File>,
    container: &mut Container,
    make_groups: impl FnOnce() -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let (here, there) = init_channel::pair().map_err(|error| failure(Reason::System, &error))?;
    let in_new_pid_namespace = !init.spaces.need_intermediate() && init.spaces.make_pid_namespace();
    // Inherited, so that the clone is known for what it is from the first.
    let _ = rustix::thread::set_name(NAME);
    let cloned = sys::clone::clone_sibling(in_new_pid_namespace, group.map(AsFd::as_fd));
    if !matches!(cloned, Ok(None)) {
        let _ = rustix::thread::set_name(super::NAME);
    }
    let (pid, pidfd) = match cloned {
        Ok(Some(cloned)) => cloned,
        Ok(None) => {
            // The other ends of what it waits on must be the helper's alone.
            drop((here, make_groups));
            init.run(&there)
        }
        Err(error) => {
            return Err(failed("clone init", &error));
        }
    };
    drop(there);
    let mut helper = Helper {
        words: here,
        spec: init.spec,
        container,
        who: Speakers { first: pid, init: None, is_seen: init.spaces.join_pid_namespace() },
    };
    if !init.spaces.need_intermediate() {
        helper.who.init = Some(pid);
    }
    let result = make_groups().and_then(|()| helper.attend());
    if result.is_err() {
        // The clone may be waiting for an answer of ours. An init that an intermediate process has
        // cloned ends when our end of the socket closes.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    result
}

/// The helper, while it sees to an init.
struct Helper<'a> {
    words: Words,
    spec: &'a Spec,
    container: &'a mut Container,
    who: Speakers,
}

/// The processes that say words to the helper.
struct Speakers {
    /// The one that it has cloned itself.
    first: i32,
    /// The one that stays, once it is known.
    init: Option<i32>,
    /// Whether others see it from its first moment.
    is_seen: bool,
}

impl Speakers {
    /// Whether a word is its sender's to say. An init that others see may be made to say anything, by a
    /// process with CAP_SYS_PTRACE: that another process is the init, whose number callers then have.
    fn may_say(&self, sender: Option<i32>, word: &Word) -> bool {
        let is_first = sender == Some(self.first);
        let is_init = sender.is_some() && sender == self.init;
        match word {
            Word::Cloned { .. } => is_first && self.init.is_none(),
            Word::Mapping => is_first,
            Word::Hooks | Word::Devices if self.is_seen => is_first,
            _ => is_init,
        }
    }
}

impl Helper<'_> {
    /// Does what init asks for until it waits for its start; returns its pid.
    fn attend(mut self) -> Result<i32, Failure> {
        let other = |error: std::io::Error| failure(Reason::System, &error);
        if self.spec.hooks().is_none() {
            self.record()?;
        }
        loop {
            let heard = self.words.hear_from().map_err(other)?;
            if let Some((word, _, sender)) = &heard
                && !self.who.may_say(*sender, word)
            {
                let text = format!("process {sender:?} said {word:?}, which is not its to say");
                return Err(Failure::new(Reason::UnexpectedMessage, text));
            }
            match heard.map(|(word, beside, _)| (word, beside)) {
                Some((Word::Cloned { pid }, _)) => {
                    self.who.init = Some(pid);
                    self.record()?;
                }
                Some((Word::Mapping, _)) => {
                    self.map_ids()?;
                    self.words.say(&Word::Done).map_err(other)?;
                }
                Some((Word::Hooks, _)) => {
                    self.run_hooks()?;
                    self.record()?;
                    self.words.say(&Word::Done).map_err(other)?;
                }
                Some((Word::Devices, _)) => {
                    let moved = self.move_devices()?;
                    self.words.say(&moved).map_err(other)?;
                }
                Some((Word::Listener, mut beside)) => {
                    let fd = beside.pop().ok_or_else(|| super::missing("the listener"))?;
                    seccomp_listener::inform(self.spec, &self.container.state, self.pid(), fd)?;
                    self.words.say(&Word::Done).map_err(other)?;
                }
                Some((Word::Ready, _)) => break,
                Some((
                    word @ (Word::Moved(_) | Word::Opened | Word::NotOpened(_) | Word::Done),
                    _,
                )) => {
                    return Err(Failure::new(
                        Reason::UnexpectedMessage,
                        format!("init said {word:?}"),
                    ));
                }
                // It has told its report why, unless it was killed.
                None => {
                    return Err(Failure::new(Reason::ProcessEnded, "init ended while it was made"));
                }
            }
        }
        self.limit_caches()?;
        self.who
            .init
            .ok_or_else(|| Failure::new(Reason::UnexpectedMessage, "the container has no init"))
    }

    fn pid(&self) -> i32 {
        self.who.init.unwrap_or(self.who.first)
    }

    /// Writes the record of a created container, once its init is known.
    fn record(&mut self) -> Result<(), Failure> {
        let Some(init) = self.who.init else { return Ok(()) };
        self.container
            .set_pid(init)
            .set_status(ContainerStatus::Created)
            .set_creator(rustix::process::geteuid().as_raw())
            .save()
            .map_err(|error| failure(Reason::Library, &error))
    }

    fn map_ids(&self) -> Result<(), Failure> {
        let linux = self.spec.linux().as_ref();
        let config = UserNamespaceConfig::new(self.spec);
        let config = config.map_err(|error| failure(Reason::Library, &error))?;
        let write = |name: &str, text: &str| {
            let path = format!("/proc/{}/{name}", self.who.first);
            fs::write(&path, text)
                .map_err(|error| failed(&format!("write {text:?} to {path}"), &error))
        };
        let lines = |list: Option<&Vec<LinuxIdMapping>>| -> String {
            let line = |one: &LinuxIdMapping| {
                format!("{} {} {}\n", one.container_id(), one.host_id(), one.size())
            };
            list.into_iter().flatten().map(line).collect()
        };
        if config.is_some_and(|config| !config.privileged) {
            write("setgroups", "deny")?;
        }
        write("uid_map", &lines(linux.and_then(|linux| linux.uid_mappings().as_ref())))?;
        write("gid_map", &lines(linux.and_then(|linux| linux.gid_mappings().as_ref())))
    }

    /// Runs those that see the host's root file system and init's pid.
    fn run_hooks(&mut self) -> Result<(), Failure> {
        let Some(hooks) = self.spec.hooks() else { return Ok(()) };
        self.container.set_pid(self.pid());
        let (state, pid) = (Some(&self.container.state), self.container.pid());
        #[allow(deprecated)] // still in use, and still to be run
        let prestart = hooks.prestart().as_ref();
        for stage in [prestart, hooks.create_runtime().as_ref()] {
            run_hooks(stage, state, None, pid, None)
                .map_err(ProcessError::from)
                .map_err(|error| failure(Reason::Hook, &error))?;
        }
        Ok(())
    }

    fn move_devices(&self) -> Result<Word, Failure> {
        let devices = self.spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
        let path = format!("/proc/{}/ns/net", self.pid());
        let namespace =
            File::open(&path).map_err(|error| failed(&format!("open {path}"), &error))?;
        let mut moved = HashMap::new();
        for (name, device) in devices.into_iter().flatten() {
            let addresses = dev_change_net_namespace(name, namespace.as_raw_fd(), device)
                .map_err(|error| failure(Reason::Library, &error))?;
            moved.insert(name.clone(), addresses);
        }
        Ok(Word::Moved(moved))
    }

    /// Intel's limits of caches and of memory bandwidth.
    fn limit_caches(&mut self) -> Result<(), Failure> {
        let linux = self.spec.linux().as_ref();
        let (Some(wanted), Some(init)) =
            (linux.and_then(|linux| linux.intel_rdt().as_ref()), self.container.pid())
        else {
            return Ok(());
        };
        let (group, monitor) = setup_intel_rdt(Some(self.container.id()), &init, wanted)
            .map_err(|error| failure(Reason::Library, &error))?;
        self.container
            .set_intel_rdt_dir(group)
            .set_intel_rdt_monitoring_dir(monitor)
            .save()
            .map_err(|error| failure(Reason::Library, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_that_others_see_cannot_be_made_to_say_which_process_it_is() {
        let cloned = Word::Cloned { pid: 1 };
        let mut who = Speakers { first: 7, init: None, is_seen: true };
        assert!(who.may_say(Some(7), &cloned) && who.may_say(Some(7), &Word::Hooks));
        assert!(!who.may_say(Some(8), &cloned) && !who.may_say(None, &cloned));
        who.init = Some(8);
        assert!(!who.may_say(Some(7), &cloned) && !who.may_say(Some(8), &cloned));
        for word in [Word::Mapping, Word::Hooks, Word::Devices] {
            assert!(!who.may_say(Some(8), &word), "{word:?}");
        }
        assert!(who.may_say(Some(8), &Word::Ready) && !who.may_say(Some(9), &Word::Ready));
        who.is_seen = false;
        assert!(who.may_say(Some(8), &Word::Hooks));
    }
}
