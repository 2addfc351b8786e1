//! What daemon and shim say to each other at `start`, in every dialect there is.
//!
//! Asked is in one of two: [`Dialect::Parameters`] (containerd 2.3: a `BootstrapParams`), or
//! [`Dialect::Options`] (before: the runtime's options, if any), for shims that refuse the first.
//! Answered is in one of three: a `BootstrapResult`, JSON, or the bare address of task v2.

use protos::ttrpc::bootstrap_api as wire;
use protos::ttrpc::protobuf::{Enum as _, EnumOrUnknown, Message as _, MessageField};
use serde::{Deserialize, Serialize};

use crate::any::Any;

/// How a shim is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::task) enum Dialect {
    Parameters,
    Options,
}

/// What a shim is started with.
#[derive(Debug)]
pub(in crate::task) struct Parameters<'a> {
    pub(in crate::task) id: &'a str,
    pub(in crate::task) namespace: &'a str,
    pub(in crate::task) debug: bool,
    /// Where it delivers events.
    pub(in crate::task) ttrpc_address: &'a str,
    /// The daemon's own address.
    pub(in crate::task) grpc_address: &'a str,
    /// The daemon's binary.
    pub(in crate::task) binary: &'a str,
    /// Where it puts its socket; its own choice when `None`.
    pub(in crate::task) socket_dir: Option<&'a str>,
    pub(in crate::task) options: Option<&'a Any>,
}

/// Where a shim listens and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::task) struct Bootstrap {
    /// The version of the task service, 2 or 3.
    pub(in crate::task) version: i32,
    pub(in crate::task) address: String,
    #[serde(default)]
    pub(in crate::task) protocol: String,
}

/// An answer that leads to no shim.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ReplyError {
    #[error("it printed no address")]
    Empty,
    #[error("no address in {0:?}")]
    Garbage(String),
    #[error("it speaks version {0} of the task service, 2 and 3 are understood")]
    Version(i32),
    #[error("it speaks {0:?}, only ttrpc is understood")]
    Protocol(String),
}

impl Parameters<'_> {
    /// The standard input of `start`.
    pub(in crate::task) fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let options = self.options.map(any);
        let encoded = match dialect {
            Dialect::Options => match options {
                Some(options) => options.write_to_bytes(),
                None => return Vec::new(),
            },
            Dialect::Parameters => {
                let level = if self.debug {
                    wire::LogLevel::LOG_LEVEL_DEBUG
                } else {
                    wire::LogLevel::LOG_LEVEL_INFO
                };
                let extension = |options| wire::Extension {
                    value: MessageField::some(options),
                    ..Default::default()
                };
                wire::BootstrapParams {
                    instance_id: self.id.to_owned(),
                    namespace: self.namespace.to_owned(),
                    log_level: EnumOrUnknown::from_i32(level.value()),
                    containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
                    containerd_ttrpc_address: self.ttrpc_address.to_owned(),
                    containerd_grpc_address: self.grpc_address.to_owned(),
                    containerd_binary: self.binary.to_owned(),
                    extensions: options.map(extension).into_iter().collect(),
                    socket_dir: self.socket_dir.map(str::to_owned),
                    ..Default::default()
                }
                .write_to_bytes()
            }
        };
        encoded.expect("a message of plain fields always encodes")
    }
}

impl Bootstrap {
    /// Reads what `start` printed.
    pub(in crate::task) fn parse(output: &[u8]) -> Result<Self, ReplyError> {
        let text = String::from_utf8_lossy(output);
        let text = text.trim();
        let found = if let Some(result) = protobuf(output) {
            result
        } else if text.starts_with('{') {
            serde_json::from_str(text).map_err(|_| ReplyError::Garbage(text.to_owned()))?
        } else if text.is_empty() {
            return Err(ReplyError::Empty);
        } else {
            Self { version: 2, address: text.to_owned(), protocol: String::new() }
        };
        if !found.address.contains('/') || found.address.contains(char::is_whitespace) {
            return Err(ReplyError::Garbage(text.chars().take(400).collect()));
        }
        if !["", "ttrpc"].contains(&found.protocol.as_str()) {
            return Err(ReplyError::Protocol(found.protocol));
        }
        if ![2, 3].contains(&found.version) {
            return Err(ReplyError::Version(found.version));
        }
        Ok(found)
    }

    pub(in crate::task) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two strings and a number always encode")
    }

    pub(in crate::task) fn from_json(json: &[u8]) -> Result<Self, ReplyError> {
        Self::parse(json)
    }
}

/// A protobuf answer, if it is one: plain text and JSON do not decode to a version and a protocol.
fn protobuf(output: &[u8]) -> Option<Bootstrap> {
    let result = wire::BootstrapResult::parse_from_bytes(output).ok()?;
    (result.version > 0 && !result.address.is_empty()).then_some(Bootstrap {
        version: result.version,
        address: result.address,
        protocol: result.protocol,
    })
}

fn any(any: &Any) -> protos::ttrpc::protobuf::well_known_types::any::Any {
    protos::ttrpc::protobuf::well_known_types::any::Any {
        type_url: any.type_url.clone(),
        value: any.value.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(version: i32) -> Bootstrap {
        let protocol = if version == 2 { "" } else { "ttrpc" };
        Bootstrap { version, address: "unix:///run/x/s/abc".into(), protocol: protocol.into() }
    }

    #[test]
    fn every_dialect_of_the_answer_is_understood() {
        assert_eq!(Bootstrap::parse(b"unix:///run/x/s/abc\n"), Ok(bootstrap(2)));
        let json = br#"{"version":3,"address":"unix:///run/x/s/abc","protocol":"ttrpc"}"#;
        assert_eq!(Bootstrap::parse(json), Ok(bootstrap(3)));
        let result = wire::BootstrapResult {
            version: 3,
            address: "unix:///run/x/s/abc".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        assert_eq!(Bootstrap::parse(&result.write_to_bytes().unwrap()), Ok(bootstrap(3)));
        assert_eq!(Bootstrap::from_json(&bootstrap(3).to_json()), Ok(bootstrap(3)));
    }

    #[test]
    fn answers_that_lead_nowhere_are_named() {
        assert_eq!(Bootstrap::parse(b" \n"), Err(ReplyError::Empty));
        let garbage = b"panic: no such thing\nunix:///x";
        assert!(matches!(Bootstrap::parse(garbage), Err(ReplyError::Garbage(_))));
        let newer = br#"{"version":9,"address":"unix:///x","protocol":"ttrpc"}"#;
        assert_eq!(Bootstrap::parse(newer), Err(ReplyError::Version(9)));
        let grpc = br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#;
        assert_eq!(Bootstrap::parse(grpc), Err(ReplyError::Protocol("grpc".into())));
    }

    #[test]
    fn an_old_shim_gets_the_bare_options_or_nothing() {
        let options = Any { type_url: "t".into(), value: vec![1] };
        let mut parameters = Parameters {
            id: "web",
            namespace: "default",
            debug: false,
            ttrpc_address: "/e",
            grpc_address: "/g",
            binary: "/b",
            socket_dir: None,
            options: None,
        };
        assert!(parameters.encode(Dialect::Options).is_empty());
        parameters.options = Some(&options);
        let bytes = parameters.encode(Dialect::Options);
        assert_eq!(prost::Message::decode(bytes.as_slice()), Ok(options.clone()));
        let bytes = parameters.encode(Dialect::Parameters);
        let told = wire::BootstrapParams::parse_from_bytes(&bytes).unwrap();
        assert_eq!((told.instance_id.as_str(), told.namespace.as_str()), ("web", "default"));
        assert_eq!(told.extensions[0].value.type_url, "t");
    }
}
