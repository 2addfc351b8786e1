//! The runtime options a client sends with Create and Checkpoint, and the files that keep them.
//!
//! Promise: options of a kind this shim does not know are refused, never dropped in silence.
//! The bundle's `options.json` and `runtime` files have the names and the form that containerd's
//! own shim gives them, because the `delete` of another shim version may have to read them.
//!
//! Answers to containerd's `containerd.runc.v1.Options` and `CheckpointOptions`.

use std::fs;
use std::io;
use std::path::Path;

use prost::Message;
use serde::{Deserialize, Serialize};
use shim_sdk::Payload;
use shim_sdk::file::read_regular;

use crate::error::EngineError;

/// The largest file of options that is read.
const MAX_OPTIONS_BYTES: u64 = 1 << 20;

/// How containers are made; absent fields have containerd's defaults.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    /// Use MS_MOVE instead of pivot_root.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_pivot_root: bool,
    /// Share the session keyring of the shim.
    #[prost(bool, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_new_keyring: bool,
    /// The cgroup that the shim itself goes to.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) shim_cgroup: String,
    /// Owner of the standard streams' pipes.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_uid: u32,
    /// Group of the standard streams' pipes.
    #[prost(uint32, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_gid: u32,
    /// The OCI runtime: a path, a name on PATH, or the name of the engine inside the shim.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) binary_name: String,
    /// Where the runtime keeps its records; a directory for each namespace is made below.
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) root: String,
    /// The criu that old clients name; criu is looked up on PATH since containerd 2.0.
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_path: String,
    /// Let systemd make the cgroups.
    #[prost(bool, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) systemd_cgroup: bool,
    /// Where criu's images are, if not where the request says.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_image_path: String,
    /// Where criu keeps its logs.
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_work_path: String,
}

/// How a checkpoint is made.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct CheckpointOptions {
    /// End the container with it.
    #[prost(bool, tag = "1")]
    pub(crate) exit: bool,
    /// Keep open TCP connections.
    #[prost(bool, tag = "2")]
    pub(crate) open_tcp: bool,
    /// Allow unix sockets whose other end is outside.
    #[prost(bool, tag = "3")]
    pub(crate) external_unix_sockets: bool,
    /// Allow a container with a terminal.
    #[prost(bool, tag = "4")]
    pub(crate) terminal: bool,
    /// Keep file locks.
    #[prost(bool, tag = "5")]
    pub(crate) file_locks: bool,
    /// Namespaces to be made afresh, without their content.
    #[prost(string, repeated, tag = "6")]
    pub(crate) empty_namespaces: Vec<String>,
    /// `soft`, `full` or `strict`.
    #[prost(string, tag = "7")]
    pub(crate) cgroups_mode: String,
    /// Where the images go, if not where the request says.
    #[prost(string, tag = "8")]
    pub(crate) image_path: String,
    /// Where criu keeps its logs.
    #[prost(string, tag = "9")]
    pub(crate) work_path: String,
}

/// The options that Kubernetes sends to a runtime it does not know: where its settings are.
#[derive(Clone, PartialEq, Eq, Message)]
struct GenericOptions {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

impl Options {
    /// Reads what a client sent; no options at all are the defaults.
    pub(crate) fn from_payload(payload: Option<&Payload>) -> Result<Self, EngineError> {
        let Some(payload) = payload.filter(|payload| !payload.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match type_name(payload) {
            // The second is what containerd 1.2 and some clients still write.
            "containerd.runc.v1.Options" | "io.containerd.runc.v1.Options" => decode(payload),
            "runtimeoptions.v1.Options" => {
                let generic: GenericOptions = decode(payload)?;
                if generic.config_path.is_empty() && generic.config_body.is_empty() {
                    return Ok(Self::default());
                }
                Err(malformed(
                    payload,
                    "a configuration file is not supported here; send containerd.runc.v1.Options",
                ))
            }
            _ => Err(malformed(
                payload,
                "not a type of options this runtime knows (containerd.runc.v1.Options)",
            )),
        }
    }

    /// Reads `options.json` of a bundle; the defaults if there is none.
    pub(crate) fn read(bundle: &Path) -> Result<Self, EngineError> {
        let path = bundle.join(OPTIONS_FILE);
        match read_regular(&path, MAX_OPTIONS_BYTES) {
            // containerd's own shim leaves an empty file where no options were sent.
            Ok(text) if text.is_empty() => Ok(Self::default()),
            Ok(text) => serde_json::from_slice(&text).map_err(|problem| EngineError::Malformed {
                what: path.display().to_string(),
                problem: problem.to_string(),
            }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(EngineError::file("read", path, cause)),
        }
    }

    /// Writes `options.json` and `runtime`.
    pub(crate) fn write(&self, bundle: &Path) -> Result<(), EngineError> {
        let path = bundle.join(OPTIONS_FILE);
        let text = serde_json::to_vec(self).map_err(|problem| EngineError::Malformed {
            what: path.display().to_string(),
            problem: problem.to_string(),
        })?;
        fs::write(&path, text).map_err(|cause| EngineError::file("write", path, cause))?;
        let path = bundle.join(RUNTIME_FILE);
        fs::write(&path, &self.binary_name).map_err(|cause| EngineError::file("write", path, cause))
    }
}

impl CheckpointOptions {
    /// Reads what a client sent; no options at all are the defaults.
    pub(crate) fn from_payload(payload: Option<&Payload>) -> Result<Self, EngineError> {
        let Some(payload) = payload.filter(|payload| !payload.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match type_name(payload) {
            "containerd.runc.v1.CheckpointOptions" | "io.containerd.runc.v1.CheckpointOptions" => {
                decode(payload)
            }
            _ => Err(malformed(payload, "not containerd.runc.v1.CheckpointOptions")),
        }
    }
}

const OPTIONS_FILE: &str = "options.json";
const RUNTIME_FILE: &str = "runtime";

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The message's name: type URLs come bare (`a.b.C`) and with a prefix (`type.googleapis.com/a.b.C`).
fn type_name(payload: &Payload) -> &str {
    payload.type_url.rsplit('/').next().unwrap_or_default()
}

fn decode<M: Message + Default>(payload: &Payload) -> Result<M, EngineError> {
    M::decode(payload.value.as_slice()).map_err(|problem| malformed(payload, &problem.to_string()))
}

fn malformed(payload: &Payload, problem: &str) -> EngineError {
    EngineError::Malformed {
        what: format!("runtime options {}", payload.type_url),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(type_url: &str, value: Vec<u8>) -> Payload {
        Payload { type_url: type_url.to_owned(), value }
    }

    #[test]
    fn options_are_read_under_every_type_url_clients_use() {
        let sent =
            Options { binary_name: "crun".into(), systemd_cgroup: true, ..Options::default() };
        for url in [
            "containerd.runc.v1.Options",
            "io.containerd.runc.v1.Options",
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            let read = Options::from_payload(Some(&payload(url, sent.encode_to_vec()))).unwrap();
            assert_eq!(read, sent);
        }
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(Options::from_payload(None).unwrap(), Options::default());
        assert_eq!(Options::from_payload(Some(&payload("", vec![]))).unwrap(), Options::default());
        let empty = payload("runtimeoptions.v1.Options", vec![]);
        assert_eq!(Options::from_payload(Some(&empty)).unwrap(), Options::default());
    }

    #[test]
    fn unknown_options_are_refused_by_name() {
        let refused = Options::from_payload(Some(&payload("a.b.C", vec![]))).unwrap_err();
        assert!(refused.to_string().contains("a.b.C"), "{refused}");
        let body = GenericOptions { config_path: "/etc/x.toml".into(), ..Default::default() };
        let refused = Options::from_payload(Some(&payload(
            "runtimeoptions.v1.Options",
            body.encode_to_vec(),
        )));
        assert!(refused.is_err());
    }

    #[test]
    fn options_survive_in_the_bundle_in_the_form_of_containerds_own_shim() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Options::read(bundle.path()).unwrap(), Options::default());
        let options = Options {
            binary_name: "/usr/bin/crun".into(),
            root: "/run/x".into(),
            io_uid: 7,
            ..Options::default()
        };
        options.write(bundle.path()).unwrap();
        assert_eq!(Options::read(bundle.path()).unwrap(), options);
        let text = fs::read_to_string(bundle.path().join("options.json")).unwrap();
        assert_eq!(text, r#"{"io_uid":7,"binary_name":"/usr/bin/crun","root":"/run/x"}"#);
        let runtime = fs::read_to_string(bundle.path().join("runtime")).unwrap();
        assert_eq!(runtime, "/usr/bin/crun");
        // A newer shim may have written options that this one does not know.
        fs::write(bundle.path().join("options.json"), r#"{"task_api_version":3}"#).unwrap();
        assert_eq!(Options::read(bundle.path()).unwrap(), Options::default());
    }
}
