//! Deleting: idempotent, and independent of the client that asked.
//!
//! The first Delete does the work; one that comes meanwhile waits for the same work; one that
//! comes later, say because the answer to the first was lost, is answered from memory.

use std::rc::Rc;
use std::time::Duration;

use super::container::{Container, Deleted, not_created};
use super::init::unmount_rootfs;
use super::lifecycle::{Decision, Input, Job, Outcome, Request};
use super::shim::ShimState;
use crate::event::Event;
use crate::journal::Stage;
use crate::runtime::DRAIN;
use crate::{Error, ExecId, Exit, Kind, Result, Runtime, Signal};

/// How long an init that never ran the user's command may take to be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl<R: Runtime> ShimState<R> {
    /// Deletes a container.
    pub(crate) async fn delete_container(self: Rc<Self>, id: &str) -> Result<Deleted> {
        loop {
            let Ok(container) = self.container(id) else {
                return self.deleted(id).ok_or_else(not_created);
            };
            let init = &container.init;
            let changed = init.changed();
            match init.apply(Input::Request(Request::Delete)) {
                Err(refusal) => return Err(refusal.into_error(id)),
                Ok(Decision::Wait) => changed.await,
                Ok(Decision::KillFirst) => kill_created(&container).await?,
                Ok(Decision::Enter(_) | Decision::Stay | Decision::Ignore) => {
                    let deleted = self.remove(&container).await;
                    // A Delete that waits looks up the container again.
                    init.end_job(Job::Delete, Outcome::from(&deleted));
                    return deleted;
                }
            }
        }
    }

    async fn remove(&self, container: &Container<R::Container>) -> Result<Deleted> {
        for (_, exec) in container.execs() {
            if let Some(attached) = exec.detach() {
                attached.drain(Duration::ZERO).await;
            }
        }
        // Kept until the runtime has deleted, so that a failed Delete can be repeated.
        if let Some(attached) = container.init.attached() {
            attached.drain(DRAIN).await;
        }
        let runtime_container = container.runtime_container()?;
        if container.mounted && self.runtime.deletes_without_rootfs(&runtime_container) {
            // In this order: a runtime may keep this thread's processor for itself at once.
            let unmounted = unmount_rootfs(&container.bundle);
            let (unmounted, deleted) =
                tokio::join!(unmounted, self.runtime.delete(&runtime_container));
            deleted.and(unmounted)?;
        } else {
            self.runtime.delete(&runtime_container).await?;
            if container.mounted {
                unmount_rootfs(&container.bundle).await?;
            }
        }
        container.init.detach();
        let deleted = Deleted { pid: container.init.pid(), exit: container.init.exit() };
        container.init.release_waiters();
        container.journal(Stage::Deleted);
        self.forget(&container.id, deleted);
        self.memory_freed();
        let exit = deleted.exit.unwrap_or_else(|| Exit::now(0));
        let id = container.id.clone();
        self.events.push(Event::Deleted { container: id, pid: deleted.pid, exit });
        Ok(deleted)
    }

    /// Deletes an exec.
    pub(crate) async fn delete_exec(self: Rc<Self>, id: &str, exec: &str) -> Result<Deleted> {
        loop {
            let container = self.container(id)?;
            let process = match container.process(Some(exec)) {
                Ok(process) => process,
                Err(error) => return container.deleted_exec(exec).ok_or(error),
            };
            let changed = process.changed();
            match process.apply(Input::Request(Request::Delete)) {
                Err(refusal) => return Err(refusal.into_error(id)),
                Ok(Decision::Wait) => changed.await,
                Ok(
                    Decision::Enter(_) | Decision::Stay | Decision::KillFirst | Decision::Ignore,
                ) => {
                    if let Some(attached) = process.detach() {
                        attached.drain(DRAIN).await;
                    }
                    let deleted = Deleted { pid: process.pid(), exit: process.exit() };
                    process.release_waiters();
                    let exec = ExecId::new(exec)?;
                    if deleted.pid.is_some() {
                        container.journal_exec_deleted(&exec);
                    }
                    container.forget(&exec, deleted);
                    self.memory_freed();
                    // A Delete that waits looks up the exec again, and finds this answer.
                    process.end_job(Job::Delete, Outcome::Succeeded);
                    return Ok(deleted);
                }
            }
        }
    }
}

/// Ends an init that was created and never started, and waits until its exit is published.
async fn kill_created<C>(container: &Container<C>) -> Result<()> {
    if let Some(handle) = container.init.handle() {
        // It may have ended just now.
        let _ = handle.signal(Signal::KILL);
    }
    let exited = tokio::time::timeout(KILL_TIMEOUT, container.init.exited()).await;
    exited.map(drop).map_err(|_| {
        let text = format!("init of {} does not end after SIGKILL", container.id);
        Error::new(Kind::DeadlineExceeded, text)
    })
}
