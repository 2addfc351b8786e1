//! The JSON documents of images, as much of them as transfers need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Platform, TransferError};
use crate::content::{self, Digest};

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

/// A reference from one document to another, or to a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing)]
    pub(super) platform: Option<PlatformField>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct PlatformField {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// An index, and `index.json` of a layout.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Link>,
}

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    pub(super) config: Link,
    pub(super) layers: Vec<Link>,
}

/// An image's config.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    platform: PlatformField,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

/// One image in docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Vec<String>,
}

/// What a target turned out to be.
pub(super) enum Target {
    Index(Index),
    Manifest(Manifest),
}

impl Link {
    /// The descriptor, for a link found in `document`.
    pub(super) fn descriptor(&self, document: &str) -> Result<content::Descriptor, TransferError> {
        Ok(content::Descriptor {
            media_type: self.media_type.clone(),
            digest: digest(document, &self.digest)?,
            size_bytes: self.size,
            annotations: self.annotations.clone().unwrap_or_default(),
        })
    }

    /// The platform it says it is for.
    pub(super) fn platform(&self) -> Option<Platform> {
        self.platform.clone().map(PlatformField::platform)
    }
}

impl PlatformField {
    fn platform(self) -> Platform {
        Platform { os: self.os, architecture: self.architecture, variant: self.variant }
    }
}

impl Config {
    /// The platform it is for.
    pub(super) fn platform(&self) -> Platform {
        self.platform.clone().platform()
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
        manifests: Option<serde_json::Value>,
        layers: Option<serde_json::Value>,
    }
    let index = match media_type {
        media::OCI_INDEX | media::DOCKER_INDEX => true,
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => false,
        _ => {
            let shape: Shape = parse(document, bytes)?;
            if shape.manifests.is_none() && shape.layers.is_none() {
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

pub(super) fn malformed(document: &str, reason: impl ToString) -> TransferError {
    TransferError::Malformed { document: document.to_owned(), reason: reason.to_string() }
}
