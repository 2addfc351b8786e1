//! The helper's side of [`init_channel`](super::init_channel): does what a new init asks for.
//!
//! Init asks for what it cannot do itself in the container's namespaces: its pid in the record, the
//! mappings of its user namespace, hooks that run on the host, network devices, the seccomp listener.
//!
//! Promise: a message counts only if its sender may send it ([`Senders`]). An error ends the create.
//! Not here: cloning init (`launch`), init's own part (`init_process`).
//! See user_namespaces(7), the OCI runtime specification on hooks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

use libcontainer::container::{Container, ContainerStatus};
use libcontainer::hooks::run_hooks;
use libcontainer::network::network_device::dev_change_net_namespace;
use libcontainer::oci_spec::runtime::{LinuxIdMapping, Spec};
use libcontainer::process::container_main_process::ProcessError;
use libcontainer::process::intel_rdt::setup_intel_rdt;
use libcontainer::user_ns::UserNamespaceConfig;

use super::super::wire::{Failure, Reason};
use super::failure::{failed, failure};
use super::init_channel::{InitChannel, Message};
use super::seccomp_listener;

/// The requests of one init.
pub(super) struct InitRequests<'a> {
    pub(super) channel: InitChannel,
    pub(super) spec: &'a Spec,
    pub(super) container: &'a mut Container,
    pub(super) senders: Senders,
}

/// The processes that send messages to the helper.
pub(super) struct Senders {
    /// The process that the helper has cloned.
    pub(super) first: i32,
    /// Init. `None` until the intermediate process has sent its pid.
    pub(super) init: Option<i32>,
    /// Whether init joins a pid namespace, whose processes see init from its first moment.
    pub(super) is_seen: bool,
}

impl Senders {
    /// Whether a process may send a message. A process with CAP_SYS_PTRACE can make an init that it sees
    /// send any message, for example that another process is the init. Callers would then use its pid.
    fn may_say(&self, sender: Option<i32>, message: &Message) -> bool {
        let is_first = sender == Some(self.first);
        let is_init = sender.is_some() && sender == self.init;
        match message {
            Message::Cloned { .. } => is_first && self.init.is_none(),
            Message::Mapping => is_first,
            Message::Hooks | Message::Devices if self.is_seen => is_first,
            _ => is_init,
        }
    }
}

impl InitRequests<'_> {
    /// Does what init asks for until it waits for its start. Returns its pid.
    pub(super) fn serve(mut self) -> Result<i32, Failure> {
        let other = |error: std::io::Error| failure(Reason::System, &error);
        if self.spec.hooks().is_none() {
            self.record()?;
        }
        loop {
            let heard = self.channel.receive_from().map_err(other)?;
            if let Some((message, _, sender)) = &heard
                && !self.senders.may_say(*sender, message)
            {
                let text = format!("process {sender:?} said {message:?}, which is not its to say");
                return Err(Failure::new(Reason::UnexpectedMessage, text));
            }
            match heard.map(|(message, beside, _)| (message, beside)) {
                Some((Message::Cloned { pid }, _)) => {
                    self.senders.init = Some(pid);
                    self.record()?;
                }
                Some((Message::Mapping, _)) => {
                    self.map_ids()?;
                    self.channel.send(&Message::Done).map_err(other)?;
                }
                Some((Message::Hooks, _)) => {
                    self.run_hooks()?;
                    self.record()?;
                    self.channel.send(&Message::Done).map_err(other)?;
                }
                Some((Message::Devices, _)) => {
                    let moved = self.move_devices()?;
                    self.channel.send(&moved).map_err(other)?;
                }
                Some((Message::Listener, mut beside)) => {
                    let fd = beside.pop().ok_or_else(|| super::missing("the listener"))?;
                    seccomp_listener::inform(self.spec, &self.container.state, self.pid(), fd)?;
                    self.channel.send(&Message::Done).map_err(other)?;
                }
                Some((Message::Ready, _)) => break,
                Some((
                    message @ (Message::Moved(_)
                    | Message::Opened
                    | Message::NotOpened(_)
                    | Message::Done),
                    _,
                )) => {
                    return Err(Failure::new(
                        Reason::UnexpectedMessage,
                        format!("init said {message:?}"),
                    ));
                }
                // It has told its report why, unless it was killed.
                None => {
                    return Err(Failure::new(Reason::ProcessEnded, "init ended while it was made"));
                }
            }
        }
        self.limit_caches()?;
        self.senders
            .init
            .ok_or_else(|| Failure::new(Reason::UnexpectedMessage, "the container has no init"))
    }

    fn pid(&self) -> i32 {
        self.senders.init.unwrap_or(self.senders.first)
    }

    /// Writes the record of a created container, once its init is known.
    fn record(&mut self) -> Result<(), Failure> {
        let Some(init) = self.senders.init else { return Ok(()) };
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
            let path = format!("/proc/{}/{name}", self.senders.first);
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

    fn move_devices(&self) -> Result<Message, Failure> {
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
        Ok(Message::Moved(moved))
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
        let cloned = Message::Cloned { pid: 1 };
        let mut senders = Senders { first: 7, init: None, is_seen: true };
        assert!(senders.may_say(Some(7), &cloned) && senders.may_say(Some(7), &Message::Hooks));
        assert!(!senders.may_say(Some(8), &cloned) && !senders.may_say(None, &cloned));
        senders.init = Some(8);
        assert!(!senders.may_say(Some(7), &cloned) && !senders.may_say(Some(8), &cloned));
        for message in [Message::Mapping, Message::Hooks, Message::Devices] {
            assert!(!senders.may_say(Some(8), &message), "{message:?}");
        }
        assert!(
            senders.may_say(Some(8), &Message::Ready) && !senders.may_say(Some(9), &Message::Ready)
        );
        senders.is_seen = false;
        assert!(senders.may_say(Some(8), &Message::Hooks));
    }
}
