//! Implements the SDK's trait [`Runtime`]: creates containers with the engine that the options select.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use shim_sdk::{
    Bundle, Capabilities, Checkpoint, ContainerId, Create, Created, Description, Exec, Io, Launch,
    Payload, Pid, ProcessHandle, Result, Role, Runtime, Signal,
};

use crate::cgroup;
use crate::container::Container;
use crate::create_lock;
use crate::engine::libcontainer::{self, Libcontainer};
use crate::engine::runc::{self, Runc};
use crate::engine::{AnyEngine, Engine, EngineRoot, EngineSelection};
use crate::error::{EngineError, Input};
use crate::options::Options;

/// The shim: its default engine, and the libcontainer engines that its containers share.
#[derive(Debug)]
pub(crate) struct Shim {
    default: EngineSelection,
    namespace: String,
    features: Option<serde_json::Value>,
    /// One engine per state directory. Nearly always all containers have the same one.
    libcontainers: RefCell<HashMap<PathBuf, Rc<Libcontainer>>>,
    /// Started before the first request, whose options may name another state directory.
    prepared: RefCell<Option<Libcontainer>>,
}

impl Shim {
    /// The shim that was started under the name `argv0`.
    pub(crate) fn new(argv0: &OsStr, launch: &Launch) -> Result<Self> {
        let default = EngineSelection::of_shim(argv0);
        let features = match launch.role {
            Role::Describe => {
                let options = Options::from_payload(launch.options.as_ref())?;
                match default.with_options(&options) {
                    EngineSelection::Program(program) => runc::features(&program),
                    EngineSelection::Libcontainer => Some(libcontainer::features()),
                }
            }
            Role::Start | Role::Serve | Role::Delete => None,
        };
        let shim = Self {
            default,
            namespace: launch.namespace.clone(),
            features,
            libcontainers: RefCell::default(),
            prepared: RefCell::default(),
        };
        if launch.role == Role::Serve {
            shim.prepare(launch);
        }
        Ok(shim)
    }

    /// Starts the libcontainer helper while the daemon connects, if the options of `start` select
    /// libcontainer. The options of Create may differ; a helper that is not used exits by itself.
    fn prepare(&self, launch: &Launch) {
        // An error in the options is returned by Create, which has them too.
        let options = Options::from_payload(launch.options.as_ref()).unwrap_or_default();
        let selection = self.default.with_options(&options);
        if selection != EngineSelection::Libcontainer {
            return;
        }
        let EngineRoot(root) = selection.state_directory(&options, &self.namespace);
        let engine = Libcontainer::new(root);
        let first = launch.id.as_ref().zip(launch.bundle.as_ref());
        engine.prepare(first.map(|(id, bundle)| (id.as_str(), bundle.path())));
        self.prepared.replace(Some(engine));
    }

    fn engine(&self, options: &Options, namespace: &str, bundle: &Path) -> AnyEngine {
        let selection = self.default.with_options(options);
        let root = selection.state_directory(options, namespace);
        match selection {
            EngineSelection::Program(program) => {
                AnyEngine::Runc(Runc::new(program, root, bundle.to_owned(), options.systemd_cgroup))
            }
            EngineSelection::Libcontainer => AnyEngine::Libcontainer(self.libcontainer(root)),
        }
    }

    fn libcontainer(&self, EngineRoot(root): EngineRoot) -> Rc<Libcontainer> {
        let mut all = self.libcontainers.borrow_mut();
        let made = all.entry(root.clone()).or_insert_with(|| match self.prepared.take() {
            Some(engine) => Rc::new(engine.rooted(root)),
            None => Rc::new(Libcontainer::new(root)),
        });
        Rc::clone(made)
    }
}

impl Runtime for Shim {
    type Container = Container;

    fn describe(&self) -> Description {
        let in_process = self.default == EngineSelection::Libcontainer;
        Description {
            name: if in_process { "youki" } else { "runc" },
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("SHIM_REVISION").unwrap_or("unknown"),
            capabilities: Capabilities {
                pause: true,
                stats: true,
                update: true,
                // The options may select another engine than the default. An engine without
                // checkpoints refuses them itself.
                checkpoint: true,
                terminal: true,
            },
            features: self.features.clone(),
        }
    }

    async fn create(&self, request: Create, io: Io) -> Result<Created<Container>> {
        let options = Options::from_payload(request.options.as_ref())?;
        let bundle = request.bundle.path();
        let engine = self.engine(&options, &request.namespace, bundle);
        if options.systemd_cgroup && matches!(engine, AnyEngine::Libcontainer(_)) {
            // Not ignored: systemd would remove cgroups that it did not create.
            return Err(EngineError::malformed(
                Input::SystemdCgroup,
                "libcontainer is built without systemd and makes cgroups itself; \
                          leave the option unset, or choose runc or crun as BinaryName",
            )
            .into());
        }
        match request.checkpoint {
            Some(checkpoint) => {
                let container = Container::from_checkpoint(
                    request.id,
                    bundle,
                    &checkpoint,
                    options,
                    engine,
                    request.notifier,
                    io,
                )?;
                Ok(Created { container, pid: None })
            }
            None => {
                let (container, pid) =
                    Container::create(request.id, bundle, options, engine, request.notifier, io)
                        .await?;
                Ok(Created { container, pid: Some(pid) })
            }
        }
    }

    async fn start(&self, container: &Container) -> Result<Pid> {
        Ok(container.start().await?)
    }

    async fn exec(&self, container: &Container, request: Exec, io: Io) -> Result<Pid> {
        Ok(container.exec(request, io).await?)
    }

    async fn delete(&self, container: &Container) -> Result<()> {
        Ok(container.delete().await?)
    }

    fn deletes_without_rootfs(&self, container: &Container) -> bool {
        container.deletes_without_rootfs()
    }

    async fn clean_up(&self, id: &ContainerId, bundle: &Bundle) -> Result<()> {
        let options = Options::read(bundle.path())?;
        let engine = self.engine(&options, &self.namespace, bundle.path());
        let remove = async || {
            let deleted = engine.delete(id, true).await;
            // A runtime that was killed early has created cgroups and no state. libcontainer's
            // helper writes its state first.
            let removed = match &engine {
                AnyEngine::Runc(_) => cgroup::remove::remains(bundle.path(), id).await,
                AnyEngine::Libcontainer(_) => Ok(()),
            };
            deleted.and(removed)
        };
        let mut removed = remove().await;
        if create_lock::ended(bundle.path()).await {
            removed = remove().await;
        }
        Ok(removed?)
    }

    async fn signal(
        &self,
        container: &Container,
        process: &ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        container.signal(process, signal)
    }

    async fn signal_all(
        &self,
        container: &Container,
        init: &ProcessHandle,
        signal: Signal,
    ) -> Result<()> {
        container.signal_all(init, signal).await
    }

    async fn init_exited(&self, container: &Container) {
        container.init_exited().await;
    }

    async fn pause(&self, container: &Container) -> Result<()> {
        Ok(container.pause().await?)
    }

    async fn resume(&self, container: &Container) -> Result<()> {
        Ok(container.resume().await?)
    }

    async fn pids(&self, container: &Container) -> Result<Option<Vec<Pid>>> {
        Ok(container.pids()?)
    }

    async fn stats(&self, container: &Container) -> Result<Payload> {
        Ok(container.stats()?)
    }

    async fn update(&self, container: &Container, resources: Payload) -> Result<()> {
        Ok(container.update(&resources).await?)
    }

    async fn checkpoint(&self, container: &Container, request: Checkpoint) -> Result<()> {
        Ok(container.checkpoint(&request).await?)
    }
}
