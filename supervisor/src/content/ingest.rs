//! Ingests: content on its way in.
//!
//! ```text
//!  begin ──► open ──write──► open ──commit──► blob        (record and bytes change places)
//!    ▲        │ dropped        │ abort
//!    └────────┘ (resumes)      └────► nothing
//! ```
//!
//! Promise: one writer a reference at a time; a dropped ingest keeps its bytes and resumes where
//! they end, one that filled the file system gives them back at once and starts over; a commit
//! whose digest or size is not the expected one makes no blob.
//!
//! Where another namespace already has the expected blob, the ingest is *shared*: it counts as
//! fully written and its commit only adds a record, as containerd's default policy has it.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::error::file;
use super::store::{self, absent_is_fine};
use super::{ContentError, Digest, Hasher, Info, Store};
use crate::lease::{self, LeaseId};
use crate::metadata::filter::{Fields, Filters};
use crate::metadata::reference::{self, Node};
use crate::metadata::{Labels, MetadataError, Namespace, from_nanos, is_full, labels, now_nanos};
use crate::namespace;

const CHUNK_BYTES: usize = 256 * 1024;
const COLUMNS: &str = "id, ref, total_bytes, expected, shared, started, updated";

/// What a writer says when it begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The name of the ingest, the writer's choice.
    pub(crate) reference: String,
    /// How much is to come, 0 when that is not known.
    pub(crate) total_bytes: u64,
    /// The digest it is to have, when known.
    pub(crate) expected: Option<Digest>,
    /// The lease that is to keep the ingest, and later the blob.
    pub(crate) lease: Option<LeaseId>,
    /// The blob that is there is damaged: it is not believed, and the commit takes its place.
    pub(crate) replace: bool,
}

/// How far an ingest has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Its name.
    pub(crate) reference: String,
    /// How much is written.
    pub(crate) offset: u64,
    /// How much is to come in all, 0 when not known.
    pub(crate) total_bytes: u64,
    /// The digest it is to have, when known.
    pub(crate) expected: Option<Digest>,
    /// When it began.
    pub(crate) started: SystemTime,
    /// When it was last written to.
    pub(crate) updated: SystemTime,
}

impl Fields for Status {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        (path == ["ref"]).then(|| self.reference.as_str().into())
    }
}

struct Record {
    id: i64,
    reference: String,
    total_bytes: u64,
    expected: Option<Digest>,
    shared: Option<Digest>,
    started: SystemTime,
    updated: SystemTime,
}

enum Body {
    /// Another namespace's blob, complete.
    Shared { digest: Digest },
    /// A file of its own.
    Own { file: File, hasher: Hasher },
}

/// An ingest with its one writer.
pub(crate) struct Ingest {
    store: Store,
    namespace: Namespace,
    lease: Option<LeaseId>,
    id: i64,
    status: Status,
    body: Body,
    replace: bool,
    _busy: Busy,
}

/// Frees the reference for the next writer.
struct Busy {
    store: Store,
    key: (Namespace, String),
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.store.shared.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Store {
    /// Begins an ingest, or resumes the one of that reference. A blob that was lost or truncated
    /// does not count as there: it is written anew.
    pub(crate) fn ingest(
        &self,
        namespace: &Namespace,
        mut request: Request,
    ) -> Result<Ingest, ContentError> {
        if request.reference.is_empty() {
            return Err(ContentError::NoReference);
        }
        let busy = self.occupy(namespace, &request.reference)?;
        if let Some(digest) = &request.expected
            && let Some(size) =
                self.shared.database.read_blocking(|found| store::size_anywhere(found, digest))?
            && !self.is_whole(digest, size)
        {
            log::warn!("blob {digest} is lost or truncated: it is written anew");
            request.replace = true;
        }
        let replace = request.replace;
        let lease = request.lease.clone();
        let inside = namespace.clone();
        let expected = request.expected.clone();
        let record = self
            .shared
            .database
            .write_blocking(move |transaction| begin(transaction, &inside, &request))?;
        let record = match (record, expected) {
            (Some(record), _) => record,
            // Said outside of the transaction, so that the lease holds the blob all the same.
            (None, Some(digest)) => return Err(ContentError::AlreadyExists(digest)),
            (None, None) => return Err(ContentError::NoReference),
        };
        let mut status = record.status();
        let body = match record.shared {
            Some(digest) => Body::Shared { digest },
            None => {
                let path = self.ingest_path(record.id);
                let (file, hasher, offset) = reopen(&path)?;
                status.offset = offset;
                Body::Own { file, hasher }
            }
        };
        Ok(Ingest {
            store: self.clone(),
            namespace: namespace.clone(),
            lease,
            id: record.id,
            status,
            body,
            replace,
            _busy: busy,
        })
    }

    /// How far the ingest of that reference has come.
    pub(crate) fn status(
        &self,
        namespace: &Namespace,
        reference: &str,
    ) -> Result<Status, ContentError> {
        let record = self.shared.database.read_blocking(|connection| {
            lookup(connection, namespace, reference)?
                .ok_or_else(|| ContentError::NoIngest { reference: reference.to_owned() })
        })?;
        Ok(self.progress(&record))
    }

    /// The ingests that pass `filters`, by reference.
    pub(crate) fn statuses(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Status>, ContentError> {
        let filters = Filters::parse(filters)?;
        let records = self.shared.database.read_blocking(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM ingests WHERE namespace = ?1 ORDER BY ref"
            ))?;
            let mut rows = statement.query([namespace.as_str()])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                records.push(read(row)?);
            }
            Ok::<_, MetadataError>(records)
        })?;
        let statuses = records.iter().map(|record| self.progress(record));
        Ok(statuses.filter(|status| filters.matches(status)).collect())
    }

    /// Forgets the ingest of that reference and its bytes. A writer that it has finds out at its
    /// commit.
    pub(crate) fn abort(&self, namespace: &Namespace, reference: &str) -> Result<(), ContentError> {
        let (inside, name) = (namespace.clone(), reference.to_owned());
        let id = self
            .shared
            .database
            .remove_blocking(move |transaction| end(transaction, &inside, &name))?;
        let path = self.ingest_path(id);
        fs::remove_file(&path).or_else(absent_is_fine).map_err(file("remove ingest", path))
    }

    fn occupy(&self, namespace: &Namespace, reference: &str) -> Result<Busy, ContentError> {
        let key = (namespace.clone(), reference.to_owned());
        let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(key.clone()) {
            return Err(ContentError::Locked { reference: reference.to_owned() });
        }
        Ok(Busy { store: self.clone(), key })
    }

    fn progress(&self, record: &Record) -> Status {
        let mut status = record.status();
        if record.shared.is_none() {
            // An ingest whose first byte is still to come may have no file yet.
            if let Ok(metadata) = fs::metadata(self.ingest_path(record.id)) {
                status.offset = metadata.len();
                status.updated = metadata.modified().unwrap_or(status.updated);
            }
        }
        status
    }

    fn ingest_path(&self, id: i64) -> PathBuf {
        self.shared.ingests.join(id.to_string())
    }
}

impl Record {
    fn status(&self) -> Status {
        Status {
            reference: self.reference.clone(),
            offset: if self.shared.is_some() { self.total_bytes } else { 0 },
            total_bytes: self.total_bytes,
            expected: self.expected.clone(),
            started: self.started,
            updated: self.updated,
        }
    }
}

impl Ingest {
    /// How far it has come.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// The digest of what is written so far.
    pub(crate) fn digest(&self) -> Digest {
        match &self.body {
            Body::Shared { digest } => digest.clone(),
            Body::Own { hasher, .. } => hasher.clone().finish(),
        }
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        let (out, hasher) = self.own()?;
        if let Err(cause) = out.write_all(bytes) {
            // What was written of them is not digested: the next writer rereads the file.
            let failed = file("write ingest", self.path())(cause);
            if is_full(&failed)
                && let Err(error) = self.reset()
            {
                // The bytes would keep the file system full. They go when the ingest is aborted.
                log::warn!("give back what an ingest wrote: {error}");
            }
            return Err(failed);
        }
        hasher.update(bytes);
        self.status.offset += bytes.len() as u64;
        self.status.updated = SystemTime::now();
        Ok(())
    }

    /// Starts over.
    pub(crate) fn reset(&mut self) -> Result<(), ContentError> {
        let path = self.path();
        let (out, hasher) = self.own()?;
        out.set_len(0).and_then(|()| out.rewind()).map_err(file("truncate ingest", path))?;
        *hasher = Hasher::default();
        self.status.offset = 0;
        Ok(())
    }

    /// Makes the blob, with `labels`, when `size_bytes` (unless 0) and `expected` are met.
    ///
    /// On a mismatch the ingest stays, to be written anew or aborted. When the namespace has the
    /// blob already that is an error too, and the ingest is gone; the blob keeps its labels.
    pub(crate) fn commit(
        self,
        size_bytes: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Info, ContentError> {
        labels::validate(&labels)?;
        let reference = self.status.reference.clone();
        let (got, offset) = (self.digest(), self.status.offset);
        if size_bytes != 0 && size_bytes != offset {
            return Err(ContentError::WrongSize { reference, got: offset, want: size_bytes });
        }
        if let Some(want) = expected.filter(|want| **want != got) {
            return Err(ContentError::WrongDigest { reference, got, want: want.clone() });
        }
        if let Body::Own { file: out, .. } = &self.body {
            out.sync_data().map_err(file("sync ingest", self.path()))?;
        }
        let now = from_nanos(now_nanos());
        let info = Info { digest: got, size_bytes: offset, labels, created: now, updated: now };
        self.publish(info)
    }

    /// Puts the bytes in place and swaps the ingest's record for the blob's.
    fn publish(self, info: Info) -> Result<Info, ContentError> {
        let _files = self.store.lock_files();
        let blob = self.store.path(&info.digest);
        let own = matches!(self.body, Body::Own { .. });
        let present = !self.replace && self.store.is_whole(&info.digest, info.size_bytes);
        if own && !present {
            fs::rename(self.path(), &blob).map_err(file("name blob", &blob))?;
            self.store.sync_names()?;
        } else if !own && !present {
            // Deleted elsewhere since this ingest began: there is nothing to share any more.
            return Err(ContentError::NotFound(info.digest));
        }
        let (namespace, lease) = (self.namespace.clone(), self.lease.clone());
        let reference = self.status.reference.clone();
        let digest = info.digest.clone();
        let outcome = self.store.shared.database.write_blocking(move |transaction| {
            end(transaction, &namespace, &reference)?;
            match store::record(transaction, &namespace, lease.as_ref(), &info) {
                // Committed all the same: the ingest ends, the lease holds the old blob.
                Err(exists @ ContentError::AlreadyExists(_)) => Ok(Err(exists)),
                Err(other) => Err(other),
                Ok(()) => Ok(Ok(info)),
            }
        });
        if own && !present && outcome.as_ref().is_err_and(|error| is_full(error)) {
            // Bytes without a record would keep the file system full until the next start. They are
            // the ingest's again, with which they go.
            self.take_back(&digest, &blob);
        }
        if own && present {
            let path = self.path();
            fs::remove_file(&path).or_else(absent_is_fine).map_err(file("remove ingest", path))?;
        }
        outcome?
    }

    /// Gives the bytes of a blob that got no record back to the ingest.
    fn take_back(&self, digest: &Digest, blob: &Path) {
        let database = &self.store.shared.database;
        let recorded =
            database.read_blocking(|connection| store::size_anywhere(connection, digest));
        if !matches!(recorded, Ok(None)) {
            return;
        }
        if let Err(error) = fs::rename(blob, self.path()) {
            log::warn!("take {} back: {error}", blob.display());
        }
    }

    /// The file to write to; a shared ingest gets one of its own, with the blob's bytes.
    fn own(&mut self) -> Result<(&mut File, &mut Hasher), ContentError> {
        if let Body::Shared { digest } = &self.body {
            let (source, target) = (self.store.path(digest), self.path());
            fs::copy(source, &target).map_err(file("copy blob into ingest", &target))?;
            let (file, hasher, _) = reopen(&target)?;
            let id = self.id;
            self.store.shared.database.write_blocking::<_, ContentError>(move |transaction| {
                transaction.execute("UPDATE ingests SET shared = NULL WHERE id = ?1", [id])?;
                Ok(())
            })?;
            self.body = Body::Own { file, hasher };
        }
        match &mut self.body {
            Body::Own { file, hasher } => Ok((file, hasher)),
            Body::Shared { digest } => Err(ContentError::NotFound(digest.clone())),
        }
    }

    fn path(&self) -> PathBuf {
        self.store.ingest_path(self.id)
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes).map_err(|error| match error {
            ContentError::File { cause, .. } => cause,
            other => io::Error::other(other),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens an ingest's file at its end, digesting what is there.
fn reopen(path: &PathBuf) -> Result<(File, Hasher, u64), ContentError> {
    let open = || -> io::Result<_> {
        let mut out =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut hasher = Hasher::default();
        if out.metadata()?.len() > 0 {
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                match out.read(&mut chunk)? {
                    0 => break,
                    count => hasher.update(&chunk[..count]),
                }
            }
        }
        let offset = out.seek(SeekFrom::End(0))?;
        Ok((out, hasher, offset))
    };
    open().map_err(file("open ingest", path))
}

/// The ingest's record, or `None` when the namespace has the expected blob already.
fn begin(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    request: &Request,
) -> Result<Option<Record>, ContentError> {
    namespace::ensure(transaction, namespace)?;
    let node = Node::ingest(&request.reference);
    if let Some(digest) = &request.expected
        && !request.replace
        && store::has(transaction, namespace, digest)?
    {
        let held = Node::content(digest);
        lease::hold(transaction, namespace, request.lease.as_ref(), &held)?;
        return Ok(None);
    }
    if let Some(record) = lookup(transaction, namespace, &request.reference)? {
        agree(&record, request)?;
        lease::hold(transaction, namespace, request.lease.as_ref(), &node)?;
        return Ok(Some(record));
    }
    let mut total_bytes = request.total_bytes;
    let mut shared = None;
    if let Some(digest) = &request.expected
        && !request.replace
        && let Some(size) = store::size_anywhere(transaction, digest)?
        && (total_bytes == 0 || total_bytes == size)
    {
        total_bytes = size;
        shared = Some(digest.clone());
    }
    let now = now_nanos();
    transaction
        .prepare_cached(
            "INSERT INTO ingests (namespace, ref, total_bytes, expected, shared, started, updated) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        )?
        .execute((
            namespace.as_str(),
            &request.reference,
            i64::try_from(total_bytes).unwrap_or(i64::MAX),
            request.expected.as_ref().map(Digest::as_str),
            shared.as_ref().map(Digest::as_str),
            now,
        ))?;
    let id = transaction.last_insert_rowid();
    lease::hold(transaction, namespace, request.lease.as_ref(), &node)?;
    Ok(Some(Record {
        id,
        reference: request.reference.clone(),
        total_bytes,
        expected: request.expected.clone(),
        shared,
        started: from_nanos(now),
        updated: from_nanos(now),
    }))
}

/// A writer that resumes must not want something else than the first.
fn agree(record: &Record, request: &Request) -> Result<(), ContentError> {
    let differs = |field, was: String, now: String| {
        let reference = request.reference.clone();
        Err(ContentError::Differs { reference, field, was, now })
    };
    let (was, now) = (record.total_bytes, request.total_bytes);
    if was != 0 && now != 0 && was != now {
        return differs("total size", was.to_string(), now.to_string());
    }
    match (&record.expected, &request.expected) {
        (Some(was), Some(now)) if was != now => differs("digest", was.to_string(), now.to_string()),
        _ => Ok(()),
    }
}

/// Deletes the record of an ingest; its id, which names its file, is the answer.
fn end(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    reference: &str,
) -> Result<i64, ContentError> {
    let id = transaction
        .prepare_cached("DELETE FROM ingests WHERE namespace = ?1 AND ref = ?2 RETURNING id")?
        .query_row((namespace.as_str(), reference), |row| row.get(0))
        .optional()?
        .ok_or_else(|| ContentError::NoIngest { reference: reference.to_owned() })?;
    reference::clear(transaction, namespace, &Node::ingest(reference))?;
    Ok(id)
}

fn lookup(
    connection: &Connection,
    namespace: &Namespace,
    reference: &str,
) -> Result<Option<Record>, ContentError> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM ingests WHERE namespace = ?1 AND ref = ?2"
        ))?
        .query_row((namespace.as_str(), reference), |row| Ok(read(row)))
        .optional()?;
    Ok(found.transpose()?)
}

fn read(row: &Row<'_>) -> Result<Record, MetadataError> {
    let digest = |text: Option<String>| {
        text.map(Digest::parse)
            .transpose()
            .map_err(|cause| MetadataError::Damaged { what: "digest", cause: cause.into() })
    };
    Ok(Record {
        id: row.get(0)?,
        reference: row.get(1)?,
        total_bytes: row.get::<_, i64>(2)?.unsigned_abs(),
        expected: digest(row.get(3)?)?,
        shared: digest(row.get(4)?)?,
        started: from_nanos(row.get(5)?),
        updated: from_nanos(row.get(6)?),
    })
}
