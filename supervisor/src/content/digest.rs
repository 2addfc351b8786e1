//! Digests of content: `sha256:` and 64 hexadecimal digits.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::text::{QUOTED_BYTES, escaped};

const ALGORITHM: &str = "sha256";
const HEX_BYTES: usize = 64;

/// A digest that names no content we could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidDigest {
    /// Not `algorithm:hex` at all.
    #[error("invalid checksum digest format \"{}\": invalid argument", escaped(.0, QUOTED_BYTES))]
    Format(String),
    /// An algorithm other than sha256.
    #[error("unsupported digest algorithm in \"{}\": invalid argument", escaped(.0, QUOTED_BYTES))]
    Algorithm(String),
    /// Not 64 lower-case hexadecimal digits.
    #[error("invalid checksum digest length or characters in \"{}\": invalid argument", escaped(.0, QUOTED_BYTES))]
    Hex(String),
}

/// A valid digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    /// Accepts `text` when it is a digest.
    pub(crate) fn parse(text: impl Into<String>) -> Result<Self, InvalidDigest> {
        let text = text.into();
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(InvalidDigest::Format(text));
        };
        if algorithm != ALGORITHM {
            return Err(InvalidDigest::Algorithm(text));
        }
        let good = hex.len() == HEX_BYTES
            && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if good { Ok(Self(text)) } else { Err(InvalidDigest::Hex(text)) }
    }

    /// The digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole digest.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone, which are also the blob's file name.
    pub(crate) fn hex(&self) -> &str {
        &self.0[ALGORITHM.len() + 1..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Digests bytes as they pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// Takes in more bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of what was taken in so far.
    pub(crate) fn finish(self) -> Digest {
        let mut text = String::with_capacity(ALGORITHM.len() + 1 + HEX_BYTES);
        text.push_str(ALGORITHM);
        text.push(':');
        for byte in self.0.finalize() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Digest(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let want = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), want);
        assert_eq!(Digest::parse(want).unwrap().hex().len(), 64);
    }

    #[test]
    fn digests_that_would_be_odd_file_names_are_refused() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85";
        for text in [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            format!("sha256:{hex}"),
            format!("sha256:{hex}X"),
            format!("sha256:{hex}A"),
            format!("sha256:../../{hex}"),
            format!("md5:{hex}5"),
        ] {
            assert!(Digest::parse(text.clone()).is_err(), "{text}");
        }
    }
}
