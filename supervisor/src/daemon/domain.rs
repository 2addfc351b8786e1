//! Everything the services translate to, opened in the order in which it depends on each other.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use shim_sdk::error::report;

use crate::config::DaemonConfig;
use crate::container::Containers;
use crate::content::{ContentError, Store};
use crate::error::DaemonError;
use crate::events::Bus;
use crate::gc::Collector;
use crate::image::Images;
use crate::install::Installer;
use crate::lease::Leases;
use crate::metadata::{Database, MetadataError, RecordError};
use crate::namespace::Namespaces;
use crate::snapshot::{SnapshotError, Snapshotter};
use crate::task::{Place, Tasks};
use crate::transfer::{self, Importer};

/// The domain of one root; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Domain {
    pub(crate) config: DaemonConfig,
    /// Tells this root from every other.
    pub(crate) uuid: String,
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

    /// Opens the root, whose lock the caller holds.
    pub(crate) fn open(config: &DaemonConfig) -> Result<Self, DaemonError> {
        let (root, events) = (&config.root, Bus::new());
        let damaged = |what| move |cause: String| DaemonError::Open { what, cause };
        let path = root.join("metadata.db");
        private(&path)?;
        let database = Database::open(path)
            .map_err(|error: MetadataError| report(&error))
            .map_err(damaged("metadata"))?;
        let leases = Leases::new(database.clone());
        transfer::end_orphans(&leases)
            .map_err(|error: RecordError| report(&error))
            .map_err(damaged("leases"))?;
        let content = Store::open(root, database.clone())
            .and_then(|store| store.sweep().map(|()| store))
            .map_err(|error: ContentError| report(&error))
            .map_err(damaged("content"))?;
        let snapshots = Snapshotter::open(root, database.clone(), events.clone())
            .and_then(|snapshots| snapshots.sweep().map(|()| snapshots))
            .map_err(|error: SnapshotError| report(&error))
            .map_err(damaged("snapshots"))?;
        let images = Images::new(database.clone(), events.clone());
        let collector = Collector::new(database.clone(), content.clone(), snapshots.clone());
        // Whatever an earlier daemon had no time for.
        collector.schedule();
        // Other clients (`ctr install`) write below it themselves and expect it to be there.
        if let Err(why) = std::fs::create_dir_all(&config.opt) {
            log::warn!("mkdir({}): {why}; nothing can be installed", config.opt.display());
        }
        let opt = installer::Opt::new(&config.opt);
        Ok(Self {
            config: config.clone(),
            uuid: uuid(root)?,
            namespaces: Namespaces::new(database.clone()),
            installer: Installer::new(opt, images.clone(), content.clone()),
            images,
            containers: Containers::new(database.clone(), events.clone()),
            leases,
            collector,
            content,
            snapshots,
            tasks: Tasks::new(Place::new(config), events.clone()),
            events,
        })
    }
}

/// Makes a file that only root can read, unless it is there; SQLite gives its journals the same mode.
fn private(path: &Path) -> Result<(), DaemonError> {
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|cause| DaemonError::File { what: "open", path: path.to_owned(), cause })
}

/// The root's own identifier, made when it is first served.
fn uuid(root: &Path) -> Result<String, DaemonError> {
    let path = root.join("uuid");
    let made = match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::read_to_string("/proc/sys/kernel/random/uuid").and_then(|text| {
            std::fs::write(&path, text.trim())?;
            Ok(text.trim().to_owned())
        }),
    };
    made.map_err(|cause| DaemonError::File { what: "keep the identifier in", path, cause })
}
