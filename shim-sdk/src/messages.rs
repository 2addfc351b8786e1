//! The protobuf messages that a runtime itself reads or writes, generated from containerd's
//! definitions.
//!
//! The messages of the task service are not here: the SDK converts them to the types of
//! [`runtime`](crate::runtime). Runtime options and statistics are in those messages as a
//! [`Payload`](crate::Payload), which only the runtime decodes.
//!
//! A field that the message does not define is kept in its `special_fields`.

pub use protos::ttrpc::protobuf::{Message, MessageField};

/// `containerd.runc.v1`: the options of Create and Checkpoint (`Options`, `CheckpointOptions`).
pub use protos::ttrpc::shim::oci as runc_options;

/// `io.containerd.cgroups.v1`: the statistics of control groups of version 1 (`Metrics`).
pub use protos::ttrpc::cgroups::metrics as cgroups_v1;

/// `io.containerd.cgroups.v2`: the statistics of control groups of version 2 (`Metrics`).
pub use protos::ttrpc::cgroups_v2::metrics as cgroups_v2;

/// A message without fields: all fields of the parsed bytes are in its `special_fields`.
pub use protos::ttrpc::protobuf::well_known_types::empty::Empty;

/// The value of a field that the message does not define.
pub use protos::ttrpc::protobuf::UnknownValueRef;
