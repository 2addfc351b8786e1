//! Hostile filters, identifiers and digests.

use std::borrow::Cow;

use ::fuzz::Target;

use super::Namespace;
use super::filter::{Fields, Filters};
use crate::content::Digest;

struct Anything<'a>(&'a str);

impl Fields for Anything<'_> {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        (path.len() < 3).then_some(Cow::Borrowed(self.0))
    }
}

#[test]
fn filters_are_read_and_matched_in_bounded_memory_and_time() {
    let words = &[
        "==",
        "!=",
        "~=",
        "labels.",
        "\"",
        "|",
        "/",
        "\\x41",
        "\\U0010ffff",
        "(a*)*",
        "{1000}",
        "[[:alpha:]]",
    ];
    Target::new("filter").words(words).max_bytes(4096).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(filters) = Filters::parse(&[text]) {
            filters.matches(&Anything("docker.io/library/busybox:1"));
            filters.matches(&Anything(&"a".repeat(200)));
        }
    });
}

#[test]
fn identifiers_and_digests_are_names_of_files() {
    Target::new("identifier").words(&["sha256:", "sha512:", "..", "/", "-", "_"]).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let plain = |name: &str| {
            let bytes = name.as_bytes();
            bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
                && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        };
        if Namespace::new(text).is_ok() {
            assert!(plain(text) && text.len() <= 76, "{text:?}");
        }
        if let Ok(digest) = Digest::parse(text) {
            assert_eq!(digest.as_str(), text);
            assert_eq!(digest.hex().len(), 64);
            assert!(digest.hex().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        }
    });
}
