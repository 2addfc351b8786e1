//! The shim protocol: task v3 (served as v2 too), sandbox, events, bootstrap, runc options.

pub use ::ttrpc;
pub use containerd_shim_protos::*;
pub use protobuf;
