//! What an archive means: the images in it, by either form's rules.

use super::{ArchiveFiles, BlobSink, StoredFile};
use crate::content::{ContentError, Descriptor, Digest, Request};
use crate::image::bounded::List;
use crate::image::error::{malformed, quoted};
use crate::image::manifest::{self, DockerImage, Index, MAX_DESCRIPTORS, Manifest, RawDescriptor};
use crate::image::{ImageError, media_type, reference};
use crate::metadata::Labels;

/// Names an image in full.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Names an image in full, or gives its tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Targets in one archive.
const MAX_IMAGES: u64 = 10_000;

/// An image that an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchivedImage {
    /// Its name or tag, if the archive gives one.
    pub(crate) name: Option<ArchivedName>,
    /// What the name is to point to.
    pub(crate) target: Descriptor,
}

/// What an archive calls an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ArchivedName {
    /// A name, in full form.
    Name(String),
    /// A tag without a name.
    Tag(String),
}

/// The images in `contents`, in the archive's order.
pub(crate) fn images(
    contents: &ArchiveFiles,
    sink: &BlobSink,
) -> Result<Vec<ArchivedImage>, ImageError> {
    let found = if let Some(index) = contents.document("index.json") {
        check_version(contents)?;
        layout(index)?
    } else if let Some(saved) = contents.document("manifest.json") {
        docker(saved, contents, sink)?
    } else {
        return Err(ImageError::NotAnImage);
    };
    if found.is_empty() {
        return Err(malformed("the archive's index", "it names no image"));
    }
    if found.len() as u64 > MAX_IMAGES {
        return Err(ImageError::Limit { what: "archive's images".into(), limit: MAX_IMAGES });
    }
    Ok(found)
}

fn check_version(contents: &ArchiveFiles) -> Result<(), ImageError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    // Tools that leave the file out are tolerated, as containerd does.
    let Some(bytes) = contents.document("oci-layout") else { return Ok(()) };
    let layout: Layout = manifest::parse("oci-layout", bytes)?;
    if layout.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let reason = format!("version \"{}\" is not known", quoted(&layout.image_layout_version));
    Err(malformed("oci-layout", reason))
}

fn layout(index: &[u8]) -> Result<Vec<ArchivedImage>, ImageError> {
    let index: Index = manifest::parse("index.json", index)?;
    index
        .manifests
        .iter()
        .map(|link| {
            let mut target = link.descriptor("index.json")?;
            let name = match target.annotations.get(IMAGE_NAME) {
                // As it is, when it can be a name: containerd does not complete it.
                Some(name) => named(name).map(|_| ArchivedName::Name(name.clone())),
                None => match target.annotations.get(REF_NAME) {
                    Some(tag) if reference::is_tag(tag) => Some(ArchivedName::Tag(tag.clone())),
                    Some(name) => named(name).map(ArchivedName::Name),
                    None => None,
                },
            };
            if target.media_type.is_empty() {
                target.media_type = media_type::OCI_MANIFEST.to_owned();
            }
            Ok(ArchivedImage { name, target })
        })
        .collect()
}

/// The full form of a name. An image whose name can be none is kept by its digest: it may be whole,
/// and its name a version number (`1.0.0+build.5`) or that of another program (`Team/App:1`).
fn named(name: &str) -> Option<String> {
    match reference::normalize(name) {
        Ok(name) => Some(name),
        Err(error) => {
            log::warn!("an image in an archive is called by its digest: {error}");
            None
        }
    }
}

/// Docker's form has no manifests: they are made here, and stored.
fn docker(
    saved: &[u8],
    contents: &ArchiveFiles,
    sink: &BlobSink,
) -> Result<Vec<ArchivedImage>, ImageError> {
    let saved: List<DockerImage, MAX_DESCRIPTORS> = manifest::parse("manifest.json", saved)?;
    let mut found = Vec::new();
    for image in saved.0 {
        let file = |what, name: &str| {
            contents.file(name).ok_or_else(|| ImageError::Missing {
                by: "manifest.json".to_owned(),
                what,
                name: quoted(name),
            })
        };
        let config = link(media_type::DOCKER_CONFIG, file("config", &image.config)?);
        let layers = image
            .layers
            .iter()
            .map(|name| file("layer", name).map(|stored| link(layer_type(stored), stored)))
            .collect::<Result<Vec<_>, _>>()
            .map(List)?;
        let media_type = media_type::DOCKER_MANIFEST.to_owned();
        let manifest = Manifest { schema_version: 2, media_type, config, layers };
        let target = put(&manifest, sink)?;
        if image.repo_tags.is_empty() {
            found.push(ArchivedImage { name: None, target: target.clone() });
        }
        for tag in image.repo_tags.iter() {
            let name = named(tag).map(ArchivedName::Name);
            found.push(ArchivedImage { name, target: target.clone() });
        }
        if found.len() as u64 > MAX_IMAGES {
            break; // refused by the caller
        }
    }
    Ok(found)
}

fn link(media_type: &str, stored: &StoredFile) -> RawDescriptor {
    RawDescriptor {
        media_type: media_type.to_owned(),
        digest: stored.digest.to_string(),
        size: stored.size_bytes,
        annotations: None,
        platform: None,
    }
}

fn layer_type(stored: &StoredFile) -> &'static str {
    use installer::layer::Compression;
    match Compression::detect(&stored.head) {
        Compression::None => media_type::DOCKER_LAYER,
        Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
        Compression::Zstd => media_type::DOCKER_LAYER_ZSTD,
    }
}

fn put(manifest: &Manifest, sink: &BlobSink) -> Result<Descriptor, ImageError> {
    let bytes = serde_json::to_vec(manifest)
        .map_err(|cause| malformed("the manifest made for the archive", cause))?;
    let digest = Digest::of(&bytes);
    let target = Descriptor {
        media_type: manifest.media_type.clone(),
        digest: digest.clone(),
        size_bytes: bytes.len() as u64,
        annotations: Labels::new(),
    };
    let request = Request {
        reference: format!("{}-{digest}", sink.lease),
        total_bytes: target.size_bytes,
        expected: Some(digest.clone()),
        lease: Some(sink.lease.clone()),
        replace: false,
    };
    let written = sink.store.ingest(&sink.namespace, request).and_then(|mut ingest| {
        if ingest.status().offset == 0 {
            ingest.write(&bytes)?;
        }
        ingest.commit(target.size_bytes, Some(&digest), Labels::new())
    });
    match written {
        Ok(_) | Err(ContentError::AlreadyExists(_)) => Ok(target),
        Err(other) => Err(other.into()),
    }
}
