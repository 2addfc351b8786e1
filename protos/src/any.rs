//! `google.protobuf.Any` as containerd writes it.
//!
//! containerd's type URLs are bare names (`containerd.events.TaskExit`) where its typeurl package
//! made them from protobuf, and paths (`types.containerd.io/opencontainers/runtime-spec/1/Spec`)
//! where the payload is JSON. Decoders accept a `type.googleapis.com/` prefix too.

use prost::{DecodeError, Name};
use prost_types::Any;

/// Type URL of an OCI runtime spec as JSON.
pub const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type URL of an OCI process as JSON, the spec of an exec.
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of OCI Linux resources as JSON, the payload of an update.
pub const LINUX_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Packs `message` under its full protobuf name.
pub fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Whether `any` holds an `M`.
pub fn is<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

/// Unpacks an `M`: `None` when `any` holds another type.
pub fn unpack<M: Name + Default>(any: &Any) -> Option<Result<M, DecodeError>> {
    is::<M>(any).then(|| M::decode(any.value.as_slice()))
}
