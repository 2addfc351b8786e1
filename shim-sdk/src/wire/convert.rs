//! Conversions between domain types and the protocol's generated types.

use protos::ttrpc::protobuf::MessageField;
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::well_known_types::timestamp::Timestamp;
use protos::ttrpc::types::mount::Mount as WireMount;

use crate::{Exit, Mount, Payload, Pid};

/// An exit's time.
pub(crate) fn exited_at(exit: &Exit) -> MessageField<Timestamp> {
    let (seconds, nanos) = exit.unix_time();
    MessageField::some(Timestamp { seconds, nanos, ..Timestamp::default() })
}

/// The time of an exit that has not happened. containerd's own shim sends Go's zero time.
pub(crate) fn never() -> MessageField<Timestamp> {
    MessageField::some(Timestamp { seconds: -62_135_596_800, nanos: 0, ..Timestamp::default() })
}

/// A pid on the wire; 0 for `None`.
pub(crate) fn pid(pid: Option<Pid>) -> u32 {
    pid.map_or(0, Pid::get)
}

/// A payload.
pub(crate) fn payload(any: Any) -> Payload {
    Payload { type_url: any.type_url, value: any.value }
}

/// A payload that may be absent; an empty one counts as absent.
pub(crate) fn optional_payload(any: MessageField<Any>) -> Option<Payload> {
    any.into_option().filter(|any| !any.type_url.is_empty() || !any.value.is_empty()).map(payload)
}

/// A payload as the generated type.
pub(crate) fn any(payload: Payload) -> Any {
    Any { type_url: payload.type_url, value: payload.value, ..Any::default() }
}

/// A mount.
pub(crate) fn mount(mount: WireMount) -> Mount {
    Mount { kind: mount.type_, source: mount.source, target: mount.target, options: mount.options }
}

/// A mount as the generated type.
pub(crate) fn wire_mount(mount: Mount) -> WireMount {
    WireMount {
        type_: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..WireMount::default()
    }
}
