//! One container: its engine, its groups, and what is known of its init.
//!
//! Promise: what a container left running when its init exited is ended, and an out-of-memory kill
//! seen late is reported, before the exit is published.
//! Not here: which request is valid when; the SDK asks only for what is.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{FileType, Gid, Uid};
use rustix::process::Signal as Number;
use serde::Deserialize;
use serde::de::IgnoredAny;
use shim_sdk::bundle::MAX_SPEC_BYTES;
use shim_sdk::file::read_regular;
use shim_sdk::{ContainerId, Io, Kind, Notifier, Payload, Pid, ProcessHandle, Signal};

use crate::cgroup::made::{self, Others};
use crate::cgroup::{Cgroup, Freeze};
use crate::checkpoint::{self, Restore};
use crate::engine::{AnyEngine, CreateRequest, Engine, ExecRequest, INIT_PID_FILE, UpdateRequest};
use crate::error::{EngineError, Input, Operation, SystemCall};
use crate::oom;
use crate::options::Options;
use crate::stats;

/// A container, from create to delete.
#[derive(Debug)]
pub(crate) struct Container {
    id: ContainerId,
    bundle: PathBuf,
    options: Options,
    engine: AnyEngine,
    notifier: Notifier,
    traits: Traits,
    stage: RefCell<Stage>,
    started: Cell<bool>,
    paused: Cell<bool>,
}

/// How far the container is.
#[derive(Debug)]
enum Stage {
    /// Nothing runs yet: it will be made from a checkpoint when it is started.
    Checkpointed(Restore, Option<Io>),
    /// There is an init.
    Made(Made),
}

/// What is known once there is an init.
#[derive(Debug, Clone)]
struct Made {
    init: Pid,
    cgroup: Option<Cgroup>,
    oom: Option<std::rc::Rc<oom::Watch>>,
}

impl Container {
    /// Makes a container; returns it with its init, which waits.
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
        // Asked first, so that what is looked up here is looked up while the engine works.
        let (init, (traits, ())) = tokio::join!(engine.create(&request, io), async {
            (Traits::of(bundle), Cgroup::look_ahead())
        });
        let init = init?;
        if matches!(engine, AnyEngine::Libcontainer(_)) {
            // runc has written it; a later delete, perhaps of another shim, looks for it.
            let path = bundle.join(INIT_PID_FILE);
            if let Err(cause) = fs::write(&path, init.to_string()) {
                log::warn!("write {}: {cause}", path.display());
            }
        }
        let stage = Stage::Made(Made::of(init, &notifier));
        let container = Self::new(id, bundle, options, engine, notifier, traits, stage);
        Ok((container, init))
    }

    /// Remembers a container that start will make from a checkpoint.
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
                why: "libcontainer has no checkpoints".to_owned(),
            });
        }
        options.write(bundle)?;
        give_streams(&io, &options)?;
        let stage = Stage::Checkpointed(Restore::new(bundle, checkpoint, &options), Some(io));
        let traits = Traits::of(bundle);
        Ok(Self::new(id, bundle, options, engine, notifier, traits, stage))
    }

    /// One that has not been started.
    fn new(
        id: ContainerId,
        bundle: &Path,
        options: Options,
        engine: AnyEngine,
        notifier: Notifier,
        traits: Traits,
        stage: Stage,
    ) -> Self {
        Self {
            id,
            bundle: bundle.to_owned(),
            options,
            engine,
            notifier,
            traits,
            stage: RefCell::new(stage),
            started: Cell::new(false),
            paused: Cell::new(false),
        }
    }

    /// Runs the user's command, or restores the checkpoint.
    pub(crate) async fn start(&self) -> Result<Pid, EngineError> {
        let restore = match &mut *self.stage.borrow_mut() {
            Stage::Checkpointed(restore, io) => io.take().map(|io| (restore.clone(), io)),
            Stage::Made(_) => None,
        };
        let init = match restore {
            Some((restore, io)) => {
                restore.prepare()?;
                let request = restore.request(&self.id, &self.bundle);
                let init = self.engine.restore(&request, io).await?;
                *self.stage.borrow_mut() = Stage::Made(Made::of(init, &self.notifier));
                init
            }
            None => {
                let init = self.made(Operation::Start)?.init;
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

    /// Removes the container. One that never started still has an init, which is killed.
    pub(crate) async fn delete(&self) -> Result<(), EngineError> {
        let made = match &*self.stage.borrow() {
            Stage::Checkpointed(..) => return Ok(()),
            Stage::Made(made) => made.clone(),
        };
        if let Some(oom) = &made.oom {
            oom.finish();
        }
        self.engine.delete(&self.id, !self.started.get()).await
    }

    /// Whether only hooks that run last could still look at the root file system, and there are none.
    pub(crate) fn deletes_without_rootfs(&self) -> bool {
        !self.traits.poststop_hooks
    }

    /// Signals one process.
    pub(crate) fn signal(
        &self,
        process: &ProcessHandle,
        signal: Signal,
    ) -> Result<(), shim_sdk::Error> {
        process.signal(signal)?;
        // A frozen process of cgroup v1 does not even die.
        if signal == Signal::KILL
            && self.paused.get()
            && let Stage::Made(made) = &*self.stage.borrow()
            && made.init == process.pid()
            && let Some(cgroup) = &made.cgroup
        {
            cgroup.request_freeze(Freeze::Thawed)?;
        }
        Ok(())
    }

    /// Signals every process.
    pub(crate) async fn signal_all(
        &self,
        init: &ProcessHandle,
        signal: Signal,
    ) -> Result<(), shim_sdk::Error> {
        let cgroup = self.made(Operation::Signal)?.cgroup;
        match (cgroup, number(signal)) {
            (Some(cgroup), Some(number)) => {
                Ok(self.signal_own(&cgroup, number, self.paused.get()).await?)
            }
            // Without groups of its own only init is known.
            _ => self.signal(init, signal),
        }
    }

    /// Signals the container's processes in its groups: all, unless the groups are others' too.
    async fn signal_own(
        &self,
        cgroup: &Cgroup,
        signal: Number,
        paused: bool,
    ) -> Result<(), EngineError> {
        let (file, records) = self.engine.groups_file(&self.id);
        let Some(made) = made::Made::read(&file) else {
            return cgroup.signal_all(signal, paused).await;
        };
        if !made.is_any() {
            // They were there before. What the container has is this process's.
            let shim = i32::try_from(std::process::id()).unwrap_or_default();
            let is_own = |pid| made::descends(pid, shim);
            return cgroup.signal_those(signal, paused, Some(&is_own)).await;
        }
        let others = Others::of(&made, &file, records);
        let is_own = |pid| !others.have(pid);
        let meant: Option<&dyn Fn(i32) -> bool> =
            if others.is_any() { Some(&is_own) } else { None };
        cgroup.signal_those(signal, paused, meant).await
    }

    /// Ends what init left, and reports what the kernel did last.
    pub(crate) async fn init_exited(&self) {
        self.engine.init_exited(&self.id);
        let Ok(made) = self.made(Operation::Signal) else {
            return;
        };
        if let Some(cgroup) = &made.cgroup {
            let paused = self.paused.replace(false);
            let ended = if !self.traits.own_pid_namespace {
                self.signal_own(cgroup, Number::KILL, paused).await
            } else if paused {
                cgroup.freeze(Freeze::Thawed).await
            } else {
                Ok(())
            };
            if let Err(error) = ended {
                // The exit must be told all the same; delete meets the rest again.
                log::warn!("{}: after init's exit: {}", self.id, shim_sdk::error::report(&error));
            }
        }
        if let Some(oom) = &made.oom {
            oom.finish();
        }
    }

    /// Freezes every process.
    pub(crate) async fn pause(&self) -> Result<(), EngineError> {
        match self.made(Operation::Pause)?.cgroup {
            Some(cgroup) if cgroup.can_freeze() => cgroup.freeze(Freeze::Frozen).await?,
            _ => self.engine.pause(&self.id).await?,
        }
        self.paused.set(true);
        Ok(())
    }

    /// Ends a pause.
    pub(crate) async fn resume(&self) -> Result<(), EngineError> {
        match self.made(Operation::Resume)?.cgroup {
            Some(cgroup) if cgroup.can_freeze() => cgroup.freeze(Freeze::Thawed).await?,
            _ => self.engine.resume(&self.id).await?,
        }
        self.paused.set(false);
        Ok(())
    }

    /// Every process; `None` if only the SDK's table can tell.
    pub(crate) fn pids(&self) -> Result<Option<Vec<Pid>>, EngineError> {
        let Some(cgroup) = self.made(Operation::Pids)?.cgroup else {
            return Ok(None);
        };
        let pids = cgroup.pids()?;
        Ok(Some(pids.into_iter().filter_map(|pid| Pid::new(u32::try_from(pid).ok()?)).collect()))
    }

    /// What the kernel counts.
    pub(crate) fn stats(&self) -> Result<Payload, EngineError> {
        let made = self.made(Operation::Stats)?;
        match made.cgroup.filter(Cgroup::exists) {
            Some(cgroup) => stats::of(&cgroup),
            None => Err(EngineError::Refused {
                operation: Operation::Stats,
                kind: Kind::NotFound,
                message: "the container has no cgroup".to_owned(),
            }),
        }
    }

    /// Changes resource limits.
    pub(crate) async fn update(&self, resources: &Payload) -> Result<(), EngineError> {
        let made = self.made(Operation::Update)?;
        let parsed: LinuxResources = serde_json::from_slice(&resources.value)
            .map_err(|cause| EngineError::malformed(Input::Resources, cause))?;
        match made.cgroup {
            // systemd would put back its own values at the next reload, so its unit must follow.
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

    fn made(&self, operation: Operation) -> Result<Made, EngineError> {
        match &*self.stage.borrow() {
            Stage::Made(made) => Ok(made.clone()),
            Stage::Checkpointed(..) => Err(EngineError::Refused {
                operation,
                kind: Kind::FailedPrecondition,
                message: "the container has not been restored yet".to_owned(),
            }),
        }
    }
}

impl Made {
    /// Looks at what an engine has made. What cannot be found is done without: the container works.
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
            oom::Watch::begin(cgroup, notifier.clone()).map_err(quiet).ok().flatten()
        });
        Self { init, cgroup, oom: oom.map(std::rc::Rc::new) }
    }
}

/// Gives the streams' pipes to the user that the options name, so that a process that is not root
/// can open them again (`/dev/stdout`).
fn give_streams(io: &Io, options: &Options) -> Result<(), EngineError> {
    let Io::Streams(streams) = io else { return Ok(()) };
    let (uid, gid) = (options.io_uid, options.io_gid);
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        // A file that the client named keeps its owner.
        let pipe = rustix::fs::fstat(stream)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if pipe {
            rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|cause| EngineError::system(SystemCall::FchownPipe { uid, gid }, cause))?;
        }
    }
    Ok(())
}

/// What a bundle's spec says that matters later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traits {
    /// A new pid namespace: the kernel then ends all with init.
    own_pid_namespace: bool,
    poststop_hooks: bool,
}

impl Traits {
    /// Reads them. A spec that cannot be read leaves everything to be reckoned with.
    fn of(bundle: &Path) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            linux: Option<Linux>,
            hooks: Option<Hooks>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Linux {
            namespaces: Option<Vec<Namespace>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Hooks {
            poststop: Option<Vec<IgnoredAny>>,
        }
        #[derive(Deserialize)]
        struct Namespace {
            r#type: String,
            #[serde(default)]
            path: Option<String>,
        }
        let spec = bundle.join("config.json");
        let json = read_regular(&spec, MAX_SPEC_BYTES).unwrap_or_default();
        let Ok(spec) = serde_json::from_slice::<Spec>(&json) else {
            return Self { own_pid_namespace: false, poststop_hooks: true };
        };
        let mut namespaces = spec.linux.and_then(|linux| linux.namespaces).into_iter().flatten();
        let poststop = spec.hooks.and_then(|hooks| hooks.poststop);
        Self {
            own_pid_namespace: namespaces.any(|namespace| {
                namespace.r#type == "pid" && namespace.path.is_none_or(|path| path.is_empty())
            }),
            poststop_hooks: poststop.is_some_and(|hooks| !hooks.is_empty()),
        }
    }
}

/// A signal as the kernel's wrappers take it; real-time signals are none of theirs.
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

    fn traits(json: &str) -> Traits {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), json).unwrap();
        Traits::of(bundle.path())
    }

    #[test]
    fn only_a_new_pid_namespace_ends_everything_with_init() {
        let given = |json: &str| traits(json).own_pid_namespace;
        assert!(given(r#"{"linux":{"namespaces":[{"type":"ipc"},{"type":"pid"}]}}"#));
        assert!(given(r#"{"linux":{"namespaces":[{"type":"pid","path":""}]}}"#));
        assert!(!given(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(!given(r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#));
        assert!(!given(r#"{"linux":null}"#));
        assert!(!given("not json"));
    }

    #[test]
    fn hooks_that_run_last_are_known() {
        let given = |json: &str| traits(json).poststop_hooks;
        assert!(given(r#"{"hooks":{"poststop":[{"path":"/bin/true"}]}}"#));
        assert!(given("not json"));
        assert!(!given(r#"{"hooks":{"poststop":[],"prestart":[{"path":"/bin/true"}]}}"#));
        assert!(!given(r#"{"hooks":null}"#));
    }
}
