//! Reads an image archive into the content store, in the one pass that a stream allows.
//!
//! Promise: every blob is verified against its name before it counts; documents are bounded in
//! size; what is read, kept and stored is charged to the transfer's budget; nothing is written
//! anywhere but into the store. A blob that the store has already is compared with the archive's,
//! and replaced where it is damaged.
//! Not here: what the archive means (`layout`).

mod layout;

use std::collections::BTreeMap;
use std::io::Read;

use installer::budget::{Budget, Cost};
use installer::layer::{self, Archive, EntryKind, ExtractError};

use super::ImageError;
use super::error::quoted;
use super::manifest::MAX_BYTES;
use crate::content::{Comparison, ContentError, Digest, Hasher, Ingest, Request, Store};
use crate::lease::LeaseId;
use crate::metadata::{Labels, Namespace};

pub(crate) use layout::{ArchivedImage, ArchivedName, images};

/// Links followed from one name to its file.
const MAX_LINKS: usize = 16;
/// What a file in the store costs besides its bytes: records and syncs. It bounds their number.
const FILE_BYTES: u64 = 256;
/// A name in an archive is a path.
const MAX_NAME_BYTES: usize = 4096;
const BLOBS: &str = "blobs/";

/// The documents at an archive's root that say what it is.
const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];
/// How the files are called that docker's form consists of; the rest of an archive is not read.
const DOCKER_FILES: [&str; 5] = [".json", ".tar", ".tar.gz", ".tgz", ".tar.zst"];
/// What crane calls a config.
const CRANE_CONFIG: &str = "sha256:";
/// What macOS puts beside each file.
const APPLE_DOUBLE: &str = "._";

/// Where what an archive holds goes.
pub(crate) struct BlobSink {
    pub(crate) store: Store,
    pub(crate) namespace: Namespace,
    pub(crate) lease: LeaseId,
    /// Called after each blob that is stored.
    pub(crate) on_stored: Box<dyn Fn(&StoredFile) + Send + Sync>,
    pub(crate) budget: Budget,
}

/// A blob that an archive held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredFile {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// Its first bytes, which tell how it is compressed.
    pub(crate) head: Vec<u8>,
}

/// What an archive held.
#[derive(Debug, Default)]
pub(crate) struct ArchiveFiles {
    documents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, StoredFile>,
    links: BTreeMap<String, String>,
}

impl ArchiveFiles {
    /// A document of the archive's root.
    pub(crate) fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(Vec::as_slice)
    }

    /// The file of that name, through links.
    pub(crate) fn file(&self, name: &str) -> Option<&StoredFile> {
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

type Tar = Archive<Box<dyn Read + Send>>;

/// Reads `archive`, compressed or not, to its end.
pub(crate) fn read(
    archive: impl Read + Send + 'static,
    sink: &BlobSink,
) -> Result<ArchiveFiles, ImageError> {
    let beginning = |cause| ExtractError::Read { entries: 0, cause };
    let reader = layer::decompressed_within(archive, &sink.budget).map_err(beginning)?;
    let mut tar = Archive::new(reader, &sink.budget);
    let mut contents = ArchiveFiles::default();
    while let Some(entry) = tar.next_entry()? {
        let raw = String::from_utf8_lossy(&entry.path).into_owned();
        let bad = |reason: &str| ImageError::Malformed {
            document: format!("archive entry \"{}\"", quoted(&raw)),
            reason: reason.to_owned(),
        };
        let name = join("", &raw).ok_or_else(|| bad("its name leads outside the archive"))?;
        if name.len() > MAX_NAME_BYTES {
            return Err(bad("its name is too long"));
        }
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", &name));
        if last.starts_with(APPLE_DOUBLE) {
            continue;
        }
        let target = match &entry.kind {
            EntryKind::File { .. } => {
                let number = tar.totals().0;
                file(&mut tar, name, number, sink, &mut contents)?;
                continue;
            }
            EntryKind::Symlink { target } => join(folder, &String::from_utf8_lossy(target)),
            EntryKind::HardLink { target } => join("", &String::from_utf8_lossy(target)),
            _ => continue,
        };
        if let Some(target) = target.filter(|target| target.len() <= MAX_NAME_BYTES) {
            sink.budget.charge(Cost::Kept, (name.len() + target.len()) as u64 + FILE_BYTES)?;
            contents.links.insert(name, target);
        }
    }
    tar.drain()?;
    Ok(contents)
}

/// Takes in one file: a document to memory, a blob or a layer to the store.
fn file(
    tar: &mut Tar,
    name: String,
    number: u64,
    sink: &BlobSink,
    contents: &mut ArchiveFiles,
) -> Result<(), ImageError> {
    if DOCUMENTS.contains(&name.as_str()) {
        let mut bytes = Vec::new();
        pass(tar, |piece| {
            if (bytes.len() + piece.len()) as u64 > MAX_BYTES {
                let what = format!("size of {name}");
                return Err(ImageError::Limit { what, limit: MAX_BYTES });
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        sink.budget.charge(Cost::Documents, bytes.len() as u64)?;
        contents.documents.insert(name, bytes);
        return Ok(());
    }
    let expected = match name.strip_prefix(BLOBS) {
        // Files that other software put beside the blobs: `blobs/README`, `blobs/sha256/.DS_Store`.
        Some(rest) if !rest.contains('/') || rest.contains("/.") => return Ok(()),
        Some(rest) => {
            let text = rest.replacen('/', ":", 1);
            let bad = |cause| ImageError::BadName { entry: quoted(&name), cause };
            Some(Digest::parse(text).map_err(bad)?)
        }
        None if DOCKER_FILES.iter().any(|end| name.ends_with(end)) => None,
        None if name.starts_with(CRANE_CONFIG) => None,
        None => return Ok(()),
    };
    sink.budget.charge(Cost::Kept, name.len() as u64 + FILE_BYTES)?;
    let stored = store(tar, &name, number, expected, sink)?;
    (sink.on_stored)(&stored);
    contents.files.insert(name, stored);
    Ok(())
}

/// Puts one blob into the store.
fn store(
    tar: &mut Tar,
    name: &str,
    number: u64,
    expected: Option<Digest>,
    sink: &BlobSink,
) -> Result<StoredFile, ImageError> {
    let reference = format!("{}-{number}", sink.lease);
    let request = Request {
        reference: reference.clone(),
        total_bytes: 0,
        expected: expected.clone(),
        lease: Some(sink.lease.clone()),
        replace: false,
    };
    let present = |digest: Digest, ingest: Option<Ingest>| {
        let comparison = sink.store.compare(&digest)?;
        Ok::<_, ImageError>(Bytes::Present { digest, comparison, ingest })
    };
    let into = match (sink.store.ingest(&sink.namespace, request.clone()), &expected) {
        // Another namespace has it: its bytes are shared, once they are compared.
        (Ok(ingest), Some(digest)) if ingest.status().offset > 0 => {
            present(digest.clone(), Some(ingest))
        }
        (Ok(ingest), _) => Ok(Bytes::New(ingest)),
        (Err(ContentError::AlreadyExists(digest)), _) => present(digest, None),
        (Err(other), _) => Err(other.into()),
    };
    let copied = into.and_then(|into| copy(tar, into, &request, sink));
    let outcome = copied.and_then(|(stored, ingest)| {
        match expected {
            Some(want) if want != stored.digest => {
                let entry = quoted(name);
                return Err(ImageError::WrongDigest { entry, want, got: stored.digest });
            }
            _ => {}
        }
        let Some(ingest) = ingest else { return Ok(stored) };
        match ingest.commit(stored.size_bytes, Some(&stored.digest), Labels::new()) {
            Ok(_) | Err(ContentError::AlreadyExists(_)) => Ok(stored),
            Err(other) => Err(other.into()),
        }
    });
    if outcome.is_err()
        && let Err(error) = sink.store.abort(&sink.namespace, &reference)
    {
        // Also an ingest that could not be opened may have its record. The first error is the one to
        // tell; this one leaves an ingest that expires, or none.
        log::debug!("abort ingest {reference}: {error}");
    }
    outcome
}

/// Where the bytes of a blob go.
enum Bytes {
    /// To an ingest.
    New(Ingest),
    /// The store has it: they are compared. The ingest is one that shares another namespace's blob.
    Present { digest: Digest, comparison: Comparison, ingest: Option<Ingest> },
}

/// Passes a blob's bytes on; the ingest that is to be committed is the answer too.
fn copy(
    tar: &mut Tar,
    mut into: Bytes,
    request: &Request,
    sink: &BlobSink,
) -> Result<(StoredFile, Option<Ingest>), ImageError> {
    let mut hasher = Hasher::default();
    let (mut size_bytes, mut head) = (0u64, Vec::new());
    pass(tar, |bytes| {
        if head.len() < 4 {
            head.extend(bytes.iter().take(4 - head.len()));
        }
        match &mut into {
            Bytes::New(ingest) => ingest.write(bytes)?,
            Bytes::Present { digest, comparison, ingest } => {
                hasher.update(bytes);
                if !comparison.next(bytes) {
                    let mut anew = replace(digest, size_bytes, ingest.take(), request, sink)?;
                    anew.write(bytes)?;
                    into = Bytes::New(anew);
                }
            }
        }
        size_bytes += bytes.len() as u64;
        Ok(())
    })?;
    if let Bytes::Present { digest, comparison, ingest } = &mut into
        && !comparison.ends()
    {
        into = Bytes::New(replace(digest, size_bytes, ingest.take(), request, sink)?);
    }
    let (digest, ingest) = match into {
        Bytes::New(ingest) => (ingest.digest(), Some(ingest)),
        Bytes::Present { ingest, .. } => (hasher.finish(), ingest),
    };
    Ok((StoredFile { digest, size_bytes, head }, ingest))
}

/// Begins an ingest that takes the place of blob `digest`, which differs from the archive's after
/// `equal` bytes. The commit compares the digest, so wrong bytes of the archive replace nothing.
fn replace(
    digest: &Digest,
    equal: u64,
    shared: Option<Ingest>,
    request: &Request,
    sink: &BlobSink,
) -> Result<Ingest, ImageError> {
    if shared.is_some() {
        drop(shared);
        sink.store.abort(&sink.namespace, &request.reference)?;
    }
    let mut anew =
        sink.store.ingest(&sink.namespace, Request { replace: true, ..request.clone() })?;
    sink.store.read_prefix(digest, equal, |bytes| anew.write(bytes))?;
    Ok(anew)
}

/// Hands all of an entry's content to `each`, piece by piece.
fn pass(
    tar: &mut Tar,
    mut each: impl FnMut(&[u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    loop {
        let piece = tar.content()?;
        if piece.is_empty() {
            return Ok(());
        }
        each(piece)?;
        let count = piece.len();
        tar.consume(count);
    }
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
