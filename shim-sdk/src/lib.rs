//! Stub.

mod kind;

pub use kind::Kind;
