//! The media types of image documents and layers, OCI's and docker's.
//!
//! A new media type goes here; `manifest.rs` decides by it how a document is read.
//! See the OCI image specification (media-types.md) and docker's image manifest 2, schema 2.

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(crate) const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// RFC 6838 allows 127 characters for each of the two parts.
const MAX_BYTES: usize = 255;

/// Whether `text` is `type/subtype` as RFC 6838 defines it. Empty is accepted: a document need not
/// give the media type of what it refers to.
pub(super) fn is_media_type(text: &str) -> bool {
    let is_name = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let has_two_names =
        || text.split_once('/').is_some_and(|(kind, of)| is_name(kind) && is_name(of));
    text.is_empty() || (text.len() <= MAX_BYTES && has_two_names())
}
