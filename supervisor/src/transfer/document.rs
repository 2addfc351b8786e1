//! The JSON documents of images, as much of them as transfers need.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::bounded::{Annotations, List, or_default};
use super::{Platform, TransferError};
use crate::content::{self, Digest};
use crate::text::{QUOTED_BYTES, escaped};

/// Media types, OCI's and docker's.
pub(super) mod media {
    pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const DOCKER_INDEX: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub(crate) const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub(crate) const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
}

/// The largest document that is read, as in containerd.
pub(super) const MAX_BYTES: u64 = 8 << 20;
/// Links in one index. The largest seen have some hundred.
pub(super) const MAX_LINKS: usize = 10_000;
/// Layers of one image: overlayfs takes 500.
const MAX_LAYERS: usize = 1024;
/// RFC 6838 has 127 characters for each of the two parts.
const MAX_MEDIA_TYPE_BYTES: usize = 255;
/// `linux`, `amd64`, `v8`.
const MAX_PLATFORM_BYTES: usize = 64;

/// A reference from one document to another, or to a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<Annotations>,
    #[serde(default, skip_serializing)]
    pub(super) platform: Option<PlatformField>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct PlatformField {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
}

/// An index, and `index.json` of a layout.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: List<Link, MAX_LINKS>,
}

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) schema_version: u32,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    pub(super) config: Link,
    #[serde(default)]
    pub(super) layers: List<Link, MAX_LAYERS>,
}

/// An image's config. Not flattened: that would hold every other field of the document.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: List<String, MAX_LAYERS>,
}

/// One image in docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: List<String, MAX_LINKS>,
    #[serde(default)]
    pub(super) layers: List<String, MAX_LAYERS>,
}

/// What a target turned out to be.
pub(super) enum Target {
    Index(Index),
    Manifest(Manifest),
}

impl Link {
    /// The descriptor, for a link found in `document`.
    pub(super) fn descriptor(&self, document: &str) -> Result<content::Descriptor, TransferError> {
        if !is_media_type(&self.media_type) {
            let shown = escaped(&self.media_type, QUOTED_BYTES);
            return Err(malformed(document, format!("\"{shown}\" is no media type")));
        }
        Ok(content::Descriptor {
            media_type: self.media_type.clone(),
            digest: digest(document, &self.digest)?,
            size_bytes: self.size,
            annotations: self.annotations.clone().unwrap_or_default().0,
        })
    }

    /// The platform it says it is for.
    pub(super) fn platform(&self, document: &str) -> Result<Option<Platform>, TransferError> {
        self.platform.clone().map(|field| field.platform(document)).transpose()
    }
}

impl PlatformField {
    fn platform(self, document: &str) -> Result<Platform, TransferError> {
        for part in [&self.os, &self.architecture, &self.variant] {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if part.len() > MAX_PLATFORM_BYTES || !part.bytes().all(good) {
                let shown = escaped(part, QUOTED_BYTES);
                return Err(malformed(document, format!("\"{shown}\" is no part of a platform")));
            }
        }
        let (os, architecture, variant) = (self.os, self.architecture, self.variant);
        Ok(Platform { os, architecture, variant }.normalized())
    }
}

impl Config {
    /// The platform it is for.
    pub(super) fn platform(&self, document: &str) -> Result<Platform, TransferError> {
        let (os, architecture) = (self.os.clone(), self.architecture.clone());
        PlatformField { os, architecture, variant: self.variant.clone() }.platform(document)
    }

    /// The digests of its layers' uncompressed archives.
    pub(super) fn diff_ids(&self, document: &str) -> Result<Vec<Digest>, TransferError> {
        self.rootfs.diff_ids.iter().map(|diff_id| digest(document, diff_id)).collect()
    }
}

/// Reads `bytes`, which `document` names.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(
    document: &str,
    bytes: &[u8],
) -> Result<T, TransferError> {
    serde_json::from_slice(bytes).map_err(|cause| malformed(document, cause))
}

/// Reads an index or a manifest: the media type decides, or without one what is inside.
pub(super) fn parse_target(
    document: &str,
    media_type: &str,
    bytes: &[u8],
) -> Result<Target, TransferError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
    }
    let index = match media_type {
        media::OCI_INDEX | media::DOCKER_INDEX => true,
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => false,
        _ => {
            let shape: Shape = parse(document, bytes)?;
            if shape.manifests.is_none() && shape.layers.is_none() && shape.config.is_none() {
                return Err(malformed(document, "it is neither an index nor a manifest"));
            }
            shape.manifests.is_some()
        }
    };
    if index {
        parse(document, bytes).map(Target::Index)
    } else {
        parse(document, bytes).map(Target::Manifest)
    }
}

/// A digest found in `document`.
pub(super) fn digest(document: &str, text: &str) -> Result<Digest, TransferError> {
    Digest::parse(text).map_err(|cause| malformed(document, cause))
}

/// `reason` may quote what the document says, of any length.
pub(super) fn malformed(document: &str, reason: impl ToString) -> TransferError {
    let reason = escaped(&reason.to_string(), QUOTED_BYTES).to_string();
    TransferError::Malformed { document: document.to_owned(), reason }
}

/// `type/subtype` by RFC 6838; empty where a document does not say.
fn is_media_type(text: &str) -> bool {
    let is_name = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let named = || text.split_once('/').is_some_and(|(kind, of)| is_name(kind) && is_name(of));
    text.is_empty() || (text.len() <= MAX_MEDIA_TYPE_BYTES && named())
}
