//! Delete: of a task whose shim lives, of one whose shim died, and of one that is being created.

use std::sync::Arc;

use shim_sdk::error::report;
use shim_sdk::{ContainerId, Exit, Kind};

use super::Deleted;
use super::bundle::Remains;
use super::error::TaskError;
use super::job::{blocking, detached};
use super::lifecycle::{Outcome, Phase, Request, Step};
use super::recovery::remove_fifos;
use super::shim_client::Client;
use super::table::{Task, Tasks};
use crate::events::{Event, TaskEnd};
use crate::metadata::Namespace;

impl Tasks {
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
            let mut phase = task.phases();
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
            // Before the call: a change from now on ends the wait below.
            let mut phase = task.phases();
            let client = task.client()?;
            match client.delete(None).await {
                Ok(deleted) => {
                    self.finish(task, &client, Some(deleted)).await?;
                    return Ok(deleted);
                }
                // The connection closed during the call. The daemon reaches the shim again or cleans up
                // behind it, for which it needs the turn, and announces both.
                Err(error) if error.closed() => {
                    drop(turn);
                    if phase.changed().await.is_err() {
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
        task.record(Outcome::Deleted);
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

    /// Removes the bundle of a task that no client has seen, and gives the id back in any case.
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
}
