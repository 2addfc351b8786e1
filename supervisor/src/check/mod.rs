//! The check of a root: what its records say against what its directories hold.
//!
//! Promise: a check changes nothing. A repair removes nothing: what it replaces is set aside, what
//! it finds without a record is recorded or told of. A database that cannot be used is rebuilt from the newest
//! whole one that there is (its kept copy, or itself where it is only older) and from what is stored
//! ([`rebuild`]); a snapshot that is missing or damaged is unpacked again into its place.

mod orphans;
mod rebuild;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shim_sdk::Kind;
use shim_sdk::error::report;

use crate::container::Containers;
use crate::content::{ContentError, Store};
use crate::events::Bus;
use crate::gc::Collector;
use crate::image::Images;
use crate::lease::Leases;
use crate::metadata::{self, Database, MetadataError, Namespace, RecordError, RootId, Unusable};
use crate::namespace::Namespaces;
use crate::snapshot::{Recorded, SnapshotError, Snapshotter};
use crate::transfer::{Importer, KnownLayer, TransferError};

/// How long the pages of the database are looked at.
const PAGES: Duration = Duration::from_secs(60);
const LOST_BLOB: &str = "import or pull the image again";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What it is about: `database`, `blob`, `snapshot`, `image`, `container`, `orphan`.
    pub(crate) subject: &'static str,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) reason: String,
    /// What was done about it, or what to do.
    pub(crate) action: String,
    /// Nothing is left to do.
    pub(crate) mended: bool,
}

/// What is wanted of a check.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Mend what can be mended.
    pub(crate) repair: bool,
    /// Read all that is stored, not only sizes.
    pub(crate) read_all: bool,
    /// To which namespace goes what is found without one.
    pub(crate) namespace: Namespace,
}

/// A check that could not be carried through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("the database {path} is not repaired: {unusable}; {}", .unusable.advice())]
    Refused { path: PathBuf, unusable: Arc<Unusable> },
    #[error("another check is under way")]
    Busy,
}

impl CheckError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Metadata(cause) => cause.kind(),
            Self::Content(cause) => cause.kind(),
            Self::Snapshot(cause) => cause.kind(),
            Self::Record(cause) => cause.kind(),
            Self::Transfer(cause) => cause.kind(),
            Self::Refused { .. } | Self::Busy => Kind::FailedPrecondition,
        }
    }
}

/// Takes findings as they are made.
pub(crate) type Tell<'a> = &'a (dyn Fn(Finding) + Sync);

/// The stores of one root over one database.
#[derive(Clone)]
struct Stores {
    database: Database,
    content: Store,
    snapshots: Snapshotter,
    images: Images,
    containers: Containers,
    namespaces: Namespaces,
    importer: Importer,
}

impl Stores {
    fn open(root: &std::path::Path, database: &Database) -> Result<Self, CheckError> {
        let events = Bus::new();
        let content = Store::open(root, database.clone())?;
        let snapshots = Snapshotter::open(root, database.clone(), events.clone())?;
        let images = Images::new(database.clone(), events.clone());
        let collector = Collector::new(database.clone(), content.clone(), snapshots.clone());
        Ok(Self {
            importer: Importer {
                content: content.clone(),
                snapshots: snapshots.clone(),
                images: images.clone(),
                leases: Leases::new(database.clone()),
                collector,
            },
            database: database.clone(),
            containers: Containers::new(database.clone(), events),
            namespaces: Namespaces::new(database.clone()),
            content,
            snapshots,
            images,
        })
    }
}

/// Checks one root.
#[derive(Clone)]
pub(crate) struct Checker {
    root: PathBuf,
    state: PathBuf,
    id: RootId,
    database: Database,
    unusable: Option<Arc<Unusable>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    reopen: Arc<tokio::sync::Notify>,
}

impl Checker {
    /// Checks the root at `root`, whose records are `database` unless they are `unusable`. `reopen`
    /// is told when the root has another database.
    pub(crate) fn new(
        (root, state): (PathBuf, PathBuf),
        id: RootId,
        database: Database,
        unusable: Option<Arc<Unusable>>,
        reopen: Arc<tokio::sync::Notify>,
    ) -> Self {
        Self { root, state, id, database, unusable, turn: Arc::default(), reopen }
    }

    /// Checks, and repairs if that is wanted. Blocks; must be called from a thread for that.
    pub(crate) fn check(&self, request: &Request, tell: Tell<'_>) -> Result<(), CheckError> {
        let _turn = self.turn.try_lock().map_err(|_| CheckError::Busy)?;
        match &self.unusable {
            None => {
                let stores = Stores::open(&self.root, &self.database)?;
                self.compare(&stores, request, tell)
            }
            Some(unusable) => {
                self.rebuild(unusable, request, tell)?;
                if request.repair {
                    self.reopen.notify_one();
                }
                Ok(())
            }
        }
    }

    /// Compares records and stores.
    fn compare(
        &self,
        stores: &Stores,
        request: &Request,
        tell: Tell<'_>,
    ) -> Result<(), CheckError> {
        let found =
            stores.database.read_blocking(|connection| metadata::pages(connection, PAGES))?;
        if let Some(reason) = found {
            tell(Finding {
                subject: "database",
                name: self.root.join("metadata.db").display().to_string(),
                namespace: String::new(),
                reason,
                action: "stop the daemon: its next start does not use the database, and a repair \
                         rebuilds it"
                    .into(),
                mended: false,
            });
        }
        for (digest, size, namespace) in stores.content.recorded()? {
            if let Some(reason) = stores.content.fault(&digest, size, request.read_all) {
                tell(Finding {
                    subject: "blob",
                    name: digest.to_string(),
                    namespace,
                    reason,
                    action: LOST_BLOB.into(),
                    mended: false,
                });
            }
        }
        self.compare_snapshots(stores, request, tell)?;
        let stray = match self.unusable {
            None => "the daemon's next start removes it",
            Some(_) => "a repair records it",
        };
        orphans::tell(stores, (&self.root, &self.state), stray, tell)
    }

    fn compare_snapshots(
        &self,
        stores: &Stores,
        request: &Request,
        tell: Tell<'_>,
    ) -> Result<(), CheckError> {
        let runtime = tokio::runtime::Handle::current();
        let mut layers: HashMap<String, HashMap<String, KnownLayer>> = HashMap::new();
        for snapshot in stores.snapshots.recorded()? {
            let Ok(namespace) = Namespace::new(snapshot.namespace.clone()) else { continue };
            if !layers.contains_key(&snapshot.namespace) {
                let images = runtime.block_on(stores.images.list(&namespace, &[]))?;
                let known = stores.importer.known_layers(&namespace, &images);
                layers.insert(snapshot.namespace.clone(), known);
            }
            let layer = layers.get(&snapshot.namespace).and_then(|known| known.get(&snapshot.name));
            let Some(reason) = fault(stores, &namespace, &snapshot, layer, request.read_all) else {
                continue;
            };
            let (action, mended) = match layer.filter(|_| snapshot.is_committed) {
                None if snapshot.is_committed => {
                    ("no image here has its layer: remove it, or import its image".into(), false)
                }
                None => ("what was written to it is lost: remove its container".into(), false),
                Some(_) if !request.repair => {
                    ("it can be unpacked again: supervisor check --repair".into(), false)
                }
                Some(layer) => match remake(stores, &namespace, &snapshot, layer) {
                    Ok(()) => ("unpacked again".into(), true),
                    Err(error) => (format!("not unpacked again: {}", report(&error)), false),
                },
            };
            tell(Finding {
                subject: "snapshot",
                name: snapshot.name.clone(),
                namespace: snapshot.namespace.clone(),
                reason,
                action,
                mended,
            });
        }
        Ok(())
    }
}

fn fault(
    stores: &Stores,
    namespace: &Namespace,
    snapshot: &Recorded,
    layer: Option<&KnownLayer>,
    read_all: bool,
) -> Option<String> {
    if let Some(fault) = stores.snapshots.fault(snapshot) {
        return Some(fault);
    }
    let layer = layer.filter(|_| snapshot.is_committed)?;
    let root = stores.snapshots.files(snapshot);
    match stores.importer.difference(namespace, layer, &root, read_all) {
        Ok(difference) => difference,
        // Told of as a blob.
        Err(TransferError::Content(_)) => None,
        Err(error) => Some(format!("it cannot be compared with its layer: {}", report(&error))),
    }
}

fn remake(
    stores: &Stores,
    namespace: &Namespace,
    snapshot: &Recorded,
    layer: &KnownLayer,
) -> Result<(), CheckError> {
    stores.snapshots.remake(snapshot, |mounts| {
        Ok::<_, CheckError>(stores.importer.unpack_layer(namespace, layer, mounts)?)
    })
}
