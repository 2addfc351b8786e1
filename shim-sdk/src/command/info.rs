//! `-info`: prints the description of the runtime for the daemon.

use std::io::{self, Read, Write};

use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::{Message, MessageField};
use protos::ttrpc::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::wire::bootstrap::MAX_STDIN_BYTES;
use crate::wire::convert;
use crate::{Description, Error, Kind, Payload, Result};

/// containerd's type URL of OCI features.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads the runtime options from stdin. The daemon, or `start` for its server, may write them.
pub(crate) fn options() -> Result<Option<Payload>> {
    let mut stdin = Vec::new();
    let read = io::stdin().lock().take(MAX_STDIN_BYTES).read_to_end(&mut stdin);
    read.map_err(|cause| Error::io("read stdin", cause))?;
    let any = Any::parse_from_bytes(&stdin)
        .map_err(|cause| Error::invalid("parse runtime options from stdin").with_source(cause))?;
    Ok(convert::optional_payload(MessageField::some(any)))
}

/// Prints the description of the runtime.
pub(crate) fn print(description: &Description, options: Option<Payload>) -> Result<()> {
    let version = RuntimeVersion {
        version: description.version.to_owned(),
        revision: description.revision.to_owned(),
        ..RuntimeVersion::default()
    };
    let features = description.features.as_ref().map(|features| Any {
        type_url: FEATURES.to_owned(),
        value: features.to_string().into_bytes(),
        ..Any::default()
    });
    let info = RuntimeInfo {
        name: description.name.to_owned(),
        version: MessageField::some(version),
        options: options.map(convert::any).into(),
        features: features.into(),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(|cause| {
        Error::new(Kind::Internal, "encode the runtime's information").with_source(cause)
    })?;
    io::stdout().lock().write_all(&bytes).map_err(|cause| Error::io("print it", cause))
}
