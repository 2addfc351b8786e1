//! What clients ask of a task that exists. Create and Delete have files of their own.
//!
//! Everything that changes a task runs in a job of its own, so that a client that goes away ends
//! its own waiting and nothing else; calls that a shim answers are passed to it as they are.

use std::collections::HashMap;
use std::future::Future;

use shim_sdk::error::report;
use shim_sdk::{ContainerId, ExecId, Exit, Kind};

use super::error::TaskError;
use super::job::detached;
use super::lifecycle::{Request, Step};
use super::shim_client::{CallError, Shared};
use super::table::{Task, Tasks};
use super::{Deleted, Exec, Process, State, Status, Stdio};
use crate::any::Any;
use crate::metadata::Namespace;

impl Tasks {
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
                        .inspect_err(|error| {
                            log::debug!("stats of {}: {}", task.name(), report(error))
                        })
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
    let mut phase = task.phases();
    loop {
        // Before anything is looked at: a change from now on ends the wait below.
        phase.borrow_and_update();
        if task.decide(Request::Ask)? == Step::Recall {
            return recall(task, exec);
        }
        match task.client() {
            Ok(client) => match client.wait(exec).await {
                Err(error) if error.closed() => {}
                answer => return Ok(answer?),
            },
            Err(_recovering) => {}
        }
        // The connection has closed: the daemon reaches the shim again, or cleans up behind it and
        // keeps the exit. It announces both.
        let _ = phase.changed().await;
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
