//! Finds an image by name, and reads what is needed to run it, through the daemon's API.
//!
//! Documents are read from the content store, bounded in size, and parsed by [`crate::image`].

use protos::grpc::containerd::services::content::v1::ReadContentRequest;
use protos::grpc::containerd::services::images::v1::{GetImageRequest, Image};
use protos::grpc::containerd::types;
use tonic::{Code, Status};

use super::client::Client;
use super::error::CliError;
use crate::content::{Descriptor, Digest};
use crate::image::manifest::{self, IndexOrManifest, MAX_BYTES, Manifest};
use crate::image::reference::candidates;
use crate::image::{ExecutionConfig, ImageError, Platform, RunnableConfig, chain_ids};

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;

/// An image ready to be run.
pub(crate) struct RunImage {
    pub(crate) name: String,
    /// Its layers, the base first.
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: ExecutionConfig,
}

/// A layer, packed and unpacked.
pub(crate) struct Layer {
    /// The blob in the content store.
    pub(crate) blob: types::Descriptor,
    /// The snapshot that has this layer and all below it.
    pub(crate) chain_id: String,
}

/// Finds an image by its full or short name.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Image, CliError> {
    // All candidates at once: that takes no longer than one call.
    let asked: Vec<_> = candidates(name)
        .into_iter()
        .map(|name| {
            let mut images = client.images();
            tokio::spawn(async move { images.get(GetImageRequest { name }).await })
        })
        .collect();
    for answer in asked {
        let failed = |status| CliError::call(format!("image {name}"), status);
        match answer.await.map_err(|error| failed(Status::internal(error.to_string())))? {
            Ok(answer) => {
                if let Some(image) = answer.into_inner().image {
                    return Ok(image);
                }
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(failed(status)),
        }
    }
    Err(CliError::NoImage { name: name.to_owned() })
}

/// The image's layers and its config, for this platform.
pub(crate) async fn resolve(client: &Client, name: &str) -> Result<RunImage, CliError> {
    let image = find(client, name).await?;
    let bad = |why: String| CliError::BadImage { name: name.to_owned(), why };
    let malformed = |cause: ImageError| bad(shim_sdk::error::report(&cause));
    let target = image.target.as_ref().ok_or_else(|| bad("it has no target".into()))?;
    let (mut media_type, mut digest) = (target.media_type.clone(), target.digest.clone());
    for _ in 0..MAX_DEPTH {
        let document = format!("manifest {digest}");
        let bytes = read(client, name, &document, &digest).await?;
        match manifest::parse_index_or_manifest(&document, &media_type, &bytes)
            .map_err(malformed)?
        {
            IndexOrManifest::Manifest(manifest) => {
                let document = format!("config {}", manifest.config.digest);
                let bytes = read(client, name, &document, &manifest.config.digest).await?;
                let config: RunnableConfig =
                    manifest::parse(&document, &bytes).map_err(malformed)?;
                let diff_ids = config.rootfs.diff_ids(&document).map_err(malformed)?;
                let layers = layers(&manifest, &diff_ids).map_err(malformed)?;
                if diff_ids.is_empty() || diff_ids.len() != manifest.layers.len() {
                    let (count, diff_ids) = (manifest.layers.len(), diff_ids.len());
                    return Err(bad(format!("it has {count} layers, its config {diff_ids}")));
                }
                return Ok(RunImage { name: image.name, layers, config: config.config });
            }
            IndexOrManifest::Index(index) => {
                let link = index.select(&document, &Platform::host()).map_err(malformed)?;
                (media_type, digest) = (link.media_type.clone(), link.digest.clone());
            }
        }
    }
    Err(bad("its indexes are nested too deeply".into()))
}

/// The layers of `manifest` with the snapshots that `diff_ids` give them.
fn layers(manifest: &Manifest, diff_ids: &[Digest]) -> Result<Vec<Layer>, ImageError> {
    let layer = |(link, chain_id): (&manifest::RawDescriptor, Digest)| {
        let Descriptor { media_type, digest, size_bytes, .. } = link.descriptor("manifest")?;
        let blob = types::Descriptor {
            media_type,
            digest: digest.to_string(),
            size: i64::try_from(size_bytes).unwrap_or(i64::MAX),
            ..types::Descriptor::default()
        };
        Ok(Layer { blob, chain_id: chain_id.to_string() })
    };
    manifest.layers.iter().zip(chain_ids(diff_ids)).map(layer).collect()
}

/// The bytes of a document.
async fn read(
    client: &Client,
    name: &str,
    document: &str,
    digest: &str,
) -> Result<Vec<u8>, CliError> {
    let failed = |status| CliError::call(format!("image {name}: read {document}"), status);
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut pieces = client.content().read(request).await.map_err(failed)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(failed)? {
        if (bytes.len() + piece.data.len()) as u64 > MAX_BYTES {
            let why = format!("its {document} is larger than {MAX_BYTES} bytes");
            return Err(CliError::BadImage { name: name.to_owned(), why });
        }
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}
