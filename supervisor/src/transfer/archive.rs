//! Reads an image archive into the content store, in the one pass that a stream allows.
//!
//! Promise: every blob is verified against its name before it counts; documents are bounded in
//! size, entries in number; nothing is written anywhere but into the store.
//! Not here: what the archive means (`layout`).

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::EntryType;

use super::document::MAX_BYTES;
use super::{Event, Progress, TransferError};
use crate::content::{ContentError, Digest, Hasher, Request, Store};
use crate::lease::LeaseId;
use crate::metadata::{Labels, Namespace};

/// Entries in one archive: many times what any image needs.
const MAX_ENTRIES: u64 = 1 << 20;
/// Links followed from one name to its file.
const MAX_LINKS: usize = 16;
const CHUNK_BYTES: usize = 512 * 1024;
const BLOBS: &str = "blobs/";

/// The documents at an archive's root that say what it is.
const DOCUMENTS: [&str; 4] = ["oci-layout", "index.json", "manifest.json", "repositories"];

/// Where what an archive holds goes.
pub(super) struct Sink {
    pub(super) store: Store,
    pub(super) namespace: Namespace,
    pub(super) lease: LeaseId,
    pub(super) progress: Progress,
}

/// A blob that an archive held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    /// Its first bytes, which tell how it is compressed.
    pub(super) head: Vec<u8>,
}

/// What an archive held.
#[derive(Debug, Default)]
pub(super) struct Contents {
    documents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, Stored>,
    links: BTreeMap<String, String>,
}

impl Contents {
    /// A document of the archive's root.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(Vec::as_slice)
    }

    /// The file of that name, through links.
    pub(super) fn file(&self, name: &str) -> Option<&Stored> {
        let mut name = join("", name)?;
        for _ in 0..MAX_LINKS {
            if let Some(stored) = self.files.get(&name) {
                return Some(stored);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

/// Reads `archive`, compressed or not, to its end.
pub(super) fn read(
    archive: impl Read + Send + 'static,
    sink: &Sink,
) -> Result<Contents, TransferError> {
    let beginning = |cause| TransferError::Read { place: "at its beginning".to_owned(), cause };
    let reader = installer::extract::decompressed(archive).map_err(beginning)?;
    let mut tar = tar::Archive::new(reader);
    let mut contents = Contents::default();
    let mut last = "at its beginning".to_owned();
    let mut number = 0u64;
    for entry in tar.entries().map_err(beginning)? {
        let failed = |cause| TransferError::Read { place: last.clone(), cause };
        let mut entry = entry.map_err(failed)?;
        number += 1;
        if number > MAX_ENTRIES {
            return Err(TransferError::Limit {
                what: "archive's entries".into(),
                limit: MAX_ENTRIES,
            });
        }
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(name) = join("", &raw) else {
            let reason = "its name leads outside the archive".to_owned();
            return Err(TransferError::Malformed { document: format!("entry {raw:?}"), reason });
        };
        last = format!("at entry {name:?}");
        let target =
            entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match (entry.header().entry_type(), target) {
            (EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse, _) => {
                file(&mut entry, name, number, sink, &mut contents)?;
            }
            (EntryType::Symlink, Some(target)) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                if let Some(target) = join(folder, &target) {
                    contents.links.insert(name, target);
                }
            }
            (EntryType::Link, Some(target)) => {
                if let Some(target) = join("", &target) {
                    contents.links.insert(name, target);
                }
            }
            _ => {}
        }
    }
    // What follows the end of the archive is padding, but its sender waits for it to be read, and
    // a compressed stream proves itself only at its end.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink())
        .map_err(|cause| TransferError::Read { place: "at its end".to_owned(), cause })?;
    Ok(contents)
}

/// Takes in one file: a document to memory, a blob or a layer to the store.
fn file(
    entry: &mut impl Read,
    name: String,
    number: u64,
    sink: &Sink,
    contents: &mut Contents,
) -> Result<(), TransferError> {
    if DOCUMENTS.contains(&name.as_str()) {
        let mut bytes = Vec::new();
        entry
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|cause| TransferError::Read { place: format!("at entry {name:?}"), cause })?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TransferError::Limit { what: format!("size of {name}"), limit: MAX_BYTES });
        }
        contents.documents.insert(name, bytes);
        return Ok(());
    }
    let expected = match name.strip_prefix(BLOBS) {
        Some(rest) => {
            let text = rest.replacen('/', ":", 1);
            let bad = |cause| TransferError::BadName { entry: name.clone(), cause };
            Some(Digest::parse(text).map_err(bad)?)
        }
        // The files that docker's form consists of; the rest of an archive is nobody's.
        None if name.ends_with(".tar") || name.ends_with(".json") => None,
        None => return Ok(()),
    };
    let stored = store(entry, &name, number, expected, sink)?;
    sink.progress.tell(Event {
        event: "complete",
        name: stored.digest.to_string(),
        target: None,
        progress: stored.size_bytes,
        total: stored.size_bytes,
    });
    contents.files.insert(name, stored);
    Ok(())
}

/// Puts one blob into the store.
fn store(
    entry: &mut impl Read,
    name: &str,
    number: u64,
    expected: Option<Digest>,
    sink: &Sink,
) -> Result<Stored, TransferError> {
    let reference = format!("{}-{number}", sink.lease);
    let request = Request {
        reference: reference.clone(),
        total_bytes: 0,
        expected: expected.clone(),
        lease: Some(sink.lease.clone()),
    };
    let mut ingest = match sink.store.ingest(&sink.namespace, request) {
        Ok(ingest) => Some(ingest),
        Err(ContentError::AlreadyExists(_)) => None,
        Err(other) => {
            // Its record may be there, and would be for a day, while its file could not be opened.
            abandon(sink, &reference);
            return Err(other.into());
        }
    };
    // Another namespace has it: what the archive holds is compared, and its bytes are shared.
    let shared = ingest.as_ref().is_some_and(|ingest| ingest.status().offset > 0);
    let pass = |ingest: Option<&mut crate::content::Ingest>, entry: &mut dyn Read| {
        copy(entry, name, ingest)
    };
    let outcome = if shared { pass(None, entry) } else { pass(ingest.as_mut(), entry) };
    let verified = outcome.and_then(|stored| match &expected {
        Some(want) if *want != stored.digest => Err(TransferError::WrongDigest {
            entry: name.to_owned(),
            want: want.clone(),
            got: stored.digest,
        }),
        _ => Ok(stored),
    });
    let Some(ingest) = ingest else { return verified };
    let committed = verified.and_then(|stored| {
        match ingest.commit(stored.size_bytes, Some(&stored.digest), Labels::new()) {
            Ok(_) | Err(ContentError::AlreadyExists(_)) => Ok(stored),
            Err(other) => Err(other.into()),
        }
    });
    if committed.is_err() {
        abandon(sink, &reference);
    }
    committed
}

/// Ends an ingest that failed.
fn abandon(sink: &Sink, reference: &str) {
    if let Err(error) = sink.store.abort(&sink.namespace, reference) {
        // The first error is the one to tell; this one leaves an ingest that expires.
        log::debug!("abort ingest {reference}: {error}");
    }
}

/// Digests what `entry` holds, and writes it to `ingest` if there is one.
fn copy(
    entry: &mut dyn Read,
    name: &str,
    mut ingest: Option<&mut crate::content::Ingest>,
) -> Result<Stored, TransferError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut hasher = Hasher::default();
    let (mut size_bytes, mut head) = (0u64, Vec::new());
    loop {
        let count = match entry.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => {
                return Err(TransferError::Read { place: format!("at entry {name:?}"), cause });
            }
        };
        let bytes = &chunk[..count];
        if head.len() < 4 {
            head.extend(bytes.iter().take(4 - head.len()));
        }
        match ingest.as_deref_mut() {
            Some(ingest) => ingest.write(bytes)?,
            None => hasher.update(bytes),
        }
        size_bytes += count as u64;
    }
    let digest = ingest.map_or_else(|| hasher.finish(), |ingest| ingest.digest());
    Ok(Stored { digest, size_bytes, head })
}

/// `path` from `folder`, without `.` and `..`; `None` when it leads above the root.
fn join(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_within_the_archive() {
        assert_eq!(join("a/b", "../c"), Some("a/c".into()));
        assert_eq!(join("", "./index.json"), Some("index.json".into()));
        assert_eq!(join("a", "../../c"), None);
    }
}
