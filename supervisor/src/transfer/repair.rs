//! What the check of a root asks of images: which layer a snapshot was unpacked from, whether it is
//! still as that layer says, and the images that a store without names holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use installer::budget::Budget;
use installer::layer::{Archive, EntryKind, ExtractError, decompressed_within};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::layer;
use super::unpack::Unpacker;
use super::{Importer, Progress, TransferError};
use crate::content::{Descriptor, Digest};
use crate::image::manifest::{self, IndexOrManifest, MAX_BYTES};
use crate::image::resolve::{ResolvedTarget, Resolver};
use crate::image::{Image, Platform, chain_ids, media_type, reference};
use crate::metadata::{Labels, Namespace};
use crate::snapshot::Mount;

/// Differences that are remembered at a time; more than that is lost anyway.
const DIFFERENCES: usize = 10_000;
/// What marks a file of a layer as the absence of another.
const WHITEOUT: &[u8] = b".wh.";
const NAME: &str = "io.containerd.image.name";

/// A layer as an image names it.
#[derive(Debug, Clone)]
pub(crate) struct KnownLayer {
    blob: Digest,
    diff_id: Digest,
}

/// An image of which only the documents are there.
#[derive(Debug, Clone)]
pub(crate) struct Nameless {
    /// Its manifest or index.
    pub(crate) target: Descriptor,
    /// The name that it gives itself. Anybody's image can give itself any name.
    pub(crate) name: Option<String>,
    /// All its parts that are there.
    pub(crate) parts: HashSet<Digest>,
    /// What keeps the parts together.
    pub(crate) labels: BTreeMap<Digest, Labels>,
    /// What is missing of it.
    pub(crate) missing: Option<String>,
}

impl Importer {
    /// The layers of `images` by the name that their snapshots have. Blocks.
    pub(crate) fn known_layers(
        &self,
        namespace: &Namespace,
        images: &[Image],
    ) -> HashMap<String, KnownLayer> {
        let mut known = HashMap::new();
        for image in images {
            // One for each, as each was a transfer of its own: together they may be above any limit.
            let budget = Budget::default();
            let resolver = Resolver::new(&self.content, namespace, &[], &budget);
            // An image that is not whole is reported with its blobs.
            let Ok(resolved) = resolver.resolve(&image.target) else { continue };
            for image in resolved.manifests {
                let chain = chain_ids(&image.diff_ids);
                for ((chain, diff_id), layer) in
                    chain.iter().zip(image.diff_ids.iter()).zip(image.layers.iter())
                {
                    let layer = KnownLayer { blob: layer.digest.clone(), diff_id: diff_id.clone() };
                    known.insert(chain.to_string(), layer);
                }
            }
        }
        known
    }

    /// How the files below `root` differ from those of `layer`; `contents` compares what is in them,
    /// not only their sizes. A layer that has a snapshot was extracted once, within the limits that
    /// hold for that. Blocks.
    pub(crate) fn difference(
        &self,
        namespace: &Namespace,
        layer: &KnownLayer,
        root: &Path,
        contents: bool,
    ) -> Result<Option<String>, TransferError> {
        let (_, blob) = self.content.open_blob(namespace, &layer.blob)?;
        let budget = Budget::default();
        let beginning = |cause| ExtractError::Read { entries: 0, cause };
        let reader = decompressed_within(blob, &budget).map_err(beginning)?;
        let mut archive = Archive::new(reader, &budget);
        let failed = |cause| {
            let document = format!("what layer {} was unpacked to", layer.blob);
            TransferError::Read { document, cause }
        };
        let root = File::open(root).map_err(failed)?;
        let mut differences: BTreeMap<PathBuf, String> = BTreeMap::new();
        while let Some(entry) = archive.next_entry()? {
            let path: PathBuf = Path::new(OsStr::from_bytes(&entry.path))
                .components()
                .filter(|part| matches!(part, Component::Normal(_)))
                .collect();
            let Some(name) = path.file_name() else { continue };
            if name.as_bytes().starts_with(WHITEOUT) {
                continue;
            }
            let found = match entry.kind {
                EntryKind::File { size_bytes } => match sized(&root, &path, size_bytes) {
                    Ok(None) if contents => compare(&root, &path, &mut archive)?,
                    found => found.map_err(failed)?,
                },
                _ => there(&root, &path).map_err(failed)?,
            };
            // The last entry of a path counts.
            match found {
                None => drop(differences.remove(&path)),
                Some(difference) if differences.len() < DIFFERENCES => {
                    let told = format!("{path:?}: {difference}");
                    differences.insert(path, told);
                }
                Some(_) => {}
            }
        }
        Ok(differences.into_values().next())
    }

    /// Applies `layer` to `mounts`, synced. Blocks.
    pub(crate) fn unpack_layer(
        &self,
        namespace: &Namespace,
        known: &KnownLayer,
        mounts: &[Mount],
    ) -> Result<(), TransferError> {
        let (_, blob) = self.content.open_blob(namespace, &known.blob)?;
        let got = layer::apply(blob, mounts, true, &Budget::default())
            .map_err(|cause| TransferError::Layer {
                layer: known.blob.clone(),
                cause: Box::new(cause),
            })?
            .diff_id;
        if got == known.diff_id {
            return Ok(());
        }
        let (layer, want) = (known.blob.clone(), known.diff_id.clone());
        Err(TransferError::WrongDiffId { layer, want, got })
    }

    /// Makes the snapshots of an image for this host, as far as they are missing, and stores the
    /// labels that keep its parts.
    pub(crate) async fn unpack_again(
        &self,
        namespace: &Namespace,
        target: &Descriptor,
    ) -> Result<(), TransferError> {
        let platform = Platform::host();
        let wanted = [platform.clone()];
        let budget = Budget::default();
        let resolver = Resolver::new(&self.content, namespace, &wanted, &budget);
        let resolved = resolver.resolve(target)?;
        let lease = self.lease(namespace).await?;
        let unpacker = Unpacker {
            store: &self.content,
            snapshots: &self.snapshots,
            leases: &self.leases,
            namespace,
            lease: &lease,
            progress: &Progress::ignored(),
            budget: &budget,
        };
        let unpacked = match resolved.select(target, &platform) {
            Ok(image) => unpacker.unpack(image).await,
            Err(error) => Err(error.into()),
        };
        let (store, scope) = (self.content.clone(), namespace.clone());
        let outcome = match unpacked {
            Ok(labels) => {
                super::unpack::blocking(move || Ok(store.annotate(&scope, labels)?)).await
            }
            Err(error) => Err(error),
        };
        self.leases.delete(namespace, &lease).await?;
        outcome
    }

    /// Hands the images among `blobs`, all of them recorded in `namespace`, that no other of them is
    /// part of to `each`. One document is held at a time, and one image. Blocks.
    pub(crate) fn nameless<E>(
        &self,
        namespace: &Namespace,
        blobs: &[(Digest, u64)],
        mut each: impl FnMut(Nameless) -> Result<(), E>,
    ) -> Result<(), E> {
        let there: HashSet<&str> = blobs.iter().map(|(digest, _)| digest.as_str()).collect();
        let mut targets: Vec<(Descriptor, Option<String>)> = Vec::new();
        let mut inner: HashSet<String> = HashSet::new();
        for (digest, size_bytes) in blobs.iter().filter(|(_, size)| *size <= MAX_BYTES) {
            let Some(bytes) = self.document(namespace, digest) else { continue };
            let Ok(target) = manifest::parse_index_or_manifest("blob", "", &bytes) else {
                continue;
            };
            if let IndexOrManifest::Index(index) = &target {
                let links = index.manifests.iter().map(|link| &link.digest);
                inner.extend(links.filter(|digest| there.contains(digest.as_str())).cloned());
            }
            let (media_type, name) = says(&bytes, &target);
            let (digest, size_bytes) = (digest.clone(), *size_bytes);
            let annotations = BTreeMap::new();
            targets.push((Descriptor { media_type, digest, size_bytes, annotations }, name));
        }
        for (target, name) in targets {
            if inner.contains(target.digest.as_str()) {
                continue;
            }
            // One for each, as each was a transfer of its own.
            let budget = Budget::default();
            let resolver = Resolver::new(&self.content, namespace, &[], &budget);
            let (resolved, missing) = match resolver.resolve(&target) {
                Ok(resolved) => (resolved, None),
                Err(error) => (ResolvedTarget::default(), Some(shim_sdk::error::report(&error))),
            };
            let mut parts = HashSet::from([target.digest.clone()]);
            parts.extend(resolved.labels.keys().cloned());
            for image in &resolved.manifests {
                parts.insert(image.config.clone());
                parts.extend(image.layers.iter().map(|layer| layer.digest.clone()));
            }
            each(Nameless { target, name, parts, labels: resolved.labels, missing })?;
        }
        Ok(())
    }

    fn document(&self, namespace: &Namespace, digest: &Digest) -> Option<Vec<u8>> {
        let (_, blob) = self.content.open_blob(namespace, digest).ok()?;
        let mut bytes = Vec::new();
        let mut blob = blob.take(MAX_BYTES);
        // A layer is not read any further than its first byte.
        blob.by_ref().take(1).read_to_end(&mut bytes).ok()?;
        if bytes != b"{" {
            return None;
        }
        blob.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// The media type and the name that a document gives itself.
fn says(bytes: &[u8], target: &IndexOrManifest) -> (String, Option<String>) {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Itself {
        #[serde(default)]
        media_type: String,
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let itself: Itself = serde_json::from_slice(bytes).unwrap_or_default();
    let media_type = match target {
        _ if !itself.media_type.is_empty() => itself.media_type,
        IndexOrManifest::Index(_) => media_type::OCI_INDEX.to_owned(),
        IndexOrManifest::Manifest(_) => media_type::OCI_MANIFEST.to_owned(),
    };
    let name = itself.annotations.and_then(|annotations| annotations.get(NAME).cloned());
    (media_type, name.and_then(|name| reference::normalize(&name).ok()))
}

/// Opens what is at `path` below `root`, without following links on the way.
fn open(root: &File, path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file.into())),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is wrong with a file that has the given size in its layer.
fn sized(root: &File, path: &Path, size: u64) -> io::Result<Option<String>> {
    // A link on the way was made later, or the layer was written through it. The file behind it may
    // not be this layer's own, so it is not compared.
    let found = match open(root, path, OFlags::PATH) {
        Err(error) if is_link(&error) => return Ok(None),
        other => other?,
    };
    let Some(found) = found else { return Ok(Some("it is missing".to_owned())) };
    let metadata = found.metadata()?;
    if !metadata.is_file() {
        return Ok(Some("it is not a file".to_owned()));
    }
    if metadata.len() != size {
        return Ok(Some(format!("it has {} bytes, {size} were unpacked", metadata.len())));
    }
    Ok(None)
}

/// Whether a file of the right size has other content than the archive's current entry.
fn compare(
    root: &File,
    path: &Path,
    archive: &mut Archive<impl io::Read>,
) -> Result<Option<String>, TransferError> {
    let failed = |cause| TransferError::Read { document: format!("the file {path:?}"), cause };
    let mut file = match open(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        // As in `sized`.
        Err(error) if is_link(&error) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let Some(file) = &mut file else { return Ok(Some("it is missing".to_owned())) };
    let mut got = Vec::new();
    loop {
        let want = archive.content()?;
        let count = want.len();
        if count == 0 {
            return Ok(None);
        }
        got.resize(count, 0);
        file.read_exact(&mut got).map_err(failed)?;
        if *want != *got {
            return Ok(Some("its content has changed".to_owned()));
        }
        archive.consume(count);
    }
}

fn there(root: &File, path: &Path) -> io::Result<Option<String>> {
    match open(root, path, OFlags::PATH) {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Ok(Some("it is missing".to_owned())),
        // A link on the way, as in `sized`.
        Err(error) if is_link(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
}
