//! Imports an archive: read, verify, unpack, and only then name.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use installer::budget::Budget;

use super::archive::{self, Sink};
use super::layout::{self, Found, Given};
use super::tree::{Tree, Walk};
use super::unpack::{Unpacker, blocking};
use super::{Event, Platform, Progress, TransferError, reference};
use crate::content::{Digest, Store};
use crate::gc::Collector;
use crate::image::{Image, Images};
use crate::lease::{LeaseId, Leases};
use crate::metadata::{Labels, Namespace, RecordError};
use crate::snapshot::Snapshotter;

/// A lease that a crash leaves behind ends by itself after this, should nobody end it before.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
const EXPIRE: &str = "containerd.io/gc.expire";
/// Marks the lease of an import, which no daemon but the one that made it can still need.
const OWN: &str = "supervisor/import";
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What becomes of the images in an archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Destination {
    /// The name for the archive's only image; empty: as the archive or `prefixes` say.
    pub(crate) name: String,
    /// Labels of the images' records.
    pub(crate) labels: Labels,
    /// Further names, or what images that only have a tag are called.
    pub(crate) prefixes: Vec<Prefix>,
    /// For which platforms images are unpacked; none: not at all.
    pub(crate) unpacks: Vec<Platform>,
}

/// A name given by the client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prefix {
    /// The name, or the part of it before the tag.
    pub(crate) name: String,
    /// The archive's tag completes it.
    pub(crate) is_prefix: bool,
}

/// Imports archives.
#[derive(Clone)]
pub(crate) struct Importer {
    pub(crate) content: Store,
    pub(crate) snapshots: Snapshotter,
    pub(crate) images: Images,
    pub(crate) leases: Leases,
    pub(crate) collector: Collector,
}

/// Ends what imports of an earlier daemon left when it was killed. For the daemon's start, before
/// the stores are swept. Blocks.
pub(crate) fn end_orphans(leases: &Leases) -> Result<(), RecordError> {
    leases.end_labelled(OWN)
}

impl Importer {
    /// Imports `archive`; the images' records are the answer. All that it costs is charged to
    /// `budget`; when that is stopped, the import ends and leaves nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropped midway, it leaves its lease, which keeps what it brought for a day: run it as a
    /// task of its own.
    pub(crate) async fn import(
        &self,
        namespace: &Namespace,
        archive: impl Read + Send + 'static,
        destination: Destination,
        progress: Progress,
        budget: &Budget,
    ) -> Result<Vec<Image>, TransferError> {
        let lease = self.lease(namespace).await?;
        let outcome =
            self.import_under(&lease, namespace, archive, destination, progress, budget).await;
        self.leases.delete(namespace, &lease).await?;
        if outcome.is_ok() {
            // Only what the archive held besides its images.
            self.collector.schedule();
        } else if let Err(error) = self.collector.collect().await {
            // The import's own error is the one to tell; the next collection does what is left.
            log::debug!("collect what a failed import brought: {error}");
        }
        outcome
    }

    async fn import_under(
        &self,
        lease: &LeaseId,
        namespace: &Namespace,
        archive: impl Read + Send + 'static,
        destination: Destination,
        progress: Progress,
        budget: &Budget,
    ) -> Result<Vec<Image>, TransferError> {
        let sink = Sink {
            store: self.content.clone(),
            namespace: namespace.clone(),
            lease: lease.clone(),
            progress: progress.clone(),
            budget: budget.clone(),
        };
        let wanted = destination.unpacks.clone();
        let found = blocking(move || {
            let contents = archive::read(archive, &sink)?;
            let walk = Walk::new(&sink.store, &sink.namespace, &wanted, &sink.budget);
            let mut trees = Vec::new();
            for found in layout::images(&contents, &sink)? {
                sink.budget.check()?;
                let tree = walk.tree(&found.target)?;
                trees.push((found, tree));
            }
            Ok(trees)
        })
        .await?;
        let found = choose(found, &destination.unpacks)?;
        let named = names(&found, &destination)?;
        let labels = self.unpack(lease, namespace, &found, &destination, &progress, budget).await?;
        budget.check()?;
        let (store, scope) = (self.content.clone(), namespace.clone());
        blocking(move || Ok(store.annotate(&scope, labels)?)).await?;
        let images = self.images.put(namespace, named).await?;
        for image in &images {
            progress.tell(Event {
                event: "saved",
                name: image.name.clone(),
                target: Some(image.target.clone()),
                ..Event::default()
            });
        }
        Ok(images)
    }

    /// Unpacks what is to be unpacked; all labels, those of the trees too, are the answer.
    async fn unpack(
        &self,
        lease: &LeaseId,
        namespace: &Namespace,
        found: &[(Found, Tree)],
        destination: &Destination,
        progress: &Progress,
        budget: &Budget,
    ) -> Result<BTreeMap<Digest, Labels>, TransferError> {
        let unpacker = Unpacker {
            store: &self.content,
            snapshots: &self.snapshots,
            leases: &self.leases,
            namespace,
            lease,
            progress,
            budget,
        };
        let mut labels: BTreeMap<Digest, Labels> = BTreeMap::new();
        for (found, tree) in found {
            for (digest, more) in &tree.labels {
                labels.entry(digest.clone()).or_default().extend(more.clone());
            }
            if !tree.is_chosen {
                continue;
            }
            for platform in &destination.unpacks {
                let image = tree.select(&found.target, platform)?;
                for (digest, more) in unpacker.unpack(image).await? {
                    labels.entry(digest).or_default().extend(more);
                }
            }
        }
        Ok(labels)
    }

    pub(super) async fn lease(&self, namespace: &Namespace) -> Result<LeaseId, TransferError> {
        let now = SystemTime::now();
        let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = LeaseId::new(format!("import-{nanos}-{number}"));
        let expires = Timestamp::from(now + LEASE).to_string();
        let labels = Labels::from([(EXPIRE.to_owned(), expires), (OWN.to_owned(), String::new())]);
        Ok(self.leases.create(namespace, id, labels).await?.id)
    }
}

/// Which of an archive's images are unpacked: those that have what the platforms need. Besides an
/// image there may be one of its name for another platform, a chart or a signature; they are kept,
/// and come first, so that the image gets the name. Where there is none to unpack, that is an error.
fn choose(
    mut found: Vec<(Found, Tree)>,
    platforms: &[Platform],
) -> Result<Vec<(Found, Tree)>, TransferError> {
    let mut left_out = None;
    for (found, tree) in &mut found {
        let mut fault = None;
        for platform in platforms {
            match tree.select(&found.target, platform) {
                Ok(_) => {}
                Err(error @ TransferError::NoPlatform { .. }) => fault = Some(error),
                Err(error) if tree.is_artifact() => fault = Some(error),
                Err(error) => return Err(error),
            }
        }
        tree.is_chosen = fault.is_none();
        if let Some(fault) = fault {
            log::info!("{} is kept and not unpacked: {fault}", found.target.digest);
            left_out = Some(fault);
        }
    }
    match left_out {
        Some(fault) if found.iter().all(|(_, tree)| !tree.is_chosen) => Err(fault),
        _ => {
            found.sort_by_key(|(_, tree)| tree.is_chosen);
            Ok(found)
        }
    }
}

/// The records to be made. An image that nobody names is called after the day and its digest, as
/// `ctr` does.
fn names(found: &[(Found, Tree)], destination: &Destination) -> Result<Vec<Image>, TransferError> {
    let mut images: BTreeMap<String, Image> = BTreeMap::new();
    let mut add = |name: String, found: &Found| {
        let image = Image::new(name.clone(), destination.labels.clone(), found.target.clone());
        images.insert(name, image);
    };
    if !destination.name.is_empty() {
        let chosen: Vec<_> = found.iter().filter(|(_, tree)| tree.is_chosen).collect();
        let targets: Vec<_> = chosen.iter().map(|(found, _)| &found.target.digest).collect();
        let name = reference::normalize(&destination.name)?;
        match &chosen[..] {
            [(first, _), ..] if targets.iter().all(|digest| **digest == first.target.digest) => {
                add(name, first);
            }
            _ => {
                let reason = format!("it holds {} images, which cannot all be {name}", found.len());
                return Err(TransferError::Malformed { document: "the archive".into(), reason });
            }
        }
        return Ok(images.into_values().collect());
    }
    let day = Timestamp::from(SystemTime::now()).to_string();
    let base = format!("import-{}", day.split('T').next().unwrap_or_default());
    for (found, _) in found {
        let prefixes: Vec<&str> = destination
            .prefixes
            .iter()
            .filter(|prefix| prefix.is_prefix)
            .map(|prefix| prefix.name.as_str())
            .collect();
        match &found.name {
            Some(Given::Name(name)) if prefixes.is_empty() => add(name.clone(), found),
            Some(Given::Name(name)) => {
                // As with containerd, a prefix selects among full names.
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    add(name.clone(), found);
                }
            }
            Some(Given::Tag(tag)) if prefixes.is_empty() => add(format!("{base}:{tag}"), found),
            Some(Given::Tag(tag)) => {
                for prefix in prefixes {
                    add(format!("{prefix}:{tag}"), found);
                }
            }
            None if prefixes.is_empty() => {
                add(format!("{base}@{}", found.target.digest), found);
            }
            None => {
                for prefix in prefixes {
                    add(format!("{prefix}@{}", found.target.digest), found);
                }
            }
        }
        for exact in destination.prefixes.iter().filter(|prefix| !prefix.is_prefix) {
            add(exact.name.clone(), found);
        }
    }
    Ok(images.into_values().collect())
}
