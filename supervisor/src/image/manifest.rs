//! The JSON documents of images: index, manifest, config and docker's `manifest.json`.
//!
//! Only the fields that are needed here are read, and every list is bounded. `oci-spec`'s image
//! types are not used: they refuse documents that containerd and docker accept, and their lists
//! have no bound.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::bounded::{Annotations, List, or_default};
use super::error::malformed;
use super::{ImageError, Platform, media_type};
use crate::content::{self, Digest};
use crate::text::{QUOTED_BYTES, escaped};

/// The largest document that is read, as in containerd.
pub(crate) const MAX_BYTES: u64 = 8 << 20;
/// Links in one index. The largest seen have some hundred.
pub(crate) const MAX_DESCRIPTORS: usize = 10_000;
/// Layers of one image: overlayfs takes 500.
const MAX_LAYERS: usize = 1024;
/// `linux`, `amd64`, `v8`.
const MAX_PLATFORM_BYTES: usize = 64;

/// A reference from one document to another, or to a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawDescriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Annotations>,
    #[serde(default, skip_serializing)]
    pub(crate) platform: Option<RawPlatform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RawPlatform {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
}

/// An index, and `index.json` of a layout.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: List<RawDescriptor, MAX_DESCRIPTORS>,
}

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: RawDescriptor,
    #[serde(default)]
    pub(crate) layers: List<RawDescriptor, MAX_LAYERS>,
}

/// An image's config. Not flattened: that would hold every other field of the document.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: List<String, MAX_LAYERS>,
}

/// One image in docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: List<String, MAX_DESCRIPTORS>,
    #[serde(default)]
    pub(crate) layers: List<String, MAX_LAYERS>,
}

/// An index or a manifest, as an image's target may be either.
pub(crate) enum IndexOrManifest {
    Index(Index),
    Manifest(Manifest),
}

impl RawDescriptor {
    /// The descriptor, for a link found in `document`.
    pub(crate) fn descriptor(&self, document: &str) -> Result<content::Descriptor, ImageError> {
        if !media_type::is_media_type(&self.media_type) {
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
    pub(crate) fn platform(&self, document: &str) -> Result<Option<Platform>, ImageError> {
        self.platform.clone().map(|field| field.platform(document)).transpose()
    }
}

impl RawPlatform {
    fn platform(self, document: &str) -> Result<Platform, ImageError> {
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

impl RootFs {
    /// The digests of the layers' uncompressed archives.
    pub(crate) fn diff_ids(&self, document: &str) -> Result<Vec<Digest>, ImageError> {
        self.diff_ids.iter().map(|diff_id| digest(document, diff_id)).collect()
    }
}

impl Config {
    /// The platform it is for.
    pub(crate) fn platform(&self, document: &str) -> Result<Platform, ImageError> {
        let (os, architecture) = (self.os.clone(), self.architecture.clone());
        RawPlatform { os, architecture, variant: self.variant.clone() }.platform(document)
    }
}

/// Reads `bytes`, which `document` names.
pub(crate) fn parse<T: for<'a> Deserialize<'a>>(
    document: &str,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|cause| malformed(document, cause))
}

/// Reads an index or a manifest: the media type decides, or without one what is inside.
pub(crate) fn parse_index_or_manifest(
    document: &str,
    media_type: &str,
    bytes: &[u8],
) -> Result<IndexOrManifest, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
    }
    let index = match media_type {
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => true,
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => false,
        _ => {
            let shape: Shape = parse(document, bytes)?;
            if shape.manifests.is_none() && shape.layers.is_none() && shape.config.is_none() {
                return Err(malformed(document, "it is neither an index nor a manifest"));
            }
            shape.manifests.is_some()
        }
    };
    if index {
        parse(document, bytes).map(IndexOrManifest::Index)
    } else {
        parse(document, bytes).map(IndexOrManifest::Manifest)
    }
}

/// A digest found in `document`.
pub(crate) fn digest(document: &str, text: &str) -> Result<Digest, ImageError> {
    Digest::parse(text).map_err(|cause| malformed(document, cause))
}
