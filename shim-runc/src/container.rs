//! One container: its engine, its cgroups and its init.
//!
//! Promise: before init's exit is published, the processes that init left are killed, and an
//! out-of-memory kill that was counted late is reported.
//! Not here: which request is valid in which state. The SDK checks that before it calls.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{FileType, Gid, Uid};
use rustix::process::Signal as Number;
use shim_sdk::{ContainerId, Io, Notifier, Payload, Pid, ProcessHandle, Signal};

use crate::cgroup::record::{self, Others};
use crate::cgroup::{Cgroup, Freeze};
use crate::checkpoint::{self, Restore};
use crate::engine::{AnyEngine, CreateRequest, Engine, ExecRequest, INIT_PID_FILE, UpdateRequest};
use crate::error::{EngineError, Input, Limitation, Operation, SystemCall};
use crate::oom;
use crate::options::Options;
use crate::spec::SpecExcerpt;
use crate::stats;

/// A container, from create to delete.
#[derive(Debug)]
pub(crate) struct Container {
    id: ContainerId,
    bundle: PathBuf,
    options: Options,
    engine: AnyEngine,
    notifier: Notifier,
    spec: SpecTraits,
    state: RefCell<State>,
    started: Cell<bool>,
    paused: Cell<bool>,
}

/// Whether the container has an init.
#[derive(Debug)]
enum State {
    /// The container will be restored from a checkpoint when it is started. It has no init yet.
    ToRestore(Restore, Option<Io>),
    /// The container has an init.
    Created(CreatedContainer),
}

/// The init of a container, and what was found from its pid.
#[derive(Debug, Clone)]
struct CreatedContainer {
    init: Pid,
    cgroup: Option<Cgroup>,
    oom: Option<std::rc::Rc<oom::OomMonitor>>,
}

impl Container {
    /// Creates a container; returns it with the pid of its init, which waits for the start.
    pub(crate) async fn create(
        id: ContainerId,
        bundle: &Path,
        options: Options,
        engine: AnyEngine,
        notifier: Notifier,
        io: Io,
    ) -> Result<(Self, Pid), EngineError> {
        options.write(bundle)?;
        give_streams(&io, &options)?;
        let request = CreateRequest {
            id: &id,
            bundle,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
        };
        // The engine is called first; the spec is read while it works.
        let (init, (spec, ())) = tokio::join!(engine.create(&request, io), async {
            (SpecTraits::of(bundle), Cgroup::look_ahead())
        });
        let init = init?;
        if matches!(engine, AnyEngine::Libcontainer(_)) {
            // runc writes this file itself. A later `delete`, also of another shim, reads it.
            let path = bundle.join(INIT_PID_FILE);
            if let Err(cause) = fs::write(&path, init.to_string()) {
                log::warn!("write {}: {cause}", path.display());
            }
        }
        let state = State::Created(CreatedContainer::of(init, &notifier));
        let container = Self::new(id, bundle, options, engine, notifier, spec, state);
        Ok((container, init))
    }

    /// A container that its start will restore from a checkpoint.
    pub(crate) fn from_checkpoint(
        id: ContainerId,
        bundle: &Path,
        checkpoint: &Path,
        options: Options,
        engine: AnyEngine,
        notifier: Notifier,
        io: Io,
    ) -> Result<Self, EngineError> {
        if matches!(engine, AnyEngine::Libcontainer(_)) {
            return Err(EngineError::Unsupported {
                operation: Operation::Restore,
                limit: Limitation::NoCheckpoints,
            });
        }
        options.write(bundle)?;
        give_streams(&io, &options)?;
        let state = State::ToRestore(Restore::new(bundle, checkpoint, &options), Some(io));
        let spec = SpecTraits::of(bundle);
        Ok(Self::new(id, bundle, options, engine, notifier, spec, state))
    }

    /// A container that has not been started.
    fn new(
        id: ContainerId,
        bundle: &Path,
        options: Options,
        engine: AnyEngine,
        notifier: Notifier,
        spec: SpecTraits,
        state: State,
    ) -> Self {
        Self {
            id,
            bundle: bundle.to_owned(),
            options,
            engine,
            notifier,
            spec,
            state: RefCell::new(state),
            started: Cell::new(false),
            paused: Cell::new(false),
        }
    }

    /// Starts the user's command, or restores the checkpoint.
    pub(crate) async fn start(&self) -> Result<Pid, EngineError> {
        let restore = match &mut *self.state.borrow_mut() {
            State::ToRestore(restore, io) => io.take().map(|io| (restore.clone(), io)),
            State::Created(_) => None,
        };
        let init = match restore {
            Some((restore, io)) => {
                restore.prepare()?;
                let request = restore.request(&self.id, &self.bundle);
                let init = self.engine.restore(&request, io).await?;
                *self.state.borrow_mut() =
                    State::Created(CreatedContainer::of(init, &self.notifier));
                init
            }
            None => {
                let init = self.created(Operation::Start)?.init;
                self.engine.start(&self.id).await?;
                init
            }
        };
        self.started.set(true);
        Ok(init)
    }

    /// Starts a further process.
    pub(crate) async fn exec(&self, request: shim_sdk::Exec, io: Io) -> Result<Pid, EngineError> {
        let request =
            ExecRequest { container: &self.id, id: &request.id, process: &request.process };
        self.engine.exec(&request, io).await
    }

    /// Deletes the container. If it was never started, its init still waits and is killed.
    pub(crate) async fn delete(&self) -> Result<(), EngineError> {
        let made = match &*self.state.borrow() {
            State::ToRestore(..) => return Ok(()),
            State::Created(made) => made.clone(),
        };
        if let Some(oom) = &made.oom {
            oom.finish();
        }
        self.engine.delete(&self.id, !self.started.get()).await
    }

    /// Whether delete does not need the root file system: only poststop hooks would use it.
    pub(crate) fn deletes_without_rootfs(&self) -> bool {
        !self.spec.poststop_hooks
    }

    /// Signals one process.
    pub(crate) fn signal(
        &self,
        process: &ProcessHandle,
        signal: Signal,
    ) -> Result<(), shim_sdk::Error> {
        process.signal(signal)?;
        // On cgroup v1 a frozen process does not even react to SIGKILL.
        if signal == Signal::KILL
            && self.paused.get()
            && let State::Created(made) = &*self.state.borrow()
            && made.init == process.pid()
            && let Some(cgroup) = &made.cgroup
        {
            cgroup.request_freeze(Freeze::Thawed)?;
        }
        Ok(())
    }

    /// Signals all processes of the container.
    pub(crate) async fn signal_all(
        &self,
        init: &ProcessHandle,
        signal: Signal,
    ) -> Result<(), shim_sdk::Error> {
        let cgroup = self.created(Operation::Signal)?.cgroup;
        match (cgroup, number(signal)) {
            (Some(cgroup), Some(number)) => {
                Ok(self.signal_own(&cgroup, number, self.paused.get()).await?)
            }
            // Without cgroups of the container's own only init is known.
            _ => self.signal(init, signal),
        }
    }

    /// Signals the container's processes in its cgroups, but not processes of others in them.
    async fn signal_own(
        &self,
        cgroup: &Cgroup,
        signal: Number,
        paused: bool,
    ) -> Result<(), EngineError> {
        let (file, records) = self.engine.groups_file(&self.id);
        let Some(made) = record::Made::read(&file) else {
            return cgroup.signal_all(signal, paused).await;
        };
        if !made.is_any() {
            // The cgroups existed before the container. Its processes descend from the shim.
            let shim = i32::try_from(std::process::id()).unwrap_or_default();
            let is_own = |pid| record::descends(pid, shim);
            return cgroup.signal_those(signal, paused, Some(&is_own)).await;
        }
        let others = Others::of(&made, &file, records);
        let is_own = |pid| !others.have(pid);
        let meant: Option<&dyn Fn(i32) -> bool> =
            if others.is_any() { Some(&is_own) } else { None };
        cgroup.signal_those(signal, paused, meant).await
    }

    /// Kills the processes that init left, and reports the last out-of-memory kills.
    pub(crate) async fn init_exited(&self) {
        self.engine.init_exited(&self.id);
        let Ok(made) = self.created(Operation::Signal) else {
            return;
        };
        if let Some(cgroup) = &made.cgroup {
            let paused = self.paused.replace(false);
            let ended = if !self.spec.own_pid_namespace {
                self.signal_own(cgroup, Number::KILL, paused).await
            } else if paused {
                cgroup.freeze(Freeze::Thawed).await
            } else {
                Ok(())
            };
            if let Err(error) = ended {
                // The exit is still published. What is left is removed by the delete.
                log::warn!("{}: after init's exit: {}", self.id, shim_sdk::error::report(&error));
            }
        }
        if let Some(oom) = &made.oom {
            oom.finish();
        }
    }

    /// Freezes all processes.
    pub(crate) async fn pause(&self) -> Result<(), EngineError> {
        match self.created(Operation::Pause)?.cgroup {
            Some(cgroup) if cgroup.can_freeze() => cgroup.freeze(Freeze::Frozen).await?,
            _ => self.engine.pause(&self.id).await?,
        }
        self.paused.set(true);
        Ok(())
    }

    /// Thaws all processes.
    pub(crate) async fn resume(&self) -> Result<(), EngineError> {
        match self.created(Operation::Resume)?.cgroup {
            Some(cgroup) if cgroup.can_freeze() => cgroup.freeze(Freeze::Thawed).await?,
            _ => self.engine.resume(&self.id).await?,
        }
        self.paused.set(false);
        Ok(())
    }

    /// The pids of all processes; `None` if the container has no cgroup to read them from.
    pub(crate) fn pids(&self) -> Result<Option<Vec<Pid>>, EngineError> {
        let Some(cgroup) = self.created(Operation::Pids)?.cgroup else {
            return Ok(None);
        };
        let pids = cgroup.pids()?;
        Ok(Some(pids.into_iter().filter_map(|pid| Pid::new(u32::try_from(pid).ok()?)).collect()))
    }

    /// The statistics of the container's cgroups.
    pub(crate) fn stats(&self) -> Result<Payload, EngineError> {
        let made = self.created(Operation::Stats)?;
        match made.cgroup.filter(Cgroup::exists) {
            Some(cgroup) => stats::of(&cgroup),
            None => Err(EngineError::NoCgroup),
        }
    }

    /// Changes resource limits.
    pub(crate) async fn update(&self, resources: &Payload) -> Result<(), EngineError> {
        let made = self.created(Operation::Update)?;
        let parsed: LinuxResources = serde_json::from_slice(&resources.value)
            .map_err(|cause| EngineError::malformed(Input::Resources, cause))?;
        match made.cgroup {
            // systemd restores its own values at the next reload, so the runtime must change its unit.
            Some(cgroup) if !self.options.systemd_cgroup => cgroup.update(&parsed),
            _ => {
                let request = UpdateRequest { id: &self.id, resources: &resources.value };
                self.engine.update(&request).await
            }
        }
    }

    /// Writes a checkpoint.
    pub(crate) async fn checkpoint(
        &self,
        request: &shim_sdk::Checkpoint,
    ) -> Result<(), EngineError> {
        checkpoint::write(&self.engine, &self.id, &self.bundle, request).await
    }

    fn created(&self, operation: Operation) -> Result<CreatedContainer, EngineError> {
        match &*self.state.borrow() {
            State::Created(made) => Ok(made.clone()),
            State::ToRestore(..) => Err(EngineError::NotRestored { operation }),
        }
    }
}

impl CreatedContainer {
    /// Finds the cgroups of an init. After an error the container works without them.
    fn of(init: Pid, notifier: &Notifier) -> Self {
        let quiet = |error: EngineError| {
            log::warn!("{}: {}", notifier.container(), shim_sdk::error::report(&error));
        };
        let cgroup = i32::try_from(init.get())
            .map_err(|cause| EngineError::malformed(Input::InitPid(init.get()), cause))
            .and_then(Cgroup::of_process)
            .map_err(quiet)
            .ok()
            .flatten();
        if let Some(Cgroup::V2(group)) = &cgroup {
            group.enable_controllers();
        }
        let oom = cgroup.as_ref().and_then(|cgroup| {
            oom::OomMonitor::begin(cgroup, notifier.clone()).map_err(quiet).ok().flatten()
        });
        Self { init, cgroup, oom: oom.map(std::rc::Rc::new) }
    }
}

/// Changes the owner of the standard streams' pipes to the user in the options, so that a process
/// that is not root can open them again (`/dev/stdout`).
fn give_streams(io: &Io, options: &Options) -> Result<(), EngineError> {
    let Io::Streams(streams) = io else { return Ok(()) };
    let (uid, gid) = (options.io_uid, options.io_gid);
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        // A file of the client keeps its owner.
        let pipe = rustix::fs::fstat(stream)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if pipe {
            rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|cause| EngineError::system(SystemCall::FchownPipe { uid, gid }, cause))?;
        }
    }
    Ok(())
}

/// The parts of a bundle's spec that are needed after the create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SpecTraits {
    /// The container has a new pid namespace. The kernel kills its processes when init exits.
    own_pid_namespace: bool,
    poststop_hooks: bool,
}

impl SpecTraits {
    /// Reads the spec. If it cannot be read, the answers are the safe ones.
    fn of(bundle: &Path) -> Self {
        match SpecExcerpt::read(bundle) {
            Some(spec) => Self {
                own_pid_namespace: spec.has_new_pid_namespace(),
                poststop_hooks: spec.has_poststop_hooks(),
            },
            None => Self { own_pid_namespace: false, poststop_hooks: true },
        }
    }
}

/// A signal for rustix, which has no real-time signals.
fn number(signal: Signal) -> Option<Number> {
    Number::from_named_raw(i32::try_from(signal.number()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_given_to_the_user_that_the_options_name_and_files_are_not() {
        use std::os::fd::OwnedFd;
        let (read, write) = rustix::pipe::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        let owner = |fd: &OwnedFd| {
            let stat = rustix::fs::fstat(fd).unwrap();
            (stat.st_uid, stat.st_gid)
        };
        let file = OwnedFd::from(file);
        let io = Io::Streams(shim_sdk::Streams {
            stdin: None,
            stdout: Some(write.into()),
            stderr: Some(file.try_clone().unwrap().into()),
        });
        give_streams(&io, &Options::default()).unwrap();
        assert_eq!(owner(&read), (0, 0));
        let options = Options { io_uid: 1000, io_gid: 1001, ..Options::default() };
        give_streams(&io, &options).unwrap();
        assert_eq!(owner(&read), (1000, 1001));
        assert_eq!(owner(&file), (0, 0));
    }

    fn spec(json: &str) -> SpecTraits {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), json).unwrap();
        SpecTraits::of(bundle.path())
    }

    #[test]
    fn only_a_new_pid_namespace_ends_everything_with_init() {
        let given = |json: &str| spec(json).own_pid_namespace;
        assert!(given(r#"{"linux":{"namespaces":[{"type":"ipc"},{"type":"pid"}]}}"#));
        assert!(given(r#"{"linux":{"namespaces":[{"type":"pid","path":""}]}}"#));
        assert!(!given(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(!given(r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#));
        assert!(!given(r#"{"linux":null}"#));
        assert!(!given("not json"));
    }

    #[test]
    fn hooks_that_run_last_are_known() {
        let given = |json: &str| spec(json).poststop_hooks;
        assert!(given(r#"{"hooks":{"poststop":[{"path":"/bin/true"}]}}"#));
        assert!(given("not json"));
        assert!(!given(r#"{"hooks":{"poststop":[],"prestart":[{"path":"/bin/true"}]}}"#));
        assert!(!given(r#"{"hooks":null}"#));
    }
}
