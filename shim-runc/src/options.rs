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

use serde::{Deserialize, Serialize};
use shim_sdk::Payload;
use shim_sdk::file::read_regular;
use shim_sdk::messages::{Empty, Message, UnknownValueRef, runc_options};

use crate::error::{EngineError, Input};

/// The largest file of options that is read.
const MAX_OPTIONS_BYTES: u64 = 1 << 20;

/// The runtime options of Create, as `options.json` holds them; absent fields have containerd's
/// defaults.
///
/// Two fields of the message are not kept, since a shim has no use for them: the address and the
/// version of a task service that is served elsewhere. The criu path that clients before containerd
/// 2.0 sent is no field any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    /// Use MS_MOVE instead of pivot_root(2).
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_pivot_root: bool,
    /// Share the session keyring of the shim.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_new_keyring: bool,
    /// The cgroup of the shim itself.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) shim_cgroup: String,
    /// User that owns the pipes of the standard streams.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_uid: u32,
    /// Group that owns the pipes of the standard streams.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_gid: u32,
    /// The OCI runtime: a path, a name on PATH, or the name of the engine inside the shim.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) binary_name: String,
    /// Root directory of the runtime's state; each namespace has a directory below it.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) root: String,
    /// Let systemd create the cgroups.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) systemd_cgroup: bool,
    /// The directory of criu's images, if it is not the one in the request.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_image_path: String,
    /// The directory of criu's logs.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_work_path: String,
}

/// The options of a checkpoint.
pub(crate) use runc_options::CheckpointOptions;

impl From<runc_options::Options> for Options {
    fn from(message: runc_options::Options) -> Self {
        Self {
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: message.shim_cgroup,
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            binary_name: message.binary_name,
            root: message.root,
            systemd_cgroup: message.systemd_cgroup,
            criu_image_path: message.criu_image_path,
            criu_work_path: message.criu_work_path,
        }
    }
}

impl Options {
    /// Reads what a client sent; no options at all are the defaults.
    pub(crate) fn from_payload(payload: Option<&Payload>) -> Result<Self, EngineError> {
        let Some(payload) = payload.filter(|payload| !payload.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match type_name(payload) {
            // The second is what containerd 1.2 and some clients still write.
            "containerd.runc.v1.Options" | "io.containerd.runc.v1.Options" => {
                decode::<runc_options::Options>(payload).map(Self::from)
            }
            "runtimeoptions.v1.Options" => {
                if !names_configuration(payload)? {
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
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|cause| EngineError::malformed(Input::OptionsFile(path), cause)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(EngineError::file("read", path, cause)),
        }
    }

    /// Writes `options.json` and `runtime`.
    pub(crate) fn write(&self, bundle: &Path) -> Result<(), EngineError> {
        let path = bundle.join(OPTIONS_FILE);
        let text = serde_json::to_vec(self)
            .map_err(|cause| EngineError::malformed(Input::OptionsFile(path.clone()), cause))?;
        fs::write(&path, text).map_err(|cause| EngineError::file("write", path, cause))?;
        let path = bundle.join(RUNTIME_FILE);
        fs::write(&path, &self.binary_name).map_err(|cause| EngineError::file("write", path, cause))
    }
}

/// Decodes the options of a Checkpoint; no options at all are the defaults.
pub(crate) fn checkpoint_options(
    payload: Option<&Payload>,
) -> Result<CheckpointOptions, EngineError> {
    let Some(payload) = payload.filter(|payload| !payload.type_url.is_empty()) else {
        return Ok(CheckpointOptions::default());
    };
    match type_name(payload) {
        "containerd.runc.v1.CheckpointOptions" | "io.containerd.runc.v1.CheckpointOptions" => {
            decode(payload)
        }
        _ => Err(malformed(payload, "not containerd.runc.v1.CheckpointOptions")),
    }
}

/// Whether `runtimeoptions.v1.Options`, which Kubernetes' CRI sends to a runtime without settings
/// of a known type, names a configuration: field 2 is the path of a file, field 3 the content.
///
/// No crate in use has this message, so its two fields are looked up by their numbers.
fn names_configuration(payload: &Payload) -> Result<bool, EngineError> {
    let message: Empty = decode(payload)?;
    let fields = message.special_fields.unknown_fields();
    Ok(fields.iter().any(|(number, value)| match value {
        UnknownValueRef::LengthDelimited(bytes) => matches!(number, 2 | 3) && !bytes.is_empty(),
        UnknownValueRef::Fixed32(_) | UnknownValueRef::Fixed64(_) | UnknownValueRef::Varint(_) => {
            false
        }
    }))
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

fn decode<M: Message>(payload: &Payload) -> Result<M, EngineError> {
    M::parse_from_bytes(&payload.value).map_err(|problem| malformed(payload, problem))
}

fn malformed(
    payload: &Payload,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> EngineError {
    EngineError::malformed(Input::Options { type_url: payload.type_url.clone() }, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(type_url: &str, value: Vec<u8>) -> Payload {
        Payload { type_url: type_url.to_owned(), value }
    }

    #[test]
    fn options_are_read_under_every_type_url_clients_use() {
        let sent = runc_options::Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            ..runc_options::Options::default()
        };
        for url in [
            "containerd.runc.v1.Options",
            "io.containerd.runc.v1.Options",
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            let read =
                Options::from_payload(Some(&payload(url, sent.write_to_bytes().unwrap()))).unwrap();
            let sent = sent.clone().into();
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
        // The path of a configuration, then its content, then its type alone.
        let generic = |body: &[u8]| {
            Options::from_payload(Some(&payload("runtimeoptions.v1.Options", body.to_vec())))
        };
        assert!(generic(b"\x12\x0b/etc/x.toml").is_err());
        assert!(generic(b"\x1a\x01x").is_err());
        assert_eq!(generic(b"\x0a\x01x\x12\x00").unwrap(), Options::default());
    }

    #[test]
    fn every_option_is_read_from_the_bytes_that_containerd_sends() {
        // Fields 1 to 13 in their order. Field 8 was criu's path before containerd 2.0.
        let bytes = b"\x08\x01\x10\x01\x1a\x02/s\x20\x07\x28\x08\x32\x04crun\x3a\x02/r\x42\x02/c\
                      \x48\x01\x52\x02/i\x5a\x02/w\x62\x02/t\x68\x03";
        let read =
            Options::from_payload(Some(&payload("containerd.runc.v1.Options", bytes.to_vec())));
        let expected = Options {
            no_pivot_root: true,
            no_new_keyring: true,
            shim_cgroup: "/s".into(),
            io_uid: 7,
            io_gid: 8,
            binary_name: "crun".into(),
            root: "/r".into(),
            systemd_cgroup: true,
            criu_image_path: "/i".into(),
            criu_work_path: "/w".into(),
        };
        assert_eq!(read.unwrap(), expected);
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
