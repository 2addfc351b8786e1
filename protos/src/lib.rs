//! The wire types of containerd's API.
//!
//! Two features, neither default: `grpc` compiles `proto/` into tonic clients and servers (see
//! [`grpc`]); `ttrpc` re-exports the shim protocol's types from containerd-shim-protos (see
//! [`ttrpc`]). Names and field numbers are containerd's; nothing here decides anything.

#[cfg(feature = "grpc")]
pub mod any;
#[cfg(feature = "grpc")]
// Generated code is not ours to lint.
#[allow(missing_docs, unused_qualifications, unreachable_pub, rustdoc::all, clippy::all)]
pub mod grpc;
#[cfg(feature = "ttrpc")]
pub mod ttrpc;
