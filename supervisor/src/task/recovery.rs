//! Finds, at start, the tasks that an earlier daemon left: adopts the living, buries the dead.
//!
//! Promise: every bundle ends up as a task that clients see, or is removed because its Create had
//! never answered; all at once, and one bad shim delays the start by no more than [`PATIENCE`]. A
//! bundle that cannot be understood is left as it is.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use installer::remove::remove_tree;
use nix::fcntl::{Flock, FlockArg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shim_sdk::error::report;
use shim_sdk::journal::Stage;
use shim_sdk::{ContainerId, Kind};

use super::lifecycle::Outcome;
use super::shim_client::Client;
use super::shim_client::bootstrap::Bootstrap;
use super::table::{Task, Tasks};
use super::{Stdio, bundle};
use crate::config::fifo_directory;
use crate::metadata::Namespace;

/// How long the start waits for shims to be reached; what is not done then goes on beside it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a killed shim may take to be gone.
const ENDING: Duration = Duration::from_secs(5);

/// What is found for a bundle.
enum Found {
    /// The shim answers, and knows the task, whose streams go here.
    Living(Client, Stdio),
    /// There is no shim.
    Dead,
    /// The task was never made, or is deleted; a shim may still be there.
    Leftover(Option<Client>),
}

impl Tasks {
    /// Adopts what is there and, with `sweep`, removes the work directories of no task. Call once,
    /// before clients come in.
    pub(crate) async fn recover(&self, sweep: bool) {
        let environment = &self.inner.environment;
        let found: Vec<_> = bundle::all(&environment.state).collect();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let adopted: Vec<_> = found
            .into_iter()
            .map(|(namespace, id)| {
                let (this, kept) = (self.clone(), kept.clone());
                tokio::spawn(async move { this.adopt(namespace, id, &kept).await })
            })
            .collect();
        let all = async {
            for adopted in adopted {
                if let Err(error) = adopted.await {
                    log::error!("adopt: {error}");
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            log::warn!("some shims are slow to answer; going on without them for now");
        } else {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            sweep_fifos(&fifo_directory(&environment.state), &kept);
        }
        if sweep {
            let orphans = bundle::sweep_work(&environment.root, &environment.state);
            // They can be of any size; no client waits for that.
            if !orphans.is_empty() {
                tokio::task::spawn_blocking(move || bundle::remove_orphans(&orphans));
            }
        }
        self.sweep_sockets();
    }

    async fn adopt(&self, namespace: Namespace, id: ContainerId, kept: &Mutex<Vec<Stdio>>) {
        let Ok(task) = self.reserve(&namespace, &id) else { return };
        if let Some(remains) = task.dirs.remains() {
            task.died(remains);
            return;
        }
        let found = match task.dirs.bootstrap() {
            Some(bootstrap) => self.look(&task, &bootstrap).await,
            None => {
                // Create had not come so far as to write the address down, but a shim may listen.
                let socket = self.inner.environment.shim_socket(&namespace, &id);
                let client = match socket.map(|path| Bootstrap {
                    version: 3,
                    address: shim_sdk::address::unix(&path),
                    protocol: "ttrpc".to_owned(),
                }) {
                    Some(bootstrap) => {
                        Client::connect(&bootstrap, namespace.as_str(), &id).await.ok()
                    }
                    None => None,
                };
                if task.dirs.has_bootstrap() {
                    // The task was made. A shim that answers where ours do is its own; any other
                    // may run all the same, so neither it nor the bundle is touched.
                    let Some(client) = client else {
                        log::error!(
                            "{}: bootstrap.json cannot be read, so its shim is not known: left as \
                             it is, and its id stays taken",
                            task.dirs.bundle().display()
                        );
                        return;
                    };
                    Found::Living(client, Stdio::default())
                } else {
                    Found::Leftover(client)
                }
            }
        };
        match found {
            Found::Living(client, stdio) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(stdio.clone());
                let _ = task.stdio.set(stdio); // this task was reserved here
                let client = task.set_client(client);
                self.drain(&task);
                task.record(Outcome::Created);
                log::info!("adopted {}", task.name());
                self.watch(task, client);
            }
            Found::Dead => {
                // Clients see it from now on; their requests wait until the cleanup is over.
                task.record(Outcome::Created);
                let _turn = task.turn.lock().await;
                self.clean_up_after(&task).await;
            }
            Found::Leftover(client) => self.discard(&task, client).await,
        }
    }

    /// Asks the shim of a bundle whether it knows the task.
    async fn look(&self, task: &Task, bootstrap: &Bootstrap) -> Found {
        let client = match Client::connect(bootstrap, task.namespace.as_str(), &task.id).await {
            Ok(client) => client,
            Err(error) => {
                log::info!("the shim of {} is gone: {}", task.name(), report(&error));
                let stage = task.dirs.journal().map(|journal| journal.stage);
                return match stage {
                    Some(Stage::Creating | Stage::Deleted) => Found::Leftover(None),
                    Some(Stage::Created | Stage::Running | Stage::Stopped) | None => Found::Dead,
                };
            }
        };
        match client.state(None).await {
            Err(error) if error.closed() => Found::Dead,
            Err(error) if error.kind() == Kind::NotFound => Found::Leftover(Some(client)),
            // A shim that is slow, or stopped, still holds its container.
            answer => Found::Living(client, answer.map(|state| state.stdio).unwrap_or_default()),
        }
    }

    /// Removes what no client has been told of, or has deleted already.
    async fn discard(&self, task: &Arc<Task>, client: Option<Client>) {
        log::info!("removing what is left of {}", task.name());
        let deleted = task.dirs.journal().is_some_and(|journal| journal.stage == Stage::Deleted);
        match &client {
            // It refuses where it has other containers.
            Some(client) if deleted => {
                if let Err(error) = client.shut_down().await {
                    log::debug!("shut down the shim of {}: {error}", task.name());
                }
            }
            Some(client) => self.force(task, client).await,
            None => {}
        }
        if let Some(path) = task.dirs.shim() {
            let told = self.inner.environment.parameters(&task.namespace, &task.id, None);
            if let Err(error) = task.shim(path).delete(&told).await {
                log::warn!("clean up {}: {}", task.name(), report(&error));
            }
        }
        self.discard_bundle(task).await;
    }

    /// Has a shim let go of a task that it is making, by ending the shim if it has no other.
    pub(super) async fn force(&self, task: &Task, client: &Client) {
        if self.shares_its_shim(task) {
            undo(client).await;
        } else {
            end(client).await;
        }
    }

    /// Whether another task's bundle names the same shim, as those of a pod do.
    fn shares_its_shim(&self, task: &Task) -> bool {
        let Some(own) = task.dirs.bootstrap() else { return false };
        let environment = &self.inner.environment;
        bundle::all(&environment.state)
            .filter(|(namespace, id)| (namespace, id) != (&task.namespace, &task.id))
            .map(|(namespace, id)| {
                bundle::Dirs::of(&environment.root, &environment.state, &namespace, &id)
            })
            .any(|dirs| dirs.bootstrap().is_some_and(|other| other.address == own.address))
    }

    /// Removes the sockets of shims that are gone. No shim is being started at this time.
    fn sweep_sockets(&self) {
        let Some(directory) = &self.inner.environment.socket_dir else { return };
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let refused =
                |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
            if UnixStream::connect(&path).is_err_and(refused) {
                log::debug!("removing the stale socket {}", path.display());
                // Another process may have removed it first.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

/// Ends a shim that no client has been told of. It is not asked to: in the middle of a create it
/// would have to refuse, and never remove the container.
async fn end(client: &Client) {
    let Ok(Some(pid)) = client.server().await else { return };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(shim) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // It answers after its pidfd was opened, so the pidfd is its own.
    if client.server().await.is_err() {
        return;
    }
    if let Err(error) = pidfd_send_signal(&shim, Signal::KILL) {
        log::debug!("kill shim {pid:?}: {error}");
    }
    let _ = tokio::time::timeout(ENDING, client.closed()).await;
}

/// Deletes the container that a shim with others may still be creating: waits a little for the
/// creation to end, since nothing can be told to the container before.
async fn undo(client: &Client) {
    let deadline = tokio::time::Instant::now() + ENDING;
    while tokio::time::Instant::now() < deadline {
        // A container that was never started is killed by its delete; another one is killed first.
        match client.delete(None).await {
            Ok(_) => return,
            Err(error) if error.closed() => return,
            Err(_) => {
                // Not there yet, or ended already.
                let _ = client.kill(None, Signal::KILL.as_raw().cast_unsigned(), true).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Removes the fifos of clients that are gone, except those that a task still has its streams on.
///
/// A client of ours keeps each directory of fifos locked (flock, shared) as long as it lives.
fn sweep_fifos(fifos: &Path, kept: &[Stdio]) {
    for entry in std::fs::read_dir(fifos).into_iter().flatten().flatten() {
        let path = entry.path();
        let within = |stream: &String| Path::new(stream).starts_with(&path);
        if kept.iter().any(|io| [&io.stdin, &io.stdout, &io.stderr].into_iter().any(within)) {
            continue;
        }
        remove_unlocked(&path);
    }
}

/// Removes the directory of fifos that a task had its streams on, once its client is gone.
pub(super) fn remove_fifos(state: &Path, stdio: &Stdio) {
    let fifos = fifo_directory(state);
    for stream in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        if let Some(directory) = Path::new(stream).parent()
            && directory.parent() == Some(&fifos)
        {
            remove_unlocked(directory);
        }
    }
}

fn remove_unlocked(directory: &Path) {
    let locked = File::open(directory)
        .map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
        .unwrap_or(true);
    if !locked && let Err(error) = remove_tree(directory) {
        log::warn!("remove the fifos in {}: {error}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifos_are_swept_once_neither_a_client_nor_a_task_has_them() {
        let fifos = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = fifos.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("stdout"), "").unwrap();
            path
        };
        let (gone, task, client) = (make("gone"), make("task"), make("client"));
        let stdout = task.join("stdout").display().to_string();
        let lock = Flock::lock(File::open(&client).unwrap(), FlockArg::LockSharedNonblock).unwrap();
        let kept = [Stdio { stdout, ..Stdio::default() }];
        sweep_fifos(fifos.path(), &kept);
        assert!(!gone.exists() && task.exists() && client.exists());
        drop(lock);
        sweep_fifos(fifos.path(), &[]);
        assert!(!task.exists() && !client.exists());
    }
}
