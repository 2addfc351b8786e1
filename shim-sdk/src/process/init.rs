//! The life of a container's init: made, started, ended.

use std::rc::Rc;
use std::time::Duration;

use super::container::Container;
use super::lifecycle::{Decision, Input, Job, Outcome, Phase, Request};
use super::shim::ShimState;
use crate::event::Event;
use crate::journal::Stage;
use crate::reaper;
use crate::reaper::ExitWatch;
use crate::stdio::{self, Attached, Owner, Stdio};
use crate::{
    Bundle, ContainerId, Create, Created, Error, Exit, Mount, Notifier, Payload, Pid,
    ProcessHandle, Result, Runtime, Signal, mount,
};

/// How long the work after an init's exit may take. After that the exit is published all the same.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to make a container, as the wire has understood it.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) id: ContainerId,
    pub(crate) bundle: Bundle,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: Stdio,
    pub(crate) checkpoint: String,
    pub(crate) options: Option<Payload>,
}

impl<R: Runtime> ShimState<R> {
    /// Makes a container. On an error nothing of it remains.
    pub(crate) async fn create(self: Rc<Self>, request: CreateRequest) -> Result<Option<Pid>> {
        if request.stdio.terminal && !self.capabilities.terminal {
            return Err(Error::unimplemented("a terminal"));
        }
        if !request.checkpoint.is_empty() && !self.capabilities.checkpoint {
            return Err(Error::unimplemented("restoring from a checkpoint"));
        }
        let container = Rc::new(Container::new(
            request.id.clone(),
            &self.namespace,
            request.bundle.clone(),
            !request.rootfs.is_empty(),
            !request.checkpoint.is_empty(),
            request.stdio.clone(),
            self.shim_record.clone(),
        ));
        // From here on a second Create of this id is refused, and others do not see it.
        self.reserve(Rc::clone(&container))?;
        match self.create_with_runtime(&container, request).await {
            Ok(pid) => Ok(pid),
            Err(error) => {
                if container.mounted
                    && let Err(error) = unmount_rootfs(&container.bundle).await
                {
                    log::warn!("undo the mounts of {}: {}", container.id, error.report());
                }
                self.release(&container.id);
                container.init.end_job(Job::Create, Outcome::Failed);
                Err(error)
            }
        }
    }

    async fn create_with_runtime(
        self: &Rc<Self>,
        container: &Rc<Container<R::Container>>,
        request: CreateRequest,
    ) -> Result<Option<Pid>> {
        let owner = Owner { namespace: &self.namespace, id: request.id.as_str() };
        let (io, attached) = stdio::open(&request.stdio, owner).await?;
        if !request.rootfs.is_empty() {
            mount_rootfs(&request.bundle, request.rootfs.clone()).await?;
        }
        let notifier = Notifier::new(request.id.clone(), self.events.clone(), self.notes.clone());
        let create = Create {
            id: request.id.clone(),
            namespace: self.namespace.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            options: request.options,
            checkpoint: (!request.checkpoint.is_empty()).then(|| request.checkpoint.clone().into()),
            notifier,
        };
        let expecting = reaper::expect();
        let Created { container: runtime_container, pid } = self.runtime.create(create, io).await?;
        container.set_runtime_container(runtime_container);
        let taken = self.open_init(container, attached, pid).await;
        drop(expecting);
        let watched = match taken {
            Ok(watched) => watched,
            Err(error) => {
                self.undo_create(container, pid).await;
                return Err(error);
            }
        };
        container.journal_init(Stage::Created, pid);
        self.events.push(Event::Created {
            container: request.id,
            bundle: request.bundle.path().to_owned(),
            rootfs: request.rootfs,
            stdio: request.stdio,
            checkpoint: request.checkpoint,
            pid,
        });
        container.init.end_job(Job::Create, Outcome::Succeeded);
        if let Some(watch) = watched {
            self.follow_init(container, watch);
        }
        Ok(pid)
    }

    /// Takes hold of what the runtime made: init, and its streams.
    async fn open_init(
        &self,
        container: &Container<R::Container>,
        attached: Attached,
        pid: Option<Pid>,
    ) -> Result<Option<ExitWatch>> {
        let mut watched = None;
        if let Some(pid) = pid {
            let handle = self.open_process(pid)?;
            // Before the first await: an exit from now on is not missed.
            watched = Some(reaper::watch(&handle));
            container.init.set_handle(handle);
            attached.ready().await?;
        }
        container.init.attach(Rc::new(attached));
        Ok(watched)
    }

    /// Removes a container that was made but cannot be used.
    async fn undo_create(&self, container: &Container<R::Container>, pid: Option<Pid>) {
        if let Some(handle) = container.init.handle() {
            // It may have ended by itself.
            let _ = handle.signal(Signal::KILL);
            let ended = reaper::watch(&handle);
            if tokio::time::timeout(EXIT_TIMEOUT, ended).await.is_err() {
                log::warn!("process {pid:?} of {} does not end", container.id);
            }
        }
        if let Ok(runtime_container) = container.runtime_container()
            && let Err(error) = self.runtime.delete(&runtime_container).await
        {
            log::warn!("undo the creation of {}: {}", container.id, error.report());
        }
    }

    /// Lets a container's init run.
    pub(crate) async fn start_init(self: Rc<Self>, id: &str) -> Result<Pid> {
        let container = self.container(id)?;
        container.init.request(&container.id, Request::Start).await?;
        let started = self.run_init(&container).await;
        match started {
            Ok((pid, watched)) => {
                container.journal_init(Stage::Running, Some(pid));
                self.events.push(Event::Started { container: container.id.clone(), pid });
                // After the event: an exit that is known already waits for this phase.
                container.init.end_job(Job::Start, Outcome::Succeeded);
                self.memory_freed();
                if let Some(watch) = watched {
                    self.follow_init(&container, watch);
                }
                Ok(pid)
            }
            Err(error) => {
                container.init.end_job(Job::Start, Outcome::Failed);
                Err(error)
            }
        }
    }

    async fn run_init(
        self: &Rc<Self>,
        container: &Rc<Container<R::Container>>,
    ) -> Result<(Pid, Option<ExitWatch>)> {
        if let Some(attached) = container.init.attached() {
            attached.begin_input()?;
        }
        let _expecting = reaper::expect();
        let pid = self.runtime.start(&*container.runtime_container()?).await?;
        if container.init.pid() == Some(pid) {
            return Ok((pid, None));
        }
        // The runtime made init's process in start, or replaced the process that create made.
        let handle = self.open_process(pid)?;
        let watch = reaper::watch(&handle);
        container.init.set_handle(Rc::clone(&handle));
        if let Some(attached) = container.init.attached()
            && let Err(error) = attached.ready().await
        {
            // It may have ended by itself.
            let _ = handle.signal(Signal::KILL);
            container.journal_init(Stage::Created, Some(pid));
            // Its exit ends the container: Delete waits for it.
            self.follow_init(container, watch);
            return Err(error);
        }
        Ok((pid, Some(watch)))
    }

    /// Publishes init's exit when it comes: after its start, and after its execs' exits.
    fn follow_init(self: &Rc<Self>, container: &Rc<Container<R::Container>>, watch: ExitWatch) {
        let (shim, container) = (Rc::clone(self), Rc::clone(container));
        let Some(handle) = container.init.handle() else { return };
        tokio::task::spawn_local(async move {
            let exit = watch.await;
            shim.init_exited(&container, &handle, exit).await;
        });
    }

    /// Handles the exit of the process of this handle.
    async fn init_exited(
        &self,
        container: &Container<R::Container>,
        handle: &Rc<ProcessHandle>,
        exit: Exit,
    ) {
        let init = &container.init;
        loop {
            let changed = init.changed();
            // Compared again after each wait: Start may have replaced the process, and then this
            // exit is not init's.
            if !init.has_handle(handle) {
                return;
            }
            match init.apply(Input::Exited) {
                // No request starts a process in the container from here on.
                Ok(Decision::Enter(_)) => break,
                Ok(Decision::Wait) => changed.await,
                Ok(Decision::Stay | Decision::KillFirst | Decision::Ignore) | Err(_) => return,
            }
        }
        // After the loop, because only now it is known to be init's exit.
        container.journal_exit(None, exit);
        if let Ok(runtime_container) = container.runtime_container()
            && tokio::time::timeout(EXIT_TIMEOUT, self.runtime.init_exited(&runtime_container))
                .await
                .is_err()
        {
            log::warn!("the runtime is not done with the exit of {} in time", container.id);
        }
        if tokio::time::timeout(EXIT_TIMEOUT, end_execs(container)).await.is_err() {
            log::warn!("execs of {} do not end", container.id);
        }
        let id = container.id.clone();
        self.events.push(Event::Exited { container: id, exec: None, pid: init.pid(), exit });
        if init.apply(Input::ExitHandled) == Ok(Decision::Enter(Phase::Stopped)) {
            init.set_exit(exit);
        }
        self.container_ended();
    }
}

/// Ends the execs of a container whose init has ended, and waits until their exits are published.
async fn end_execs<C>(container: &Container<C>) {
    for (_, exec) in container.execs() {
        loop {
            let changed = exec.changed();
            match exec.phase() {
                Phase::Starting => {}
                Phase::Running => {
                    if let Some(handle) = exec.handle() {
                        // It may have ended with its init.
                        let _ = handle.signal(Signal::KILL);
                    }
                }
                Phase::Creating
                | Phase::Created
                | Phase::Pausing
                | Phase::Paused
                | Phase::Resuming
                | Phase::Exiting
                | Phase::Stopped
                | Phase::Deleting
                | Phase::Deleted => break,
            }
            changed.await;
        }
    }
}

/// Mounts a container's root file system, on the blocking helper: storage may be slow.
async fn mount_rootfs(bundle: &Bundle, mounts: Vec<Mount>) -> Result<()> {
    let rootfs = bundle.rootfs();
    blocking(move || {
        match mount::make_root(&rootfs) {
            Ok(()) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(Error::io(format!("mkdir {}", rootfs.display()), cause)),
        }
        mount::mount_all(&mounts, &rootfs).map_err(Error::from)
    })
    .await
}

/// Undoes the mounts on a container's root file system.
pub(crate) async fn unmount_rootfs(bundle: &Bundle) -> Result<()> {
    let rootfs = bundle.rootfs();
    blocking(move || mount::unmount(&rootfs).map_err(Error::from)).await
}

/// Runs what may block on the helper thread, which leaves when there is nothing to do.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| {
        Error::new(crate::Kind::Internal, "a blocking call panicked").with_source(cause)
    })?
}
