//! How the check of a row ends.

use std::fmt;

use anyhow::Result;

/// How a row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The promise was kept.
    Held,
    /// It was not; what was seen.
    Broken(String),
    /// Broken, and on record for the shim that containerd ships; what was seen, and the record.
    Known(String, &'static str),
    /// The shim declares that it has no such thing, or the machine cannot show it; why.
    NotOffered(String),
}

/// The error that says so.
#[derive(Debug)]
pub(crate) struct NotOffered(pub(crate) String);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotOffered {}

/// Ends a row as not offered.
pub(crate) fn not_offered<T>(why: impl Into<String>) -> Result<T> {
    Err(NotOffered(why.into()).into())
}
