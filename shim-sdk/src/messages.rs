//! The protobuf messages that a runtime itself reads or writes, generated from containerd's
//! definitions.
//!
//! The task service's own messages are not here: the SDK translates them into the types of
//! [`runtime`](crate::runtime). Runtime options and statistics travel inside those messages as an
//! opaque [`Payload`](crate::Payload), whose content only the runtime knows.
//!
//! A field that a peer sends and the message does not have is kept in `special_fields`.

pub use protos::ttrpc::protobuf::{Message, MessageField};

/// `containerd.runc.v1`: the options of Create and Checkpoint (`Options`, `CheckpointOptions`).
pub use protos::ttrpc::shim::oci as runc_options;

/// `io.containerd.cgroups.v1`: the statistics of control groups of version 1 (`Metrics`).
pub use protos::ttrpc::cgroups::metrics as cgroups_v1;

/// `io.containerd.cgroups.v2`: the statistics of control groups of version 2 (`Metrics`).
pub use protos::ttrpc::cgroups_v2::metrics as cgroups_v2;

/// A message without fields; every field of what is parsed as one is in its `special_fields`.
pub use protos::ttrpc::protobuf::well_known_types::empty::Empty;

/// The value of a field that a message does not have.
pub use protos::ttrpc::protobuf::UnknownValueRef;
