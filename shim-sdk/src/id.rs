//! Identifiers: of containers, of execs, of processes.
//!
//! Container and exec identifiers follow containerd's pattern: letters and digits, with single
//! separators (`.`, `_`, `-`) between them, at most 76 bytes. A valid one is safe as a file name.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind};

/// containerd's limit on an identifier.
const MAX_ID_BYTES: usize = 76;

/// Whether a text matches containerd's pattern of identifiers.
pub fn is_identifier(text: &str) -> bool {
    text.len() <= MAX_ID_BYTES
        && text
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates an identifier.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                if is_identifier(&text) {
                    return Ok(Self(text));
                }
                Err(Error::new(
                    Kind::InvalidArgument,
                    format!(
                        concat!($what, " id {:?} must be letters and digits with single '.', '_' or '-' between them, at most {} bytes"),
                        text, MAX_ID_BYTES,
                    ),
                ))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

identifier! {
    /// The identifier of a container, unique in its namespace.
    ContainerId, "container"
}

identifier! {
    /// The identifier of an exec, unique in its container.
    ExecId, "exec"
}

/// A process id in the host's pid namespace; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// A pid from a number; `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The pid of this process.
    pub fn this() -> Self {
        Self(NonZeroU32::new(std::process::id()).unwrap_or(NonZeroU32::MIN))
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerds_pattern() {
        for good in ["a", "a.b", "io-1_x", "0123", &"a".repeat(76)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a/b", "../x", "a b", &"a".repeat(77)] {
            assert!(ContainerId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_identifier_is_named_in_the_error() {
        let error = ExecId::new("a/b").expect_err("has a slash");
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("\"a/b\""), "{error}");
    }
}
