//! The first process of a container, from its clone to the user's command.
//!
//! ```text
//!   the host's tree          the container's root                   nothing of the host's
//!   limits, namespaces ────> root file system, hooks, groups ─────> session, keyring, terminal
//!                                                                    becomes the user, waits, executes
//! ```
//!
//! If init joins an existing pid namespace, an intermediate process does the first two thirds. It clones
//! init when it holds nothing through which the namespace's processes could reach the host.
//!
//! Promise: before it resolves a path of the container as the user, and before a process of the
//! container sees it, the process holds only the standard streams and its channels, and no directory or
//! file of the host. It cannot be traced until it executes. Errors go to the report (`error_pipe`).
//! This code runs in clones: everything that it needs is in memory, and it exits without drops.
//! See the OCI runtime specification on the lifecycle, CVE-2024-21626.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::run_hooks;
use libcontainer::network::address::AddressClient;
use libcontainer::network::link::LinkClient;
use libcontainer::network::network_device::{
    resolve_device_name, setup_addresses_in_network_namespace,
};
use libcontainer::network::wrapper::create_network_client;
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::process::memory_policy::setup_memory_policy;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::utils::parse_env;

use super::super::wire::{Failure, Reason};
use super::super::{error_pipe, notify_socket};
use super::cgroup_barrier::BarrierReceiver;
use super::exec_process::{execute, take_streams};
use super::failure::{failed, failure};
use super::identity::Identity;
use super::init_channel::{self, InitChannel, Message};
use super::keyring::Keyring;
use super::namespaces::Namespaces;
use super::rootfs::{RootFs, Terminal};
use super::{process_attributes, procfs, release_pipe, terminal};
use crate::sys;

/// Everything that init needs.
pub(super) struct Init<'a> {
    pub(super) spec: &'a Spec,
    pub(super) process: &'a Process,
    pub(super) namespaces: Namespaces,
    pub(super) rootfs: RootFs,
    pub(super) identity: Identity,
    pub(super) keyring: Option<Keyring>,
    /// Where it waits for its control groups. `None` if it is cloned into its group.
    pub(super) barrier: Option<BarrierReceiver>,
    pub(super) joins_first: bool,
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) console: Option<UnixStream>,
    pub(super) listener: UnixListener,
    /// The state that hooks read from their standard input.
    pub(super) state: State,
    pub(super) report: Rc<OwnedFd>,
    /// The create lock of the bundle (`create_lock`).
    pub(super) lock: BorrowedFd<'a>,
}

impl Init<'_> {
    /// The clone's part.
    pub(super) fn run(&self, channel: &InitChannel) -> ! {
        let Err(failure) = self.set_out(channel);
        error_pipe::tell(self.report.as_fd(), &failure);
        sys::clone::exit(1)
    }

    fn set_out(&self, channel: &InitChannel) -> Result<std::convert::Infallible, Failure> {
        if self.joins_first {
            self.join_groups()?;
        }
        take_streams(&self.streams)?;
        process_attributes::set(self.process)?;
        let linux = self.spec.linux().as_ref();
        if let Some(linux) = linux {
            setup_memory_policy(linux.memory_policy(), create_syscall().as_ref())
                .map_err(|error| failure(Reason::Library, &error))?;
        }
        if !self.namespaces.need_intermediate() {
            let terminal = self.build(channel)?;
            return self.finish(channel, terminal);
        }
        self.namespaces.enter_first(channel)?;
        if !self.namespaces.join_pid_namespace() {
            self.clone_init(channel)?;
            let terminal = self.build(channel)?;
            return self.finish(channel, terminal);
        }
        let terminal = self.build(channel)?;
        self.close_but(channel, terminal.as_ref())?;
        self.identity.shed()?;
        self.clone_init(channel)?;
        self.finish(channel, terminal)
    }

    /// Continues in a clone; the calling process exits. The helper has the clone's pid before the clone
    /// sends a message.
    fn clone_init(&self, channel: &InitChannel) -> Result<(), Failure> {
        let (hold, release) = release_pipe::make().map_err(|error| failed("pipe", &error))?;
        let cloned = sys::clone::clone_sibling(self.namespaces.make_pid_namespace(), None);
        match cloned.map_err(|error| failed("clone init", &error))? {
            Some((pid, _)) => {
                channel
                    .send(&Message::Cloned { pid })
                    .map_err(|error| init_channel::helper_left(&error))?;
                release.go();
                sys::clone::exit(0)
            }
            None => {
                drop(release);
                let gone = || failed("wait to be told of", &std::io::Error::other("it was not"));
                if hold.wait() { Ok(()) } else { Err(gone()) }
            }
        }
    }

    /// Enters the namespaces, builds the root file system and enters it.
    fn build(&self, channel: &InitChannel) -> Result<Option<Terminal>, Failure> {
        self.namespaces.enter_rest()?;
        let mut kept = vec![self.report.as_fd(), self.listener.as_fd(), channel.as_fd(), self.lock];
        kept.extend(self.console.as_ref().map(AsFd::as_fd));
        kept.extend(self.barrier.as_ref().map(AsFd::as_fd));
        kept.extend(self.namespaces.pid_namespace());
        close_all_but(&kept)?;
        if self.namespaces.make_host_name() {
            if let Some(name) = self.spec.hostname() {
                rustix::system::sethostname(name.as_bytes())
                    .map_err(|error| failed(&format!("set the host name {name:?}"), &error))?;
            }
            if let Some(name) = self.spec.domainname() {
                rustix::system::setdomainname(name.as_bytes())
                    .map_err(|error| failed(&format!("set the domain name {name:?}"), &error))?;
            }
        }
        if self.namespaces.make_network() {
            sys::network::loopback_up().map_err(|error| failed("bring up the loopback", &error))?;
        }
        self.take_devices(channel)?;
        let hooks = || {
            if let Some(hooks) = self.spec.hooks() {
                channel.request(&Message::Hooks)?;
                let run = || {
                    let stage = hooks.create_container().as_ref();
                    run_hooks(stage, Some(&self.state), None, None, None)
                        .map_err(|error| failure(Reason::Hook, &error))
                };
                self.namespaces.outside(run)?;
            }
            // Needs the host's /proc, and must come after the last program that is not the container's.
            process_attributes::confine(self.process)
        };
        if let Some(namespace) = self.namespaces.pid_namespace() {
            let times = self.rootfs.count_procfs();
            let opened = self.namespaces.outside(|| procfs::open(namespace, times))?;
            self.rootfs.take_procfs(opened);
        }
        let terminal = self.rootfs.enter(hooks, self.console.is_some())?;
        if !self.joins_first {
            self.join_groups()?;
        }
        Ok(terminal)
    }

    fn join_groups(&self) -> Result<(), Failure> {
        let Some(barrier) = &self.barrier else { return Ok(()) };
        barrier.join_groups().map_err(|error| failed("join the control groups", &error))
    }

    /// Gives network devices that were moved here their addresses back.
    fn take_devices(&self, channel: &InitChannel) -> Result<(), Failure> {
        let linux = self.spec.linux().as_ref();
        let Some(devices) = linux.and_then(|linux| linux.net_devices().as_ref()) else {
            return Ok(());
        };
        if devices.is_empty() {
            return Ok(());
        }
        channel.send(&Message::Devices).map_err(|error| init_channel::helper_left(&error))?;
        let Some((Message::Moved(moved), _)) =
            channel.receive().map_err(|error| init_channel::helper_left(&error))?
        else {
            return Err(failed("move devices", &std::io::Error::other("the helper has left")));
        };
        for (name, device) in devices {
            let Some(addresses) = moved.get(name) else { continue };
            let name = resolve_device_name(device, name);
            let set_up = || {
                let mut links = LinkClient::new(create_network_client())?;
                let mut client = AddressClient::new(create_network_client())?;
                let index = links.get_by_name(name)?.header.index;
                setup_addresses_in_network_namespace(addresses, index, name, &mut client)?;
                links.set_up(index)
            };
            set_up().map_err(|error| failed(&format!("set up the device {name}"), &error))?;
        }
        Ok(())
    }

    /// Closes all descriptors but the standard streams and those that are still needed.
    fn close_but(&self, channel: &InitChannel, terminal: Option<&Terminal>) -> Result<(), Failure> {
        let mut kept = vec![self.report.as_fd(), self.listener.as_fd(), channel.as_fd()];
        kept.extend(self.console.as_ref().map(AsFd::as_fd));
        kept.extend(
            terminal.into_iter().flat_map(|both| [both.master.as_fd(), both.slave.as_fd()]),
        );
        close_all_but(&kept)
    }

    /// Becomes the user, waits for the start, and executes the command.
    fn finish(
        &self,
        channel: &InitChannel,
        terminal: Option<Terminal>,
    ) -> Result<std::convert::Infallible, Failure> {
        self.close_but(channel, terminal.as_ref())?;
        rustix::process::setsid().map_err(|error| failed("setsid", &error))?;
        if let Some(keyring) = &self.keyring {
            keyring.join()?;
        }
        if let (Some(terminal), Some(console)) = (terminal, &self.console) {
            terminal::attach(terminal, console)?;
        }
        let (report, listener) = (self.report.as_fd(), self.listener.as_fd());
        close_all_but(&[report, listener, channel.as_fd()])?;
        let personality = self.spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
        process_attributes::set_habits(personality, self.process.user().umask())?;
        process_attributes::limit(self.process)?;
        let command = self.identity.assume(|notifications| {
            channel
                .send_with(&Message::Listener, &[notifications.as_fd()])
                .map_err(|error| init_channel::helper_left(&error))?;
            channel.wait_done()
        })?;
        channel.send(&Message::Ready).map_err(|error| init_channel::helper_left(&error))?;
        close_all_but(&[report, listener])?;
        notify_socket::wait(&self.listener)
            .map_err(|error| failed("wait for the start", &error))?;
        close_all_but(&[report])?;
        self.run_last_hooks()?;
        self.identity.confine()?;
        Err(execute(&command))
    }

    /// Runs the startContainer hooks, as the container's user.
    fn run_last_hooks(&self) -> Result<(), Failure> {
        let hooks = self.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
        if hooks.is_none() {
            return Ok(());
        }
        let state = State { status: ContainerStatus::Created, ..self.state.clone() };
        let environment = parse_env(self.process.env().as_deref().unwrap_or_default());
        run_hooks(hooks, Some(&state), None, None, Some(&environment))
            .map_err(|error| failure(Reason::Hook, &error))
    }
}

fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    sys::fd::close_all_but(kept).map_err(|error| failed("close descriptors", &error))
}
