//! Imports an archive: read, verify, unpack, and only then name.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use installer::budget::Budget;

use super::unpack::{Unpacker, blocking};
use super::{Event, Progress, TransferError};
use crate::content::{Digest, Store};
use crate::gc::Collector;
use crate::image::archive::{self, ArchivedImage, ArchivedName, BlobSink, StoredFile};
use crate::image::resolve::{ResolvedTarget, Resolver};
use crate::image::{Image, ImageError, Images, Platform, reference};
use crate::lease::{LeaseId, Leases};
use crate::metadata::{Labels, Namespace, RecordError};
use crate::snapshot::Snapshotter;

/// A lease that a crash leaves behind ends by itself after this, if no client ends it before.
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
        let on_stored = progress.clone();
        let sink = BlobSink {
            store: self.content.clone(),
            namespace: namespace.clone(),
            lease: lease.clone(),
            on_stored: Box::new(move |stored| on_stored.tell(complete(stored))),
            budget: budget.clone(),
        };
        let wanted = destination.unpacks.clone();
        let candidates = blocking(move || {
            let contents = archive::read(archive, &sink)?;
            let resolver = Resolver::new(&sink.store, &sink.namespace, &wanted, &sink.budget);
            let mut candidates = Vec::new();
            for archived in archive::images(&contents, &sink)? {
                sink.budget.check()?;
                let resolved = resolver.resolve(&archived.target)?;
                candidates.push(Candidate { archived, resolved, is_unpacked: false });
            }
            Ok(candidates)
        })
        .await?;
        let candidates = choose(candidates, &destination.unpacks)?;
        let named = names(&candidates, &destination)?;
        let labels =
            self.unpack(lease, namespace, &candidates, &destination, &progress, budget).await?;
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

    /// Unpacks the chosen images. Returns the labels that keep all parts of all images.
    async fn unpack(
        &self,
        lease: &LeaseId,
        namespace: &Namespace,
        candidates: &[Candidate],
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
        for candidate in candidates {
            for (digest, more) in &candidate.resolved.labels {
                labels.entry(digest.clone()).or_default().extend(more.clone());
            }
            if !candidate.is_unpacked {
                continue;
            }
            for platform in &destination.unpacks {
                let image = candidate.resolved.select(&candidate.archived.target, platform)?;
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

/// An image of the archive, with its documents.
struct Candidate {
    archived: ArchivedImage,
    resolved: ResolvedTarget,
    is_unpacked: bool,
}

/// The event for a blob that is stored whole.
fn complete(stored: &StoredFile) -> Event {
    Event {
        event: "complete",
        name: stored.digest.to_string(),
        target: None,
        progress: stored.size_bytes,
        total: stored.size_bytes,
    }
}

/// Chooses the images to unpack: those that have a manifest for each of `platforms`.
///
/// An archive may hold more than that: an image of the same name for another platform, a chart, a
/// signature. Those are kept and come first, so that the name goes to the image. If no image can be
/// unpacked, that is an error.
fn choose(
    mut candidates: Vec<Candidate>,
    platforms: &[Platform],
) -> Result<Vec<Candidate>, TransferError> {
    let mut left_out = None;
    for Candidate { archived, resolved, is_unpacked } in &mut candidates {
        let mut fault = None;
        for platform in platforms {
            match resolved.select(&archived.target, platform) {
                Ok(_) => {}
                Err(error @ ImageError::NoPlatform { .. }) => fault = Some(error),
                Err(error) if resolved.is_artifact() => fault = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        *is_unpacked = fault.is_none();
        if let Some(fault) = fault {
            log::info!("{} is kept and not unpacked: {fault}", archived.target.digest);
            left_out = Some(fault);
        }
    }
    match left_out {
        Some(fault) if candidates.iter().all(|candidate| !candidate.is_unpacked) => {
            Err(fault.into())
        }
        _ => {
            candidates.sort_by_key(|candidate| candidate.is_unpacked);
            Ok(candidates)
        }
    }
}

/// The records to write. An image without a name is called by the day and its digest, as `ctr`
/// does.
fn names(candidates: &[Candidate], destination: &Destination) -> Result<Vec<Image>, TransferError> {
    let mut images: BTreeMap<String, Image> = BTreeMap::new();
    let mut add = |name: String, archived: &ArchivedImage| {
        let image = Image::new(name.clone(), destination.labels.clone(), archived.target.clone());
        images.insert(name, image);
    };
    if !destination.name.is_empty() {
        let chosen: Vec<_> = candidates
            .iter()
            .filter(|candidate| candidate.is_unpacked)
            .map(|candidate| &candidate.archived)
            .collect();
        let name = reference::normalize(&destination.name).map_err(ImageError::from)?;
        match &chosen[..] {
            [first, ..] if chosen.iter().all(|one| one.target.digest == first.target.digest) => {
                add(name, first);
            }
            _ => {
                let reason =
                    format!("it holds {} images, which cannot all be {name}", candidates.len());
                let document = "the archive".to_owned();
                return Err(ImageError::Malformed { document, reason }.into());
            }
        }
        return Ok(images.into_values().collect());
    }
    let day = Timestamp::from(SystemTime::now()).to_string();
    let base = format!("import-{}", day.split('T').next().unwrap_or_default());
    for Candidate { archived, .. } in candidates {
        let prefixes: Vec<&str> = destination
            .prefixes
            .iter()
            .filter(|prefix| prefix.is_prefix)
            .map(|prefix| prefix.name.as_str())
            .collect();
        match &archived.name {
            Some(ArchivedName::Name(name)) if prefixes.is_empty() => add(name.clone(), archived),
            Some(ArchivedName::Name(name)) => {
                // As with containerd, a prefix selects among full names.
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    add(name.clone(), archived);
                }
            }
            Some(ArchivedName::Tag(tag)) if prefixes.is_empty() => {
                add(format!("{base}:{tag}"), archived)
            }
            Some(ArchivedName::Tag(tag)) => {
                for prefix in prefixes {
                    add(format!("{prefix}:{tag}"), archived);
                }
            }
            None if prefixes.is_empty() => {
                add(format!("{base}@{}", archived.target.digest), archived);
            }
            None => {
                for prefix in prefixes {
                    add(format!("{prefix}@{}", archived.target.digest), archived);
                }
            }
        }
        for exact in destination.prefixes.iter().filter(|prefix| !prefix.is_prefix) {
            add(exact.name.clone(), archived);
        }
    }
    Ok(images.into_values().collect())
}
