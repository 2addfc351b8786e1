//! What can be done with tasks, from Create to Delete.
//!
//! Everything that changes a task runs in a job of its own, so that a client that goes away ends
//! its own waiting and nothing else; calls that a shim answers are passed to it as they are.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shim_sdk::error::report;
use shim_sdk::{ContainerId, ExecId, Exit, Kind};

use super::bundle::Remains;
use super::error::TaskError;
use super::lifecycle::{Phase, Request, Step};
use super::recovery::remove_fifos;
use super::shim_client::bootstrap::{Bootstrap, Dialect};
use super::shim_client::{CallError, Client, Shared};
use super::table::{Task, Tasks};
use super::{Create, Deleted, Exec, Process, State, Status, Stdio};
use crate::any::Any;
use crate::events::{Event, TaskEnd};
use crate::metadata::Namespace;

/// How long the shim of a failed Create may take to forget it.
const FORGETTING: Duration = Duration::from_secs(3);
/// How long the shim of a failed Create may take to go before its binary cleans up.
const GOING: Duration = Duration::from_secs(1);

/// Runs to its end even if the caller does not stay.
async fn detached<T: Send + 'static>(
    what: &'static str,
    job: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::spawn(job).await.unwrap_or(Err(TaskError::Interrupted { what }))
}

/// Runs what blocks beside the runtime.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    job: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(TaskError::Interrupted { what }))
}

impl Tasks {
    /// Makes a task, with its init ready to be started; returns init's pid.
    pub(crate) async fn create(
        &self,
        namespace: &Namespace,
        create: Create,
    ) -> Result<u32, TaskError> {
        let shim = self.inner.environment.shim(&create.runtime)?;
        let task = self.reserve(namespace, &create.id)?;
        let _ = task.stdio.set(create.stdio.clone()); // just reserved
        let this = self.clone();
        detached("create", async move {
            let made = tokio::select! {
                made = this.bring_up(&task, shim.clone(), create) => made,
                () = task.abandon.notified() => Err(TaskError::Abandoned { id: task.id.to_string() }),
            };
            match made {
                Ok((client, pid)) => {
                    task.phase.send_replace(Phase::Live);
                    this.watch(task, client);
                    Ok(pid)
                }
                Err(error) => {
                    this.take_down(&task, shim).await;
                    Err(error)
                }
            }
        })
        .await
    }

    async fn bring_up(
        &self,
        task: &Arc<Task>,
        shim: PathBuf,
        create: Create,
    ) -> Result<(Shared, u32), TaskError> {
        let bootstrap = self.launch(task, &shim, &create).await?;
        task.dirs.keep_bootstrap(&bootstrap)?;
        let client = Client::connect(&bootstrap, task.namespace.as_str(), &task.id).await?;
        let client = task.set_client(client);
        let bundle = task.dirs.bundle().display().to_string();
        let pid = client.create(&bundle, &create).await?;
        Ok((client, pid))
    }

    /// Makes the bundle and starts the shim.
    async fn launch(
        &self,
        task: &Arc<Task>,
        shim: &Path,
        create: &Create,
    ) -> Result<Bootstrap, TaskError> {
        let dialect = self.dialect(shim);
        let spawn = |dialect, spec: Option<Vec<u8>>| {
            let (this, task, path) = (self.clone(), task.clone(), shim.to_owned());
            let options = create.options.clone();
            blocking("start of a shim", move || {
                if let Some(spec) = spec {
                    task.dirs.make(&spec, &path)?;
                }
                let environment = &this.inner.environment;
                let told = environment.parameters(&task.namespace, &task.id, options.as_ref());
                task.shim(path).spawn(&told, dialect)
            })
        };
        let starting = spawn(dialect, Some(create.spec.clone())).await?;
        self.drain(task);
        let answer = task.shim(shim.to_owned()).address(starting).await;
        match answer {
            // Shims from before 2.3 take the parameters for options of an unknown type. Nothing
            // has been started when they say so, so they can be asked again in the old way.
            Err(TaskError::ShimFailed { output, .. }) if dialect == Dialect::Parameters => {
                let starting = spawn(Dialect::Options, None).await?;
                match task.shim(shim.to_owned()).address(starting).await {
                    Ok(bootstrap) => {
                        log::info!("{} wants its options the old way: {output}", shim.display());
                        self.remember_legacy(shim);
                        Ok(bootstrap)
                    }
                    // Which of the two it objects to, only its author knows.
                    Err(TaskError::ShimFailed { shim, output: old }) if old != output => {
                        let output = format!("{output}; asked as before containerd 2.3: {old}");
                        Err(TaskError::ShimFailed { shim, output })
                    }
                    Err(error) => Err(error),
                }
            }
            answer => answer,
        }
    }

    /// Begins to take the shim's log.
    pub(super) fn drain(&self, task: &Task) {
        match super::log::drain(&task.dirs.log(), task.name()) {
            Ok(drain) => task.keep_drain(drain),
            Err(error) => log::warn!("the log of {} is lost: {error}", task.name()),
        }
    }

    /// Removes what a Create that failed has left.
    async fn take_down(&self, task: &Arc<Task>, shim: PathBuf) {
        let gone = match task.client() {
            Ok(client) => {
                // The shim may know the task or not; it is told to forget it in either case. One
                // whose runtime hangs does not answer in time.
                let forgot = tokio::time::timeout(FORGETTING, client.delete(None)).await;
                let asked = forgot.is_ok() && client.shut_down().await.is_ok();
                let left = asked && tokio::time::timeout(GOING, client.closed()).await.is_ok();
                if !left {
                    self.force(task, &client).await;
                }
                left
            }
            Err(_) => false,
        };
        if !gone && task.dirs.bundle().exists() {
            let told = self.inner.environment.parameters(&task.namespace, &task.id, None);
            if let Err(error) = task.shim(shim).delete(&told).await {
                log::debug!("clean up behind {}: {}", task.name(), report(&error));
            }
        }
        self.discard_bundle(task).await;
    }

    /// Removes the bundle of what no client was told of, and gives the id back in any case.
    pub(super) async fn discard_bundle(&self, task: &Arc<Task>) {
        if let Err(error) = self.remove(task).await {
            // The next create of this id, or the next start, tries again.
            log::error!("remove {}: {}", task.name(), report(&error));
            self.forget(task);
        }
    }

    /// Removes the bundle, with what is mounted in it, and gives the id back.
    async fn remove(&self, task: &Arc<Task>) -> Result<(), TaskError> {
        let (dirs, stdio) = (task.dirs.clone(), task.stdio.get().cloned());
        let state = self.inner.environment.state.clone();
        let remove = move || {
            dirs.remove()?;
            // A client of ours that lives removes its own.
            stdio.iter().for_each(|stdio| remove_fifos(&state, stdio));
            Ok(())
        };
        blocking("removal of a bundle", remove).await?;
        self.forget(task);
        Ok(())
    }

    /// Starts init or an exec; returns its pid.
    pub(crate) async fn start(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<ExecId>,
    ) -> Result<u32, TaskError> {
        self.drive(namespace, id, |client| async move { client.start(exec.as_ref()).await }).await
    }

    /// Lets the shim do something to a task, to its end.
    async fn drive<T, F>(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        call: impl FnOnce(Shared) -> F,
    ) -> Result<T, TaskError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let (task, _) = self.admit(namespace, id, Request::Drive)?;
        let call = call(task.client()?);
        detached("call of a shim", async move { Ok(call.await?) }).await
    }

    /// Deletes a task that has exited or was never started.
    pub(crate) async fn delete(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Deleted, TaskError> {
        let (task, step) = self.admit(namespace, id, Request::Delete)?;
        if step == Step::Abandon {
            task.abandon.notify_one();
            // Create cleans up behind itself; a container that was made meanwhile is deleted below.
            let mut phase = task.phase.subscribe();
            let _ = phase.wait_for(|phase| *phase != Phase::Starting).await;
        }
        let this = self.clone();
        detached("delete", async move { this.delete_task(&task).await }).await
    }

    async fn delete_task(&self, task: &Arc<Task>) -> Result<Deleted, TaskError> {
        loop {
            let turn = task.turn.lock().await;
            if task.decide(Request::Delete)? == Step::Remove {
                return self.delete_dead(task).await;
            }
            let client = task.client()?;
            match client.delete(None).await {
                Ok(deleted) => {
                    self.finish(task, &client, Some(deleted)).await?;
                    return Ok(deleted);
                }
                // The shim has died under the call: it is buried first, which wants the turn.
                Err(error) if error.closed() => {
                    drop(turn);
                    let mut phase = task.phase.subscribe();
                    if phase.wait_for(|phase| *phase != Phase::Live).await.is_err() {
                        return Err(error.into());
                    }
                }
                // Deleted before, by a daemon that did not live to finish.
                Err(error) if error.kind() == Kind::NotFound => {
                    let record = task.dirs.journal();
                    self.finish(task, &client, None).await?;
                    let init = record.map(|journal| journal.init);
                    let exit = init.as_ref().and_then(|init| init.exit).or(task.told());
                    let exit = exit.ok_or(error)?;
                    let pid = init.and_then(|init| init.pid).map(shim_sdk::Pid::get);
                    return Ok(Deleted { pid, exit });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the shim of a deleted task and removes what remains. What cannot be removed leaves a dead
    /// task, whose Delete tries again: a client is not told that all is gone before it is.
    async fn finish(
        &self,
        task: &Arc<Task>,
        client: &Client,
        deleted: Option<Deleted>,
    ) -> Result<(), TaskError> {
        task.phase.send_replace(Phase::Deleting);
        let (shut, removed) = tokio::join!(client.shut_down(), self.remove(task));
        if removed.is_err() {
            let exit = deleted.map(|deleted| deleted.exit).or(task.told());
            let pid = deleted.and_then(|deleted| deleted.pid);
            task.died(Remains::new(pid, exit.unwrap_or_else(Exit::killed)));
        }
        if let Err(error) = shut
            && !error.closed()
        {
            log::warn!("shut down the shim of {}: {error}", task.name());
        }
        removed
    }

    /// Deletes what a dead shim left; its own event cannot come any more.
    async fn delete_dead(&self, task: &Arc<Task>) -> Result<Deleted, TaskError> {
        let remains = task.remains().unwrap_or_else(|| Remains::new(None, Exit::killed()));
        self.remove(task).await?;
        let end = TaskEnd {
            container_id: task.id.to_string(),
            id: task.id.to_string(),
            pid: remains.pid,
            exit_status: remains.exit.status,
            exited_at: remains.exit.at,
        };
        self.inner.events.publish(&task.namespace, Event::TaskDeleted(end));
        Ok(Deleted { pid: remains.pid, exit: remains.exit })
    }

    /// Deletes an exec that has exited or was never started.
    pub(crate) async fn delete_exec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: ExecId,
    ) -> Result<Deleted, TaskError> {
        let (task, step) = self.admit(namespace, id, Request::Ask)?;
        if step == Step::Recall {
            let exit = dead_exec(&task, &exec)?;
            return Ok(Deleted { pid: None, exit });
        }
        self.drive(namespace, id, |client| async move { client.delete(Some(&exec)).await }).await
    }

    /// What a process does now.
    pub(crate) async fn state(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<State, TaskError> {
        let (task, step) = self.admit(namespace, id, Request::Ask)?;
        state(&task, step, exec).await
    }

    /// What every task does now.
    pub(crate) async fn list(&self, namespace: &Namespace) -> Vec<(ContainerId, State)> {
        // All shims are asked at once: a slow one costs its own two seconds, not everybody's.
        let asked: Vec<_> = self
            .of(namespace)
            .into_iter()
            .map(|task| {
                tokio::spawn(async move {
                    let step = task.decide(Request::Ask).ok()?;
                    Some((task.id.clone(), state(&task, step, None).await.ok()?))
                })
            })
            .collect();
        let mut states = Vec::new();
        for asked in asked {
            states.extend(asked.await.ok().flatten());
        }
        states
    }

    /// Waits for a process to exit.
    pub(crate) async fn wait(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<Exit, TaskError> {
        let (task, _) = self.admit(namespace, id, Request::Ask)?;
        let mut stop = self.inner.stop.subscribe();
        tokio::select! {
            exit = wait(&task, exec) => exit,
            _ = stop.wait_for(|stop| *stop) => Err(TaskError::Stopping),
        }
    }

    /// Signals a process, or all of a container's.
    pub(crate) async fn kill(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<(), TaskError> {
        let (task, _) = self.admit(namespace, id, Request::Signal)?;
        let client = task.client()?;
        let call = async move { Ok(client.kill(exec.as_ref(), signal, all).await?) };
        detached("kill", call).await
    }

    /// Adds a further process, ready to be started.
    pub(crate) async fn exec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Exec,
    ) -> Result<(), TaskError> {
        self.drive(namespace, id, |client| async move { client.exec(&exec).await }).await
    }

    /// Sets the size of a process's terminal.
    pub(crate) async fn resize(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<ExecId>,
        (width, height): (u32, u32),
    ) -> Result<(), TaskError> {
        let call =
            |client: Shared| async move { client.resize(exec.as_ref(), width, height).await };
        self.drive(namespace, id, call).await
    }

    /// Ends the standard input of a process.
    pub(crate) async fn close_stdin(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<ExecId>,
    ) -> Result<(), TaskError> {
        let call = |client: Shared| async move { client.close_stdin(exec.as_ref()).await };
        self.drive(namespace, id, call).await
    }

    /// Freezes a task.
    pub(crate) async fn pause(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), TaskError> {
        self.drive(namespace, id, |client| async move { client.pause().await }).await
    }

    /// Ends a pause.
    pub(crate) async fn resume(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), TaskError> {
        self.drive(namespace, id, |client| async move { client.resume().await }).await
    }

    /// Every process of a task.
    pub(crate) async fn pids(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Vec<Process>, TaskError> {
        self.drive(namespace, id, |client| async move { client.pids().await }).await
    }

    /// Writes a checkpoint to a directory.
    pub(crate) async fn checkpoint(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        path: String,
        options: Option<Any>,
    ) -> Result<(), TaskError> {
        let call = |client: Shared| async move { client.checkpoint(&path, options.as_ref()).await };
        self.drive(namespace, id, call).await
    }

    /// Changes a task's limits.
    pub(crate) async fn update(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        resources: Option<Any>,
        annotations: HashMap<String, String>,
    ) -> Result<(), TaskError> {
        let call =
            |client: Shared| async move { client.update(resources.as_ref(), annotations).await };
        self.drive(namespace, id, call).await
    }

    /// Statistics of the tasks that `wanted` accepts; those that have none are left out.
    pub(crate) async fn stats(
        &self,
        namespace: &Namespace,
        wanted: impl Fn(&ContainerId) -> bool,
    ) -> Vec<(ContainerId, Any)> {
        let asked: Vec<_> = self
            .of(namespace)
            .into_iter()
            .filter(|task| wanted(&task.id))
            .map(|task| {
                tokio::spawn(async move {
                    let stats = match task.client() {
                        Ok(client) => client.stats().await.map_err(TaskError::from),
                        Err(error) => Err(error),
                    };
                    stats
                        .map(|stats| (task.id.clone(), stats))
                        .inspect_err(|error| log::debug!("stats of {}: {error}", task.name()))
                        .ok()
                })
            })
            .collect();
        let mut stats = Vec::new();
        for asked in asked {
            stats.extend(asked.await.ok().flatten());
        }
        stats
    }

    /// What the shim of a runtime says of itself: an encoded `RuntimeInfo`.
    pub(crate) async fn runtime_info(
        &self,
        runtime: &str,
        options: Option<Any>,
    ) -> Result<Vec<u8>, TaskError> {
        let path = self.inner.environment.shim(runtime)?;
        super::shim_command::Shim::info(path, options).await
    }

    /// Buries the task's shim when its connection closes without having been told to.
    pub(super) fn watch(&self, task: Arc<Task>, client: Shared) {
        let this = self.clone();
        tokio::spawn(async move {
            client.closed().await;
            drop(client);
            this.crashed(&task).await;
        });
    }

    /// The connection to a shim has closed: reaches it again, or cleans up behind it.
    pub(super) async fn crashed(&self, task: &Arc<Task>) {
        let _turn = task.turn.lock().await;
        if task.decide(Request::Crash).ok() != Some(Step::Bury) {
            return;
        }
        task.drop_client();
        if let Some(bootstrap) = task.dirs.bootstrap()
            && let Ok(client) = Client::connect(&bootstrap, task.namespace.as_str(), &task.id).await
            && client.probe().await.is_ok()
        {
            log::warn!("the shim of {} had closed its connection", task.name());
            let client = task.set_client(client);
            self.watch(task.clone(), client);
            return;
        }
        self.bury(task).await;
    }

    /// Cleans up behind a dead shim and keeps, and tells once, the exit of its task.
    pub(super) async fn bury(&self, task: &Arc<Task>) {
        // Read before the shim's binary cleans up.
        let init = task.dirs.journal().map(|journal| journal.init);
        let told = self.inner.environment.parameters(&task.namespace, &task.id, None);
        let cleaned = match task.dirs.shim() {
            Some(path) => task.shim(path).delete(&told).await,
            None => Err(TaskError::NotFound { id: task.id.to_string() }),
        };
        if let Err(error) = &cleaned {
            log::error!("clean up behind the shim of {}: {}", task.name(), report(error));
        }
        let journaled = init.as_ref().and_then(|init| init.exit);
        let answered = cleaned.ok();
        let exit = journaled.or(task.told()).or(answered.map(|answer| answer.exit));
        let exit = exit.unwrap_or_else(Exit::killed);
        let pid = init.and_then(|init| init.pid).map(shim_sdk::Pid::get);
        let pid = pid.or(answered.and_then(|answer| answer.pid));
        log::warn!("the shim of {} is gone; exit status {}", task.name(), exit.status);
        let remains = Remains::new(pid, exit);
        // Kept before it is told: after a crash in between it is told again, never lost.
        if let Err(error) = task.dirs.keep_remains(remains) {
            log::error!("keep the exit of {}: {}", task.name(), report(&error));
        }
        if let Some(bootstrap) = task.dirs.bootstrap() {
            remove_stale_socket(&bootstrap);
        }
        let heard = task.told().is_some();
        task.died(remains);
        if !heard {
            let end = TaskEnd {
                container_id: task.id.to_string(),
                id: task.id.to_string(),
                pid,
                exit_status: exit.status,
                exited_at: exit.at,
            };
            self.inner.events.publish(&task.namespace, Event::TaskExited(end));
        }
    }
}

/// Removes the socket of a shim that is gone.
fn remove_stale_socket(bootstrap: &Bootstrap) {
    use std::os::unix::net::UnixStream;
    let Some(path) = shim_sdk::address::unix_path(&bootstrap.address) else { return };
    // Another task of the same group may have started a new shim on it.
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    if UnixStream::connect(path).is_err_and(refused) {
        // Whoever was faster has done the same.
        let _ = std::fs::remove_file(path);
    }
}

async fn state(task: &Task, step: Step, exec: Option<&ExecId>) -> Result<State, TaskError> {
    if step == Step::Recall {
        let exit = recall(task, exec)?;
        let pid = task.remains().and_then(|remains| remains.pid).filter(|_| exec.is_none());
        let stdio = Stdio::default();
        return Ok(State { pid, status: Status::Stopped, stdio, exit: Some(exit) });
    }
    match task.client()?.state(exec).await {
        Ok(state) => Ok(state),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unavailable) => {
            Err(error.into())
        }
        // It is there, and does not say how it is; clients are shown just that.
        Err(error) => {
            log::warn!("state of {}: {error}", task.name());
            let (status, stdio) = (Status::Unknown, Stdio::default());
            Ok(State { pid: None, status, stdio, exit: None })
        }
    }
}

async fn wait(task: &Task, exec: Option<&ExecId>) -> Result<Exit, TaskError> {
    let mut phase = task.phase.subscribe();
    loop {
        match task.decide(Request::Ask)? {
            Step::Recall => return recall(task, exec),
            _ => match task.client() {
                Ok(client) => match client.wait(exec).await {
                    Err(error) if error.closed() => {}
                    answer => return Ok(answer?),
                },
                Err(_recovering) => {}
            },
        }
        // Either the shim is reached again, which tells nobody, or it is buried.
        let changed = phase.wait_for(|phase| *phase != Phase::Live);
        let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
    }
}

/// The exit of a process of a dead task.
fn recall(task: &Task, exec: Option<&ExecId>) -> Result<Exit, TaskError> {
    match exec {
        Some(exec) => dead_exec(task, exec),
        None => Ok(task.remains().map_or_else(Exit::killed, |remains| remains.exit)),
    }
}

/// The exit of an exec of a dead task: journaled, or the one that the whole task died of.
fn dead_exec(task: &Task, exec: &ExecId) -> Result<Exit, TaskError> {
    let journal = task.dirs.journal();
    let record = journal.as_ref().and_then(|journal| journal.execs.get(exec));
    let not_found = || TaskError::ExecNotFound { id: task.id.to_string(), exec: exec.to_string() };
    let died = || Exit {
        status: Exit::KILLED,
        at: task.remains().map_or_else(std::time::SystemTime::now, |remains| remains.exit.at),
    };
    record.map(|record| record.exit.unwrap_or_else(died)).ok_or_else(not_found)
}
