//! Create: a bundle, a shim, a task in it; and what removes them again when one of these fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shim_sdk::error::report;

use super::Create;
use super::error::TaskError;
use super::job::{blocking, detached};
use super::lifecycle::Outcome;
use super::shim_client::bootstrap::{Bootstrap, Dialect};
use super::shim_client::{Client, Shared};
use super::table::{Task, Tasks};
use crate::metadata::Namespace;

/// How long the shim of a failed Create may take to forget it.
const FORGETTING: Duration = Duration::from_secs(3);
/// How long the shim of a failed Create may take to go before its binary cleans up.
const GOING: Duration = Duration::from_secs(1);

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
                    task.record(Outcome::Created);
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
                // The shim may know the task or not; Delete is sent in either case. A shim
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
}
