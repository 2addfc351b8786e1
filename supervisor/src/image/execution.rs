//! The part of an image's config that containers are made from.
//!
//! Fields that are absent or null are empty.
//! See the OCI image specification, config.md, and docker's image format 1.2.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bounded::or_default;
use super::manifest::RootFs;

/// Command, user, environment and the like of an image's containers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecutionConfig {
    #[serde(deserialize_with = "or_default")]
    pub(crate) user: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) stop_signal: String,
}

/// An image's config, as far as containers are made from it. Not part of
/// [`manifest::Config`](super::manifest::Config): an import reads that of many images and keeps no
/// environments and labels.
#[derive(Debug, Deserialize)]
pub(crate) struct RunnableConfig {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) config: ExecutionConfig,
    pub(crate) rootfs: RootFs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_with_nulls_and_unknown_fields_are_read() {
        let json = r#"{"config":{"Cmd":["sh"],"Env":null,"Labels":null,"Healthcheck":{}},
            "rootfs":{"type":"layers","diff_ids":["sha256:aa"]},"history":[]}"#;
        let image: RunnableConfig = serde_json::from_str(json).unwrap();
        assert_eq!(image.config.cmd, ["sh"]);
        assert!(image.config.env.is_empty());
        let json = r#"{"config":null,"rootfs":{"diff_ids":["sha256:aa"]}}"#;
        assert!(serde_json::from_str::<RunnableConfig>(json).unwrap().config.cmd.is_empty());
    }
}
