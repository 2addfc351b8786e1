//! A container's first process, from its clone to the user's command.
//!
//! ```text
//!   the host's tree          the container's root                   nothing of the host's
//!   limits, namespaces ────> root file system, hooks, groups ─────> session, keyring, terminal
//!                                                                    becomes the user, waits, executes
//! ```
//!
//! Where other processes are in its pid namespace already, an intermediate process goes the first
//! two thirds, and clones init when it has nothing left that they could reach the host by.
//!
//! Promise: before the first path of the container is looked up as the user's, and before a process
//! of the container can see it, the process has the standard streams and channels, no directory, no
//! file of the host. It cannot be traced until it executes. What prevents it is told to the report.
//! Runs in clones: everything that it needs is in memory, and it ends without dropping it.
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
use super::cgroup_barrier::Gate;
use super::exec_process::{execute, take_streams};
use super::failure::{failed, failure};
use super::identity::Identity;
use super::init_channel::{self, Word, Words};
use super::keyring::Keyring;
use super::namespaces::Spaces;
use super::rootfs::{RootFs, Terminal};
use super::{process_attributes, procfs, release_pipe, terminal};
use crate::sys;

/// What init is made of.
pub(super) struct Init<'a> {
    pub(super) spec: &'a Spec,
    pub(super) process: &'a Process,
    pub(super) spaces: Spaces,
    pub(super) rootfs: RootFs,
    pub(super) identity: Identity,
    pub(super) keyring: Option<Keyring>,
    /// Where it waits for its control groups, if it is not cloned into them.
    pub(super) gate: Option<Gate>,
    pub(super) joins_first: bool,
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) console: Option<UnixStream>,
    pub(super) listener: UnixListener,
    /// The state that hooks read on their standard input.
    pub(super) state: State,
    pub(super) report: Rc<OwnedFd>,
    /// The mark of the container's making.
    pub(super) making: BorrowedFd<'a>,
}

impl Init<'_> {
    /// The clone's part.
    pub(super) fn run(&self, words: &Words) -> ! {
        let Err(failure) = self.set_out(words);
        error_pipe::tell(self.report.as_fd(), &failure);
        sys::clone::exit(1)
    }

    fn set_out(&self, words: &Words) -> Result<std::convert::Infallible, Failure> {
        if self.joins_first {
            self.pass()?;
        }
        take_streams(&self.streams)?;
        process_attributes::set(self.process)?;
        let linux = self.spec.linux().as_ref();
        if let Some(linux) = linux {
            setup_memory_policy(linux.memory_policy(), create_syscall().as_ref())
                .map_err(|error| failure(Reason::Library, &error))?;
        }
        if !self.spaces.need_intermediate() {
            let terminal = self.build(words)?;
            return self.finish(words, terminal);
        }
        self.spaces.enter_first(words)?;
        if !self.spaces.join_pid_namespace() {
            self.clone_init(words)?;
            let terminal = self.build(words)?;
            return self.finish(words, terminal);
        }
        let terminal = self.build(words)?;
        self.close_but(words, terminal.as_ref())?;
        self.identity.shed()?;
        self.clone_init(words)?;
        self.finish(words, terminal)
    }

    /// Goes on in a clone, and ends here. What the clone says comes after what is said of it.
    fn clone_init(&self, words: &Words) -> Result<(), Failure> {
        let (hold, release) = release_pipe::make().map_err(|error| failed("pipe", &error))?;
        let cloned = sys::clone::clone_sibling(self.spaces.make_pid_namespace(), None);
        match cloned.map_err(|error| failed("clone init", &error))? {
            Some((pid, _)) => {
                words.say(&Word::Cloned { pid }).map_err(|error| init_channel::left(&error))?;
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

    /// Makes what the container consists of and goes into it.
    fn build(&self, words: &Words) -> Result<Option<Terminal>, Failure> {
        self.spaces.enter_rest()?;
        let mut kept = vec![self.report.as_fd(), self.listener.as_fd(), words.as_fd(), self.making];
        kept.extend(self.console.as_ref().map(AsFd::as_fd));
        kept.extend(self.gate.as_ref().map(AsFd::as_fd));
        kept.extend(self.spaces.pid_namespace());
        close_all_but(&kept)?;
        if self.spaces.make_host_name() {
            if let Some(name) = self.spec.hostname() {
                rustix::system::sethostname(name.as_bytes())
                    .map_err(|error| failed(&format!("set the host name {name:?}"), &error))?;
            }
            if let Some(name) = self.spec.domainname() {
                rustix::system::setdomainname(name.as_bytes())
                    .map_err(|error| failed(&format!("set the domain name {name:?}"), &error))?;
            }
        }
        if self.spaces.make_network() {
            sys::network::loopback_up().map_err(|error| failed("bring up the loopback", &error))?;
        }
        self.take_devices(words)?;
        let hooks = || {
            if let Some(hooks) = self.spec.hooks() {
                words.ask(&Word::Hooks)?;
                let run = || {
                    let stage = hooks.create_container().as_ref();
                    run_hooks(stage, Some(&self.state), None, None, None)
                        .map_err(|error| failure(Reason::Hook, &error))
                };
                self.spaces.outside(run)?;
            }
            // By the host's /proc, and after the last program that is not the container's.
            process_attributes::confine(self.process)
        };
        if let Some(namespace) = self.spaces.pid_namespace() {
            let times = self.rootfs.count_procfs();
            let opened = self.spaces.outside(|| procfs::open(namespace, times))?;
            self.rootfs.take_procfs(opened);
        }
        let terminal = self.rootfs.enter(hooks, self.console.is_some())?;
        if !self.joins_first {
            self.pass()?;
        }
        Ok(terminal)
    }

    fn pass(&self) -> Result<(), Failure> {
        let Some(gate) = &self.gate else { return Ok(()) };
        gate.pass().map_err(|error| failed("join the control groups", &error))
    }

    /// Gives devices of the network that were moved here their addresses back.
    fn take_devices(&self, words: &Words) -> Result<(), Failure> {
        let linux = self.spec.linux().as_ref();
        let Some(devices) = linux.and_then(|linux| linux.net_devices().as_ref()) else {
            return Ok(());
        };
        if devices.is_empty() {
            return Ok(());
        }
        words.say(&Word::Devices).map_err(|error| init_channel::left(&error))?;
        let Some((Word::Moved(moved), _)) =
            words.hear().map_err(|error| init_channel::left(&error))?
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

    /// Closes everything but the standard streams and what is still needed.
    fn close_but(&self, words: &Words, terminal: Option<&Terminal>) -> Result<(), Failure> {
        let mut kept = vec![self.report.as_fd(), self.listener.as_fd(), words.as_fd()];
        kept.extend(self.console.as_ref().map(AsFd::as_fd));
        kept.extend(
            terminal.into_iter().flat_map(|both| [both.master.as_fd(), both.slave.as_fd()]),
        );
        close_all_but(&kept)
    }

    /// Becomes what the spec says, waits for the start, and executes the command.
    fn finish(
        &self,
        words: &Words,
        terminal: Option<Terminal>,
    ) -> Result<std::convert::Infallible, Failure> {
        self.close_but(words, terminal.as_ref())?;
        rustix::process::setsid().map_err(|error| failed("setsid", &error))?;
        if let Some(keyring) = &self.keyring {
            keyring.join()?;
        }
        if let (Some(terminal), Some(console)) = (terminal, &self.console) {
            terminal::attach(terminal, console)?;
        }
        let (report, listener) = (self.report.as_fd(), self.listener.as_fd());
        close_all_but(&[report, listener, words.as_fd()])?;
        let personality = self.spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
        process_attributes::set_habits(personality, self.process.user().umask())?;
        process_attributes::limit(self.process)?;
        let command = self.identity.assume(|notifications| {
            words
                .hand(&Word::Listener, &[notifications.as_fd()])
                .map_err(|error| init_channel::left(&error))?;
            words.done()
        })?;
        words.say(&Word::Ready).map_err(|error| init_channel::left(&error))?;
        close_all_but(&[report, listener])?;
        notify_socket::wait(&self.listener)
            .map_err(|error| failed("wait for the start", &error))?;
        close_all_but(&[report])?;
        self.run_last_hooks()?;
        self.identity.confine()?;
        Err(execute(&command))
    }

    /// Runs those of the container's inside, as its user.
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
