//! Identifiers as containerd accepts them: at most 76 bytes of letters and digits, in groups
//! joined by single `.`, `_` or `-`. So they are safe in paths, cgroup names and socket names.

use std::fmt;

const MAX_BYTES: usize = 76;

/// An identifier that containerd's pattern refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidIdentifier {
    /// Nothing at all.
    #[error("identifier must not be empty: invalid argument")]
    Empty,
    /// More than 76 bytes.
    #[error("identifier {0:?} greater than maximum length (76 characters): invalid argument")]
    TooLong(String),
    /// A character, or a place of one, outside the pattern.
    #[error("identifier {0:?} must match [A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*: invalid argument")]
    Pattern(String),
}

/// Checks `id` against containerd's identifier pattern.
pub(crate) fn validate_identifier(id: &str) -> Result<(), InvalidIdentifier> {
    if id.is_empty() {
        return Err(InvalidIdentifier::Empty);
    }
    if id.len() > MAX_BYTES {
        return Err(InvalidIdentifier::TooLong(id.to_owned()));
    }
    let good = id
        .split(['.', '_', '-'])
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if good { Ok(()) } else { Err(InvalidIdentifier::Pattern(id.to_owned())) }
}

/// A tenant of the daemon: every record but the blobs' bytes belongs to one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// Accepts `name` when it is a valid identifier.
    pub(crate) fn new(name: impl Into<String>) -> Result<Self, InvalidIdentifier> {
        let name = name.into();
        validate_identifier(&name)?;
        Ok(Self(name))
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for Namespace {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_containerd_takes_are_taken() {
        for name in ["default", "k8s.io", "a", "moby", "A_b-c.9", &"x".repeat(76)] {
            assert!(Namespace::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for name in ["", ".", "..", "a..b", "-a", "a-", "a/b", "a b", "é", &"x".repeat(77)] {
            assert!(Namespace::new(name).is_err(), "{name}");
        }
    }
}
