//! One SQLite file that knows every object and what refers to it.

use std::fmt;

/// A namespace's name: containerd's identifier pattern, at most 76 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Namespace(String);

/// A name that is no identifier.
#[derive(Debug, thiserror::Error)]
#[error("namespace {0:?} must match [A-Za-z0-9]+([._-][A-Za-z0-9]+)* and have at most 76 bytes")]
pub(crate) struct BadNamespace(String);

impl Namespace {
    pub(crate) fn new(name: &str) -> Result<Self, BadNamespace> {
        let parts = name.split(['.', '_', '-']);
        let whole = parts
            .into_iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if whole && name.len() <= 76 {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadNamespace(name.to_owned()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
