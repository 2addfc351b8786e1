//! What an image says of the containers made from it.
//!
//! Reads the manifest for this platform and its configuration from the content store; both are
//! bounded, and fields that are absent or null are empty.
//! See the OCI image specification (manifest.md, config.md) and docker's image format 1.2.

use std::collections::BTreeMap;

use protos::grpc::containerd::services::content::v1::ReadContentRequest;
use protos::grpc::containerd::services::images::v1::{GetImageRequest, Image};
use protos::grpc::containerd::types;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use super::client::Client;
use super::error::CliError;

const MAX_JSON_BYTES: usize = 8 << 20;

/// An image ready to be run.
pub(crate) struct RunImage {
    pub(crate) name: String,
    /// Its layers, the base first.
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Config,
}

/// A layer, packed and unpacked.
pub(crate) struct Layer {
    /// The archive as it is stored.
    pub(crate) blob: types::Descriptor,
    /// The snapshot that has this layer and all below it.
    pub(crate) chain_id: String,
}

/// The part of the configuration that containers are made from.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) stop_signal: String,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default, deserialize_with = "null_is_empty")]
    config: Config,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A manifest or an index: whichever of the two fields is there decides.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && self.architecture == architecture
    }
}

/// Finds an image by its name, in full or as it is typed for short.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Image, CliError> {
    // All at once: it costs no more than asking for the likeliest alone.
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

/// The image and what its configuration says.
pub(crate) async fn resolve(client: &Client, name: &str) -> Result<RunImage, CliError> {
    let image = find(client, name).await?;
    let bad = |why: String| CliError::BadImage { name: name.to_owned(), why };
    let target = image.target.as_ref().ok_or_else(|| bad("it has no target".into()))?;
    let mut digest = target.digest.clone();
    // An index may hold indexes, but nobody makes towers of them.
    for _ in 0..4 {
        let manifest: Manifest = read_json(client, name, "manifest", &digest).await?;
        if let Some(config) = manifest.config {
            let config: ImageConfig = read_json(client, name, "config", &config.digest).await?;
            let chain_ids = chain_ids(&config.rootfs.diff_ids);
            if chain_ids.is_empty() || chain_ids.len() != manifest.layers.len() {
                let (diff_ids, layers) = (chain_ids.len(), manifest.layers.len());
                return Err(bad(format!("it has {layers} layers, its config {diff_ids}")));
            }
            let layers = manifest.layers.into_iter().zip(chain_ids).map(Layer::from).collect();
            return Ok(RunImage { name: image.name, layers, config: config.config });
        }
        digest = choose(&manifest.manifests)
            .ok_or_else(|| bad(format!("it has no manifest for {}", std::env::consts::ARCH)))?;
    }
    Err(bad("its indexes are nested too deeply".into()))
}

/// The manifest for this platform; one without a platform is for any.
fn choose(manifests: &[Descriptor]) -> Option<String> {
    let ours = |manifest: &&Descriptor| manifest.platform.as_ref().is_some_and(Platform::is_ours);
    manifests
        .iter()
        .find(ours)
        .or_else(|| manifests.iter().find(|manifest| manifest.platform.is_none()))
        .map(|manifest| manifest.digest.clone())
}

async fn read_json<T: serde::de::DeserializeOwned>(
    client: &Client,
    name: &str,
    what: &str,
    digest: &str,
) -> Result<T, CliError> {
    let failed = |status| CliError::call(format!("image {name}: read {what} {digest}"), status);
    let bad = |why| CliError::BadImage { name: name.to_owned(), why };
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut pieces = client.content().read(request).await.map_err(failed)?.into_inner();
    let mut json = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(failed)? {
        if json.len() + piece.data.len() > MAX_JSON_BYTES {
            return Err(bad(format!("its {what} is larger than {MAX_JSON_BYTES} bytes")));
        }
        json.extend_from_slice(&piece.data);
    }
    serde_json::from_slice(&json).map_err(|error| bad(format!("its {what} {digest}: {error}")))
}

impl From<(Descriptor, String)> for Layer {
    fn from((blob, chain_id): (Descriptor, String)) -> Self {
        let blob = types::Descriptor {
            media_type: blob.media_type,
            digest: blob.digest,
            size: blob.size,
            ..types::Descriptor::default()
        };
        Self { blob, chain_id }
    }
}

/// For each of a list of layers, the base first, the name of the snapshot that holds it and all
/// below it.
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain_ids.push(match chain_ids.last() {
            None => diff_id.clone(),
            Some(below) => {
                let digest = Sha256::digest(format!("{below} {diff_id}"));
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        });
    }
    chain_ids
}

/// What a name typed for short may stand for, likeliest first.
pub(crate) fn candidates(name: &str) -> Vec<String> {
    let mut candidates = vec![name.to_owned()];
    let last = name.rsplit('/').next().unwrap_or(name);
    let tagged = if last.contains(':') || last.contains('@') {
        name.to_owned()
    } else {
        candidates.push(format!("{name}:latest"));
        format!("{name}:latest")
    };
    match name.split_once('/') {
        None => candidates.push(format!("docker.io/library/{tagged}")),
        Some((host, _)) if !host.contains(['.', ':']) && host != "localhost" => {
            candidates.push(format!("docker.io/{tagged}"));
        }
        Some(_) => {}
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_one_layer_are_its_diff_id() {
        assert!(chain_ids(&[]).is_empty());
        let two = chain_ids(&["sha256:aa".into(), "sha256:bb".into()]);
        assert_eq!(two[0], "sha256:aa");
        let digest = Sha256::digest(b"sha256:aa sha256:bb");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(two[1], format!("sha256:{hex}"));
    }

    #[test]
    fn short_names_stand_for_dockers_long_ones() {
        let all = |name| candidates(name).join(" ");
        assert_eq!(all("busybox"), "busybox busybox:latest docker.io/library/busybox:latest");
        assert_eq!(all("busybox:1"), "busybox:1 docker.io/library/busybox:1");
        assert_eq!(all("me/app"), "me/app me/app:latest docker.io/me/app:latest");
        assert_eq!(all("localhost/app:1"), "localhost/app:1");
        assert_eq!(all("r.example:5000/app"), "r.example:5000/app r.example:5000/app:latest");
    }

    #[test]
    fn configurations_with_nulls_and_unknown_fields_are_read() {
        let json = r#"{"config":{"Cmd":["sh"],"Env":null,"Labels":null,"Healthcheck":{}},
            "rootfs":{"type":"layers","diff_ids":["sha256:aa"]},"history":[]}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty());
        let json = r#"{"config":null,"rootfs":{"diff_ids":["sha256:aa"]}}"#;
        assert!(serde_json::from_str::<ImageConfig>(json).unwrap().config.cmd.is_empty());
    }

    #[test]
    fn the_manifest_for_this_platform_is_chosen() {
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let json = format!(
            r#"{{"manifests":[{{"digest":"a","platform":{{"os":"linux","architecture":"s390x"}}}},
                {{"digest":"b","platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#
        );
        let index: Manifest = serde_json::from_str(&json).unwrap();
        assert_eq!(choose(&index.manifests).unwrap(), "b");
        assert!(choose(&index.manifests[..1]).is_none());
    }
}
