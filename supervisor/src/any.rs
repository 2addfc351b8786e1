//! A message of any type, as clients and shims hand it over: a type URL and bytes.
//!
//! The daemon keeps such messages and passes them on; it does not decode them. It has the fields of
//! `google.protobuf.Any`, so stored records can hold it.

use prost::Message;

/// A message and the name of its type.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Any {
    /// The name of the type, such as `containerd.events.TaskExit`.
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

impl From<prost_types::Any> for Any {
    fn from(any: prost_types::Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}

impl From<Any> for prost_types::Any {
    fn from(any: Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}
