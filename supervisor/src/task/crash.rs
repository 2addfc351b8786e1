//! A shim whose connection closes: the daemon reaches it again, or cleans up after it.

use std::sync::Arc;

use shim_sdk::Exit;
use shim_sdk::error::report;

use super::bundle::Remains;
use super::error::TaskError;
use super::lifecycle::{Outcome, Step};
use super::shim_client::bootstrap::Bootstrap;
use super::shim_client::{Client, Shared};
use super::table::{Task, Tasks};
use crate::events::{Event, TaskEnd};

impl Tasks {
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
        if task.record(Outcome::Disconnected) != Step::Reconnect {
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
        self.clean_up_after(task).await;
    }

    /// Cleans up behind a dead shim and keeps, and tells once, the exit of its task.
    pub(super) async fn clean_up_after(&self, task: &Arc<Task>) {
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
        // Kept before it is published: after a crash in between it is published again, never lost.
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
        // Another process may have removed it first.
        let _ = std::fs::remove_file(path);
    }
}
