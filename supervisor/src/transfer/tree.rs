//! Follows an image's target down to its layers, and checks that all of it is there.
//!
//! Promise: what is answered is complete in the store; what keeps it from garbage collection is
//! written down as labels, for the caller to store.

use std::collections::BTreeMap;
use std::io::Read;

use super::document::{self, Config, Link, MAX_BYTES, Manifest, Target};
use super::{Platform, TransferError};
use crate::content::{ContentError, Descriptor, Digest, Store};
use crate::metadata::{Labels, Namespace};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
const REF: &str = "containerd.io/gc.ref.content";

/// One manifest of an image, with its config.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) manifest: Digest,
    pub(super) platform: Platform,
    pub(super) config: Digest,
    pub(super) layers: Vec<Descriptor>,
    /// Empty when the config is not that of an image (attestations, artifacts).
    pub(super) diff_ids: Vec<Digest>,
}

/// All that a target leads to.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) images: Vec<Image>,
    pub(super) labels: BTreeMap<Digest, Labels>,
}

/// Where to look.
pub(super) struct Walk<'a> {
    pub(super) store: &'a Store,
    pub(super) namespace: &'a Namespace,
    /// The platforms whose parts must be complete. Others' may be absent from an archive.
    pub(super) wanted: &'a [Platform],
}

impl Walk<'_> {
    /// Follows `target`.
    pub(super) fn tree(&self, target: &Descriptor) -> Result<Tree, TransferError> {
        let mut tree = Tree::default();
        self.follow(target, None, "the archive's index", MAX_DEPTH, &mut tree)?;
        Ok(tree)
    }

    fn follow(
        &self,
        target: &Descriptor,
        platform: Option<Platform>,
        by: &str,
        depth: usize,
        tree: &mut Tree,
    ) -> Result<(), TransferError> {
        let Some(depth) = depth.checked_sub(1) else {
            let limit = MAX_DEPTH as u64;
            return Err(TransferError::Limit {
                what: "depth of the image's indexes".into(),
                limit,
            });
        };
        self.check("manifest", by, target)?;
        let document = format!("manifest {}", target.digest);
        let bytes = self.read(&document, &target.digest)?;
        match document::parse_target(&document, &target.media_type, &bytes)? {
            Target::Manifest(manifest) => {
                self.manifest(target, &manifest, platform, &document, tree)
            }
            Target::Index(index) => {
                let document = format!("index {}", target.digest);
                self.index(target, &index.manifests, &document, depth, tree)
            }
        }
    }

    fn index(
        &self,
        target: &Descriptor,
        links: &[Link],
        document: &str,
        depth: usize,
        tree: &mut Tree,
    ) -> Result<(), TransferError> {
        let mut labels = Labels::new();
        let mut absent = None;
        for (number, link) in links.iter().enumerate() {
            let child = link.descriptor(document)?;
            let platform = link.platform();
            let needed = match &platform {
                Some(platform) => self.wanted.iter().any(|wanted| wanted.runs(platform)),
                None => links.len() == 1,
            };
            match self.follow(&child, platform, document, depth, tree) {
                Ok(()) => {
                    labels.insert(format!("{REF}.m.{number}"), child.digest.to_string());
                }
                Err(missing @ TransferError::Missing { .. }) if !needed => absent = Some(missing),
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
        platform: Option<Platform>,
        document: &str,
        tree: &mut Tree,
    ) -> Result<(), TransferError> {
        let config = manifest.config.descriptor(document)?;
        self.check("config", document, &config)?;
        let mut labels = Labels::from([(format!("{REF}.config"), config.digest.to_string())]);
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (number, link) in manifest.layers.iter().enumerate() {
            let layer = link.descriptor(document)?;
            self.check("layer", document, &layer)?;
            labels.insert(format!("{REF}.l.{number}"), layer.digest.to_string());
            layers.push(layer);
        }
        let name = format!("config {}", config.digest);
        // Artifacts have configs of other shapes; whether one is needed as an image shows later.
        let parsed: Option<Config> =
            serde_json::from_slice(&self.read(&name, &config.digest)?).ok();
        let diff_ids = match &parsed {
            Some(config) => config.diff_ids(&name)?,
            None => Vec::new(),
        };
        let platform =
            platform.or_else(|| parsed.as_ref().map(Config::platform)).unwrap_or_default();
        tree.labels.insert(target.digest.clone(), labels);
        tree.images.push(Image {
            manifest: target.digest.clone(),
            platform,
            config: config.digest,
            layers,
            diff_ids,
        });
        Ok(())
    }

    /// Checks that what `by` names is there, in the size it gives.
    fn check(
        &self,
        what: &'static str,
        by: &str,
        descriptor: &Descriptor,
    ) -> Result<(), TransferError> {
        let name = descriptor.digest.to_string();
        let info = match self.store.info(self.namespace, &descriptor.digest) {
            Ok(info) => info,
            Err(ContentError::NotFound(_)) => {
                return Err(TransferError::Missing { by: by.to_owned(), what, name });
            }
            Err(other) => return Err(other.into()),
        };
        let (want, got) = (descriptor.size_bytes, info.size_bytes);
        if want != got {
            return Err(TransferError::WrongSize { by: by.to_owned(), what, name, want, got });
        }
        Ok(())
    }

    fn read(&self, document: &str, digest: &Digest) -> Result<Vec<u8>, TransferError> {
        let (info, blob) = self.store.open_blob(self.namespace, digest)?;
        if info.size_bytes > MAX_BYTES {
            let what = format!("size of {document}");
            return Err(TransferError::Limit { what, limit: MAX_BYTES });
        }
        let mut bytes = Vec::new();
        blob.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|cause| TransferError::Read {
            place: format!("document {document}"),
            cause,
        })?;
        Ok(bytes)
    }
}

impl Tree {
    /// The image to unpack for `platform`.
    pub(super) fn select(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<&Image, TransferError> {
        let exact = |image: &&Image| {
            image.platform.os == platform.os && image.platform.architecture == platform.architecture
        };
        let fits = |image: &&Image| platform.runs(&image.platform);
        let fitting: Vec<&Image> = self.images.iter().filter(fits).collect();
        let chosen = fitting.iter().copied().find(exact).or(fitting.first().copied());
        let image = chosen.ok_or_else(|| TransferError::NoPlatform {
            image: target.digest.to_string(),
            wanted: platform.to_string(),
            have: self
                .images
                .iter()
                .map(|image| image.platform.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        if image.layers.len() != image.diff_ids.len() {
            let document = format!("config {}", image.config);
            let reason = format!(
                "it lists {} layers, manifest {} has {}",
                image.diff_ids.len(),
                image.manifest,
                image.layers.len()
            );
            return Err(TransferError::Malformed { document, reason });
        }
        Ok(image)
    }
}
