//! Everything the services translate to, opened in the order in which it depends on each other.

use std::io;
use std::path::Path;
use std::sync::Arc;

use shim_sdk::error::report;
use tokio::sync::Notify;

use crate::check::Checker;
use crate::config::DaemonConfig;
use crate::container::Containers;
use crate::content::Store;
use crate::error::DaemonError;
use crate::events::Bus;
use crate::gc::Collector;
use crate::image::Images;
use crate::install::Installer;
use crate::lease::Leases;
use crate::metadata::{self, Database, RootFiles, RootId, Unusable};
use crate::namespace::Namespaces;
use crate::snapshot::{self, Snapshotter};
use crate::task::{self, ShimEnvironment, Tasks};
use crate::transfer::{self, Importer};

/// Where, in the state directory, the database is that stands in for one that cannot be used.
const PROVISIONAL: &str = "provisional";

/// The domain of one root; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Domain {
    pub(crate) config: DaemonConfig,
    /// Tells this root from every other.
    pub(crate) uuid: String,
    id: RootId,
    pub(crate) events: Bus,
    pub(crate) namespaces: Namespaces,
    pub(crate) content: Store,
    pub(crate) images: Images,
    pub(crate) containers: Containers,
    pub(crate) snapshots: Snapshotter,
    pub(crate) leases: Leases,
    pub(crate) collector: Collector,
    pub(crate) tasks: Tasks,
    pub(crate) installer: Installer,
    /// The records of this root or, where those cannot be used, a database of its own.
    pub(crate) database: Database,
    /// Why the root's own database is not used.
    pub(crate) unusable: Option<Arc<Unusable>>,
    /// Told when the root has another database, and is to be opened anew.
    pub(crate) reopen: Arc<Notify>,
}

impl Domain {
    /// What imports images into this domain.
    pub(crate) fn importer(&self) -> Importer {
        Importer {
            content: self.content.clone(),
            snapshots: self.snapshots.clone(),
            images: self.images.clone(),
            leases: self.leases.clone(),
            collector: self.collector.clone(),
        }
    }

    /// Opens the root, whose lock the caller holds. A root whose database cannot be used is opened on
    /// one that is empty but for the containers that bundles tell of, and nothing of it is swept.
    pub(crate) fn open(config: &DaemonConfig) -> Result<Self, DaemonError> {
        let (root, events) = (&config.root, Bus::new());
        let files = RootFiles { root: root.clone() };
        let id = identify(root)?;
        let opened = metadata::verify_and_open(&files, &id)
            .map_err(|error| DaemonError::Open { what: "metadata", cause: error.into() })?;
        let (database, uuid, unusable) = match opened {
            Ok((database, uuid)) => (database, uuid, None),
            Err(unusable) => {
                log::error!("{}", refusal(&files, &unusable));
                (provisional(&config.state)?, id.as_str().to_owned(), Some(unusable))
            }
        };
        if unusable.is_none() {
            keep_id(root, &uuid);
            // Of a daemon that had no database to use. One that stays does no harm.
            let _ = std::fs::remove_dir_all(config.state.join(PROVISIONAL));
        }
        let leases = Leases::new(database.clone());
        let content = Store::open(root, database.clone())
            .map_err(|error| DaemonError::Open { what: "content", cause: error.into() })?;
        let snapshots = Snapshotter::open(root, database.clone(), events.clone())
            .map_err(|error| DaemonError::Open { what: "snapshots", cause: error.into() })?;
        let containers = Containers::new(database.clone(), events.clone());
        let collector = Collector::new(database.clone(), content.clone(), snapshots.clone());
        if unusable.is_none() {
            sweep(&leases, &content, &snapshots);
            // Whatever an earlier daemon had no time for.
            collector.schedule();
        } else {
            for container in task::containers_of_bundles(&config.state) {
                let id = container.1.id.clone();
                if let Err(error) = containers.restore(container) {
                    // Its task can be listed all the same.
                    log::warn!("container {id} of a bundle: {}", report(&error));
                }
            }
        }
        // Other clients (`ctr install`) write below it themselves and expect it to be there.
        if let Err(why) = std::fs::create_dir_all(&config.opt) {
            log::warn!("mkdir({}): {why}; nothing can be installed", config.opt.display());
        }
        let managed = installer::ManagedDirectory::new(&config.opt);
        let images = Images::new(database.clone(), events.clone());
        Ok(Self {
            config: config.clone(),
            uuid,
            id,
            namespaces: Namespaces::new(database.clone()),
            installer: Installer::new(managed, images.clone(), content.clone()),
            images,
            containers,
            leases,
            collector,
            content,
            snapshots,
            tasks: Tasks::new(ShimEnvironment::new(config), events.clone()),
            events,
            database,
            unusable: unusable.map(Arc::new),
            reopen: Arc::default(),
        })
    }

    /// What checks this root.
    pub(crate) fn checker(&self) -> Checker {
        let directories = (self.config.root.clone(), self.config.state.clone());
        let (database, unusable) = (self.database.clone(), self.unusable.clone());
        Checker::new(directories, self.id.clone(), database, unusable, self.reopen.clone())
    }

    /// What requests that need the records are refused with, when the records cannot be used.
    pub(crate) fn refusal(&self) -> Option<Arc<str>> {
        let files = RootFiles { root: self.config.root.clone() };
        self.unusable.as_ref().map(|unusable| refusal(&files, unusable).into())
    }

    /// Ends the use of the root in order. Blocks.
    pub(crate) fn leave(&self) {
        if self.unusable.is_none() {
            let files = RootFiles { root: self.config.root.clone() };
            metadata::leave(&self.database, &files, &self.uuid);
        }
    }
}

/// What was found instead of the database, and how to go on.
fn refusal(files: &RootFiles, unusable: &Unusable) -> String {
    format!(
        "the database {} is not used: {unusable}. Nothing is changed or removed. Containers that run \
         can be listed, killed and removed. To go on: {}",
        files.database().display(),
        unusable.advice()
    )
}

/// Removes what the last daemon left half done. What fails is logged, and stays for the next start.
/// Must be called within the runtime.
fn sweep(leases: &Leases, content: &Store, snapshots: &Snapshotter) {
    if let Err(error) = transfer::end_orphans(leases) {
        log::warn!("end the leases of unfinished imports: {}", report(&error));
    }
    if let Err(error) = content.sweep() {
        log::warn!("sweep content: {}", report(&error));
    }
    match snapshots.sweep() {
        // A tree of a container's can be of any size: no client waits for it, and what is not
        // removed when this daemon leaves is found by the next.
        Ok(orphans) if !orphans.is_empty() => {
            tokio::task::spawn_blocking(move || snapshot::remove_orphans(&orphans));
        }
        Ok(_) => {}
        Err(error) => log::warn!("sweep snapshots: {}", report(&error)),
    }
}

/// A database of its own, made anew in the state directory, for a root whose own cannot be used.
fn provisional(state: &Path) -> Result<Database, DaemonError> {
    let folder = state.join(PROVISIONAL);
    match std::fs::remove_dir_all(&folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            return Err(DaemonError::File { what: "remove", path: folder, cause });
        }
        _ => {}
    }
    Database::open(folder.join("metadata.db"))
        .map_err(|error| DaemonError::Open { what: "metadata", cause: error.into() })
}

/// The root's own identifier.
fn identify(root: &Path) -> Result<RootId, DaemonError> {
    let path = root.join("uuid");
    let failed = |cause| DaemonError::File { what: "read the identifier in", path, cause };
    match std::fs::read_to_string(root.join("uuid")) {
        Ok(text) if !text.trim().is_empty() => return Ok(RootId::Known(text.trim().to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    if let Some(id) = metadata::marked_id(root) {
        return Ok(RootId::Known(id));
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed)?;
    Ok(RootId::New(text.trim().to_owned()))
}

/// Writes the root's identifier down where it is not. The database has it, too.
fn keep_id(root: &Path, id: &str) {
    let path = root.join("uuid");
    if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == id) {
        return;
    }
    if let Err(error) = std::fs::write(&path, id) {
        log::warn!("write {}: {error}", path.display());
    }
}
