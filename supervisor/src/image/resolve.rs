//! Follows an image's target down to its layers, and checks that all of it is there.
//!
//! Promise: what is answered is complete in the store; what keeps it from garbage collection is
//! written down as labels, for the caller to store. Each document is read once, however many lead
//! to it, and what is kept of it is charged to the transfer's budget.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use installer::budget::{Budget, Cost};

use super::manifest::{self, Config, IndexOrManifest, MAX_BYTES, Manifest, RawDescriptor};
use super::{ImageError, Platform};
use crate::content::{ContentError, Descriptor, Digest, Store};
use crate::metadata::{Labels, Namespace};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
const REF: &str = "containerd.io/gc.ref.content";
/// What a label, a layer or a known document costs in memory besides its text.
const KEPT_BYTES: u64 = 128;
/// What a document costs besides its bytes: a file is opened, records are looked up.
const DOCUMENT_BYTES: u64 = 4096;
/// What a link costs that leads to a known document.
const LINK_BYTES: u64 = 64;

/// One manifest of an image, with its config.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedManifest {
    pub(crate) manifest: Digest,
    pub(crate) platform: Platform,
    pub(crate) config: Digest,
    pub(crate) layers: Arc<[Descriptor]>,
    /// Empty when the config is not that of an image (attestations, artifacts).
    pub(crate) diff_ids: Arc<[Digest]>,
}

/// All that a target leads to.
#[derive(Debug, Default)]
pub(crate) struct ResolvedTarget {
    pub(crate) manifests: Vec<ResolvedManifest>,
    pub(crate) labels: BTreeMap<Digest, Labels>,
}

/// Where to look.
pub(crate) struct Resolver<'a> {
    pub(crate) store: &'a Store,
    pub(crate) namespace: &'a Namespace,
    /// The platforms whose parts must be complete. Others' may be absent from an archive.
    pub(crate) wanted: &'a [Platform],
    pub(crate) budget: &'a Budget,
    pub(crate) known: RefCell<Cache>,
}

/// What was looked at already.
#[derive(Default)]
pub(crate) struct Cache {
    /// Sizes of what the store has.
    sizes: HashMap<Digest, u64>,
    /// What the documents followed are.
    documents: HashMap<Digest, CachedDocument>,
}

#[derive(Clone)]
enum CachedDocument {
    /// With the images below it.
    Index(Arc<[ResolvedManifest]>),
    Manifest(ResolvedManifest),
}

impl<'a> Resolver<'a> {
    /// One that has looked at nothing yet.
    pub(crate) fn new(
        store: &'a Store,
        namespace: &'a Namespace,
        wanted: &'a [Platform],
        budget: &'a Budget,
    ) -> Self {
        Self { store, namespace, wanted, budget, known: RefCell::default() }
    }
}

impl Resolver<'_> {
    /// Follows `target`.
    pub(crate) fn resolve(&self, target: &Descriptor) -> Result<ResolvedTarget, ImageError> {
        let mut tree = ResolvedTarget::default();
        self.follow(target, None, "the archive's index", MAX_DEPTH, &mut tree)?;
        Ok(tree)
    }

    fn follow(
        &self,
        target: &Descriptor,
        platform: Option<Platform>,
        by: &str,
        depth: usize,
        tree: &mut ResolvedTarget,
    ) -> Result<(), ImageError> {
        let Some(depth) = depth.checked_sub(1) else {
            let limit = MAX_DEPTH as u64;
            return Err(ImageError::Limit { what: "depth of the image's indexes".into(), limit });
        };
        self.budget.charge(Cost::Documents, LINK_BYTES)?;
        self.check("manifest", by, target)?;
        let visited = self.known.borrow().documents.get(&target.digest).cloned();
        let visited = match visited {
            Some(visited) => visited,
            None => {
                let document = format!("manifest {}", target.digest);
                let bytes = self.read(&document, &target.digest)?;
                let visited =
                    match manifest::parse_index_or_manifest(&document, &target.media_type, &bytes)?
                    {
                        IndexOrManifest::Manifest(manifest) => {
                            drop(bytes);
                            CachedDocument::Manifest(
                                self.manifest(target, &manifest, &document, tree)?,
                            )
                        }
                        IndexOrManifest::Index(index) => {
                            drop(bytes);
                            let document = format!("index {}", target.digest);
                            let labels = std::mem::take(&mut tree.labels);
                            let mut below = ResolvedTarget { labels, ..ResolvedTarget::default() };
                            let followed =
                                self.index(target, &index.manifests, &document, depth, &mut below);
                            tree.labels = std::mem::take(&mut below.labels);
                            followed?;
                            CachedDocument::Index(below.manifests.into())
                        }
                    };
                let digest = target.digest.clone();
                self.known.borrow_mut().documents.insert(digest, visited.clone());
                visited
            }
        };
        match visited {
            CachedDocument::Manifest(image) => {
                self.keep(KEPT_BYTES)?;
                let platform = platform.unwrap_or_else(|| image.platform.clone());
                tree.manifests.push(ResolvedManifest { platform, ..image });
            }
            CachedDocument::Index(images) => {
                self.keep(KEPT_BYTES * images.len() as u64)?;
                tree.manifests.extend(images.iter().cloned());
            }
        }
        Ok(())
    }

    fn keep(&self, bytes: u64) -> Result<(), ImageError> {
        Ok(self.budget.charge(Cost::Kept, bytes)?)
    }

    fn index(
        &self,
        target: &Descriptor,
        links: &[RawDescriptor],
        document: &str,
        depth: usize,
        tree: &mut ResolvedTarget,
    ) -> Result<(), ImageError> {
        let mut labels = Labels::new();
        let mut absent = None;
        for (number, link) in links.iter().enumerate() {
            let child = link.descriptor(document)?;
            let platform = link.platform(document)?;
            let needed = match &platform {
                Some(platform) => self.wanted.iter().any(|wanted| wanted.runs(platform)),
                None => links.len() == 1,
            };
            match self.follow(&child, platform, document, depth, tree) {
                Ok(()) => {
                    self.keep(2 * KEPT_BYTES)?;
                    labels.insert(format!("{REF}.m.{number}"), child.digest.to_string());
                }
                Err(missing @ ImageError::Missing { .. }) if !needed => absent = Some(missing),
                Err(other) => return Err(other),
            }
        }
        match absent {
            // An index of which nothing at all is there is no image.
            Some(missing) if labels.is_empty() => Err(missing),
            _ => {
                tree.labels.insert(target.digest.clone(), labels);
                Ok(())
            }
        }
    }

    fn manifest(
        &self,
        target: &Descriptor,
        manifest: &Manifest,
        document: &str,
        tree: &mut ResolvedTarget,
    ) -> Result<ResolvedManifest, ImageError> {
        let config = manifest.config.descriptor(document)?;
        self.check("config", document, &config)?;
        let mut labels = Labels::from([(format!("{REF}.config"), config.digest.to_string())]);
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (number, link) in manifest.layers.iter().enumerate() {
            let layer = link.descriptor(document)?;
            self.budget.charge(Cost::Documents, LINK_BYTES)?;
            self.check("layer", document, &layer)?;
            self.keep(4 * KEPT_BYTES)?;
            labels.insert(format!("{REF}.l.{number}"), layer.digest.to_string());
            layers.push(layer);
        }
        let name = format!("config {}", config.digest);
        // Artifacts have configs of other shapes; whether one is needed as an image shows later.
        let parsed: Option<Config> = if manifest.layers.is_empty() || config.size_bytes <= MAX_BYTES
        {
            serde_json::from_slice(&self.read(&name, &config.digest)?).ok()
        } else {
            None
        };
        let (diff_ids, platform) = match &parsed {
            Some(config) => (config.rootfs.diff_ids(&name)?, config.platform(&name)?),
            None => (Vec::new(), Platform::default()),
        };
        self.keep(2 * KEPT_BYTES * (diff_ids.len() as u64 + 1))?;
        tree.labels.insert(target.digest.clone(), labels);
        Ok(ResolvedManifest {
            manifest: target.digest.clone(),
            platform,
            config: config.digest,
            layers: layers.into(),
            diff_ids: diff_ids.into(),
        })
    }

    /// Checks that what `by` names is there, in the size it gives.
    fn check(
        &self,
        what: &'static str,
        by: &str,
        descriptor: &Descriptor,
    ) -> Result<(), ImageError> {
        let known = self.known.borrow().sizes.get(&descriptor.digest).copied();
        let got = match known {
            Some(size) => size,
            None => {
                let info = match self.store.info(self.namespace, &descriptor.digest) {
                    Ok(info) => info,
                    Err(ContentError::NotFound(_)) => {
                        let name = descriptor.digest.to_string();
                        return Err(ImageError::Missing { by: by.to_owned(), what, name });
                    }
                    Err(other) => return Err(other.into()),
                };
                self.keep(2 * KEPT_BYTES)?;
                let digest = descriptor.digest.clone();
                self.known.borrow_mut().sizes.insert(digest, info.size_bytes);
                info.size_bytes
            }
        };
        let want = descriptor.size_bytes;
        if want != got {
            let name = descriptor.digest.to_string();
            return Err(ImageError::WrongSize { by: by.to_owned(), what, name, want, got });
        }
        Ok(())
    }

    fn read(&self, document: &str, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let (info, blob) = self.store.open_blob(self.namespace, digest)?;
        if info.size_bytes > MAX_BYTES {
            let what = format!("size of {document}");
            return Err(ImageError::Limit { what, limit: MAX_BYTES });
        }
        self.budget.charge(Cost::Documents, info.size_bytes + DOCUMENT_BYTES)?;
        let mut bytes = Vec::new();
        blob.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|cause| ImageError::Read { document: document.to_owned(), cause })?;
        Ok(bytes)
    }
}
