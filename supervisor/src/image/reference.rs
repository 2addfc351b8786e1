//! Names of images: `busybox` as people write it, `docker.io/library/busybox:latest` as stored.
//!
//! See distribution's reference grammar.

use crate::text::{QUOTED_BYTES, escaped};

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference \"{}\": {reason}", escaped(text, QUOTED_BYTES))]
pub(crate) struct InvalidReference {
    text: String,
    reason: &'static str,
}

/// The full form of `text`: with domain, and with a tag or a digest.
pub(crate) fn normalize(text: &str) -> Result<String, InvalidReference> {
    let wrong = |reason| InvalidReference { text: text.to_owned(), reason };
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        crate::content::Digest::parse(digest).map_err(|_| wrong("its digest is not valid"))?;
    }
    // A colon before a slash belongs to a port.
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL}/{path}")
    } else {
        path.to_owned()
    };
    if !path.split('/').all(is_component) {
        return Err(wrong("a name has lower-case letters, digits and single separators"));
    }
    if !is_host(domain) {
        return Err(wrong("its domain is not valid"));
    }
    if domain.len() + path.len() + 1 > MAX_NAME_BYTES {
        return Err(wrong("the name is too long"));
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(wrong("its tag is not valid"));
    }
    Ok(match (tag, digest) {
        (None, None) => format!("{domain}/{path}:{DEFAULT_TAG}"),
        (Some(tag), None) => format!("{domain}/{path}:{tag}"),
        (None, Some(digest)) => format!("{domain}/{path}@{digest}"),
        (Some(tag), Some(digest)) => format!("{domain}/{path}:{tag}@{digest}"),
    })
}

/// The full names that a short name can stand for, the likeliest first.
pub(crate) fn candidates(name: &str) -> Vec<String> {
    let mut candidates = vec![name.to_owned()];
    let last = name.rsplit('/').next().unwrap_or(name);
    let tagged = if last.contains(':') || last.contains('@') {
        name.to_owned()
    } else {
        candidates.push(format!("{name}:latest"));
        format!("{name}:latest")
    };
    match name.split_once('/') {
        None => candidates.push(format!("docker.io/library/{tagged}")),
        Some((host, _)) if !host.contains(['.', ':']) && host != "localhost" => {
            candidates.push(format!("docker.io/{tagged}"));
        }
        Some(_) => {}
    }
    candidates
}

/// Whether `text` could be a tag.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG_BYTES
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_domain(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A host name or an address, perhaps with a port.
fn is_host(domain: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.into_iter().all(|end| end.is_some_and(|byte| word(*byte))) {
        return false;
    }
    let mut separators = bytes.split(|byte| word(*byte)).filter(|run| !run.is_empty());
    separators.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1", "docker.io/library/busybox:1".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/x/y:z", "docker.io/x/y:z".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("quay.io/a/b-c/d__e:T_1", "quay.io/a/b-c/d__e:T_1".to_owned()),
            (&format!("a@{digest}"), format!("docker.io/library/a@{digest}")),
            (&format!("a:b@{digest}"), format!("docker.io/library/a:b@{digest}")),
        ] {
            assert_eq!(normalize(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn an_error_quotes_a_bounded_part_of_the_text() {
        let long = format!("a\x1b[2J{}", "b".repeat(3_000_000));
        let error = normalize(&long).unwrap_err().to_string();
        assert!(error.len() < 500, "{} bytes", error.len());
        assert!(!error.contains('\x1b'), "{error:?}");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for text in [
            "",
            ":",
            "a:",
            "A",
            "a/B",
            "a..b",
            "a/",
            "/a",
            "a b",
            "../a",
            "a@sha256:1",
            "a:b c",
            "x.y/",
        ] {
            assert!(normalize(text).is_err(), "{text}");
        }
    }

    #[test]
    fn short_names_stand_for_dockers_long_ones() {
        let all = |name| candidates(name).join(" ");
        assert_eq!(all("busybox"), "busybox busybox:latest docker.io/library/busybox:latest");
        assert_eq!(all("busybox:1"), "busybox:1 docker.io/library/busybox:1");
        assert_eq!(all("me/app"), "me/app me/app:latest docker.io/me/app:latest");
        assert_eq!(all("localhost/app:1"), "localhost/app:1");
        assert_eq!(all("r.example:5000/app"), "r.example:5000/app r.example:5000/app:latest");
    }
}
