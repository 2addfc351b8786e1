//! Blobs: files by digest, and one record a namespace that says it has the blob.
//!
//! Promise: a record is written only after its blob's bytes and name are synced, so a record
//! always has its whole blob. A blob's bytes are shared by all namespaces and go with the last
//! record. What a crash leaves without a record is swept by [`Store::sweep`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::error::file;
use super::{ContentError, Digest};
use crate::lease::{self, LeaseId};
use crate::metadata::filter::{self, Fields, Filters};
use crate::metadata::reference::{self, Node};
use crate::metadata::{
    self, Database, Labels, MetadataError, Namespace, from_nanos, label_column, labels, mask,
    now_nanos, to_nanos,
};
use crate::quarantine::set_aside;

const COLUMNS: &str = "digest, size_bytes, labels, created, updated";

/// All blobs and ingests.
#[derive(Clone)]
pub(crate) struct Store {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) database: Database,
    root: PathBuf,
    blobs: PathBuf,
    pub(super) ingests: PathBuf,
    /// References that have a writer, by namespace.
    pub(super) busy: Mutex<HashSet<(Namespace, String)>>,
    /// Held while a blob's file and its last or first record come or go together.
    files: Mutex<()>,
}

/// What is known about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Its labels in this namespace.
    pub(crate) labels: Labels,
    /// When this namespace got it.
    pub(crate) created: SystemTime,
    /// When its labels last changed.
    pub(crate) updated: SystemTime,
}

/// What a collection leaves to be removed from the disk.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// Blobs that no namespace has any more.
    pub(crate) blobs: Vec<Digest>,
    /// How many records of blobs went, those of `blobs` among them.
    pub(crate) records: usize,
    /// Ingests, by the number that names their file.
    pub(crate) ingests: Vec<i64>,
    /// Snapshots, by the number that names their directory.
    pub(crate) snapshots: Vec<i64>,
}

impl Fields for Info {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["digest"] => Some(self.digest.as_str().into()),
            ["size"] => Some(self.size_bytes.to_string().into()),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

impl Store {
    /// Opens the store under `root` (`root/content`).
    pub(crate) fn open(root: &Path, database: Database) -> Result<Self, ContentError> {
        let content = root.join("content");
        let (blobs, ingests) = (content.join("blobs/sha256"), content.join("ingests"));
        for folder in [&blobs, &ingests] {
            make_folders(root, folder).map_err(file("create folder", folder))?;
        }
        let (busy, files) = (Mutex::default(), Mutex::default());
        Ok(Self {
            shared: Arc::new(Shared {
                database,
                root: root.to_owned(),
                blobs,
                ingests,
                busy,
                files,
            }),
        })
    }

    /// What is known about `digest`.
    pub(crate) fn info(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<Info, ContentError> {
        self.shared.database.read_blocking(|connection| find(connection, namespace, digest))
    }

    /// The blobs that pass `filters`, by digest.
    pub(crate) fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Info>, ContentError> {
        let filters = Filters::parse(filters)?;
        self.shared.database.read_blocking(|connection| {
            let query = format!("SELECT {COLUMNS} FROM blobs WHERE namespace = ?1 ORDER BY digest");
            Ok(metadata::list(connection, &query, namespace, read, &filters)?)
        })
    }

    /// Changes the labels that `paths` name (`labels`, `labels.KEY`), all when it is empty.
    pub(crate) fn update(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        change: Labels,
        paths: Vec<String>,
    ) -> Result<Info, ContentError> {
        let (namespace, digest) = (namespace.clone(), digest.clone());
        self.shared.database.write_blocking(move |transaction| {
            let mut info = find(transaction, &namespace, &digest)?;
            if paths.is_empty() {
                info.labels.clone_from(&change);
            }
            for path in &paths {
                match mask::path(path, &["labels"]) {
                    mask::Path::Field("labels") => info.labels.clone_from(&change),
                    mask::Path::Key(_, key) => {
                        labels::set(&mut info.labels, key, change.get(key));
                    }
                    mask::Path::Field(_) => {
                        return Err(ContentError::Field { digest, field: path.clone() });
                    }
                }
            }
            change_labels(transaction, &namespace, &mut info)?;
            Ok(info)
        })
    }

    /// Adds labels to blobs, all in one transaction. Labels of the same key are replaced.
    pub(crate) fn annotate(
        &self,
        namespace: &Namespace,
        labels: BTreeMap<Digest, Labels>,
    ) -> Result<(), ContentError> {
        let namespace = namespace.clone();
        self.shared.database.write_blocking(move |transaction| {
            for (digest, more) in labels {
                let mut info = find(transaction, &namespace, &digest)?;
                info.labels.extend(more);
                change_labels(transaction, &namespace, &mut info)?;
            }
            Ok(())
        })
    }

    /// Takes `digest` from the namespace, and its bytes from the disk when no other has it.
    pub(crate) fn delete(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<(), ContentError> {
        self.delete_all(namespace, vec![digest.clone()])
    }

    /// [`Store::delete`] of several in one transaction; one that is absent spoils all.
    pub(crate) fn delete_all(
        &self,
        namespace: &Namespace,
        digests: Vec<Digest>,
    ) -> Result<(), ContentError> {
        let namespace = namespace.clone();
        let _files = self.lock_files();
        let unused =
            self.shared.database.remove_blocking::<_, ContentError>(move |transaction| {
                let mut unused = Vec::new();
                for digest in &digests {
                    if forget(transaction, &namespace, digest)? {
                        unused.push(digest.clone());
                    }
                }
                Ok(unused)
            })?;
        unused.iter().try_for_each(|digest| self.remove_file(self.path(digest)))
    }

    /// Whether the namespace has `digest`, with its file in the size that the record says.
    pub(crate) fn has_whole(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        match self.info(namespace, digest) {
            Ok(info) => Ok(self.is_whole(digest, info.size_bytes)),
            Err(ContentError::NotFound(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Opens `digest` for reading.
    pub(crate) fn open_blob(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<(Info, File), ContentError> {
        let info = self.info(namespace, digest)?;
        let path = self.path(digest);
        let blob = File::open(&path).map_err(file("open blob", path))?;
        Ok((info, blob))
    }

    /// Opens `digest` for reading from `offset` on; also how many bytes there are to be read,
    /// which is `size` (0: to the end) or what is left.
    pub(crate) fn open_range(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        offset: u64,
        size: u64,
    ) -> Result<(File, u64), ContentError> {
        let (info, blob) = self.open_blob(namespace, digest)?;
        let left = info
            .size_bytes
            .checked_sub(offset)
            .ok_or(ContentError::PastEnd { size: info.size_bytes })?;
        Ok((blob, if size == 0 { left } else { size.min(left) }))
    }

    /// Runs `decide`, which deletes records, in one transaction during which no blob comes or
    /// goes, and then removes from the disk what it says is not needed any more.
    pub(crate) fn retire<E>(
        &self,
        database: &Database,
        decide: impl FnMut(&Transaction<'_>) -> Result<Garbage, E> + Send + 'static,
    ) -> Result<Garbage, E>
    where
        E: std::error::Error + From<MetadataError> + From<ContentError> + Send + 'static,
    {
        let _files = self.lock_files();
        let garbage = database.remove_blocking(decide)?;
        let blobs = garbage.blobs.iter().map(|digest| self.path(digest));
        let ingests = garbage.ingests.iter().map(|id| self.shared.ingests.join(id.to_string()));
        for path in blobs.chain(ingests) {
            // Their records are gone: one that stays is left to the next start, and keeps no other.
            if let Err(error) = self.remove_file(path) {
                log::warn!("{}", shim_sdk::error::report(&error));
            }
        }
        Ok(garbage)
    }

    fn remove_file(&self, path: PathBuf) -> Result<(), ContentError> {
        fs::remove_file(&path).or_else(absent_is_fine).map_err(file("remove", path))
    }

    /// Removes files that a crash left without a record. Entries that are no blob's or ingest's are
    /// set aside, one that cannot be removed is logged: neither keeps the daemon from starting.
    /// Ingests must not have begun yet, and the database must be known to be this store's: this is
    /// for the daemon's start.
    pub(crate) fn sweep(&self) -> Result<(), ContentError> {
        let _files = self.lock_files();
        let (known, ingests) = self.shared.database.read_blocking(|connection| {
            let known = strings(connection, "SELECT DISTINCT digest FROM blobs")?;
            Ok::<_, MetadataError>((known, strings(connection, "SELECT id || '' FROM ingests")?))
        })?;
        let hex: HashSet<&str> =
            known.iter().filter_map(|digest| digest.strip_prefix("sha256:")).collect();
        let root = &self.shared.root;
        let is_hex = |name: &str| {
            name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        remove_unknown(root, &self.shared.blobs, &|name| hex.contains(name), &is_hex)?;
        remove_unknown(root, &self.shared.ingests, &|name| ingests.contains(name), &is_number)
    }

    /// Every blob that is recorded, with its size and one namespace that has it. Blocks.
    pub(crate) fn recorded(&self) -> Result<Vec<(Digest, u64, String)>, ContentError> {
        self.shared.database.read_blocking(|connection| {
            let mut statement = connection
                .prepare("SELECT digest, size_bytes, min(namespace) FROM blobs GROUP BY digest")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let digest = Digest::parse(row.get::<_, String>(0)?).map_err(|cause| {
                    MetadataError::Damaged { what: "digest", cause: cause.into() }
                })?;
                found.push((digest, row.get::<_, i64>(1)?.unsigned_abs(), row.get(2)?));
            }
            Ok(found)
        })
    }

    /// What is wrong with the bytes of a blob of `size` bytes; `read` compares them with the digest,
    /// too. Blocks.
    pub(crate) fn fault(&self, digest: &Digest, size: u64, read: bool) -> Option<String> {
        let path = self.path(digest);
        let compared = || -> io::Result<Option<String>> {
            let mut blob = File::open(&path)?;
            let found = blob.metadata()?;
            if !found.is_file() {
                return Ok(Some("it is not a file".to_owned()));
            }
            if found.len() != size {
                return Ok(Some(format!("it has {} bytes, its record says {size}", found.len())));
            }
            if !read {
                return Ok(None);
            }
            let mut hasher = super::Hasher::default();
            let mut chunk = vec![0; 256 << 10];
            loop {
                match io::Read::read(&mut blob, &mut chunk)? {
                    0 => break,
                    count => hasher.update(&chunk[..count]),
                }
            }
            let got = hasher.finish();
            Ok((got != *digest).then(|| format!("its bytes have the digest {got}")))
        };
        match compared() {
            Ok(fault) => fault,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("its file is missing".to_owned())
            }
            Err(error) => Some(format!("read {}: {error}", path.display())),
        }
    }

    /// The blobs on disk that no record names, with their sizes. Blocks.
    pub(crate) fn strays(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        let known: HashSet<Digest> =
            self.recorded()?.into_iter().map(|(digest, ..)| digest).collect();
        let folder = &self.shared.blobs;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(file("list folder", folder))? {
            let entry = entry.map_err(file("list folder", folder))?;
            let digest = entry.file_name().to_str().map(|name| format!("sha256:{name}"));
            if let Some(digest) = digest.and_then(|digest| Digest::parse(digest).ok())
                && !known.contains(&digest)
                && let Ok(metadata) = entry.metadata()
            {
                found.push((digest, metadata.len()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Records a blob whose bytes are in place. Blocks.
    pub(crate) fn adopt(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<(), ContentError> {
        let now = from_nanos(now_nanos());
        let (digest, labels) = (digest.clone(), Labels::new());
        let info = Info { digest, size_bytes, labels, created: now, updated: now };
        let namespace = namespace.clone();
        self.shared.database.write_blocking(move |transaction| {
            crate::namespace::ensure(transaction, &namespace)?;
            record(transaction, &namespace, None, &info)
        })
    }

    /// Sets the bytes of a blob aside. Blocks.
    pub(crate) fn set_aside(&self, digest: &Digest, why: &str) {
        let _files = self.lock_files();
        set_aside(&self.shared.root, &self.path(digest), why);
    }

    /// Where the bytes of `digest` are.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.shared.blobs.join(digest.hex())
    }

    pub(super) fn lock_files(&self) -> MutexGuard<'_, ()> {
        // What the lock guards is on disk, and consistent at every step.
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the folder of blobs, so that new names in it last.
    pub(super) fn sync_names(&self) -> Result<(), ContentError> {
        File::open(&self.shared.blobs)
            .and_then(|folder| folder.sync_all())
            .map_err(file("sync folder", &self.shared.blobs))
    }
}

/// Makes `folder` with those between it and `root`, and syncs their names.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    for made in folder.ancestors().skip(1) {
        File::open(made)?.sync_all()?;
        if made == root {
            break;
        }
    }
    Ok(())
}

/// Writes the labels of `info`, which were just changed.
fn change_labels(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    info: &mut Info,
) -> Result<(), ContentError> {
    labels::validate(&info.labels)?;
    info.updated = from_nanos(now_nanos());
    transaction
        .prepare_cached(
            "UPDATE blobs SET labels = ?3, updated = ?4 WHERE namespace = ?1 AND digest = ?2",
        )?
        .execute((
            namespace.as_str(),
            info.digest.as_str(),
            label_column::encode(&info.labels)?,
            to_nanos(info.updated),
        ))?;
    let node = Node::content(&info.digest);
    reference::replace(transaction, namespace, &node, &[], &info.labels)?;
    Ok(())
}

/// Writes the record of a blob whose bytes are in place.
pub(super) fn record(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&LeaseId>,
    info: &Info,
) -> Result<(), ContentError> {
    let size = i64::try_from(info.size_bytes).unwrap_or(i64::MAX);
    let made = transaction
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO blobs (namespace, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute((
            namespace.as_str(),
            info.digest.as_str(),
            size,
            label_column::encode(&info.labels)?,
            to_nanos(info.created),
            to_nanos(info.updated),
        ))?;
    let node = Node::content(&info.digest);
    // A writer that finds its blob there already still wants it kept by its lease.
    lease::hold(transaction, namespace, lease, &node)?;
    if made == 0 {
        return Err(ContentError::AlreadyExists(info.digest.clone()));
    }
    reference::record(transaction, namespace, &node, &[], &info.labels)?;
    Ok(())
}

/// Deletes the record of `digest`; whether no other namespace has one is the answer.
pub(crate) fn forget(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    digest: &Digest,
) -> Result<bool, ContentError> {
    let deleted = transaction
        .prepare_cached("DELETE FROM blobs WHERE namespace = ?1 AND digest = ?2")?
        .execute((namespace.as_str(), digest.as_str()))?;
    if deleted == 0 {
        return Err(ContentError::NotFound(digest.clone()));
    }
    reference::clear(transaction, namespace, &Node::content(digest))?;
    Ok(size_anywhere(transaction, digest)?.is_none())
}

/// The size of `digest` when any namespace has it.
pub(super) fn size_anywhere(
    connection: &Connection,
    digest: &Digest,
) -> Result<Option<u64>, ContentError> {
    let size: Option<i64> = connection
        .prepare_cached("SELECT size_bytes FROM blobs WHERE digest = ?1 LIMIT 1")?
        .query_row([digest.as_str()], |row| row.get(0))
        .optional()?;
    Ok(size.map(i64::unsigned_abs))
}

/// Whether the namespace has `digest`.
pub(super) fn has(
    connection: &Connection,
    namespace: &Namespace,
    digest: &Digest,
) -> Result<bool, ContentError> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM blobs WHERE namespace = ?1 AND digest = ?2")?
        .exists((namespace.as_str(), digest.as_str()))?)
}

fn find(
    connection: &Connection,
    namespace: &Namespace,
    digest: &Digest,
) -> Result<Info, ContentError> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM blobs WHERE namespace = ?1 AND digest = ?2"
        ))?
        .query_row((namespace.as_str(), digest.as_str()), |row| Ok(read(row)))
        .optional()?
        .transpose()?
        .ok_or_else(|| ContentError::NotFound(digest.clone()))
}

fn read(row: &Row<'_>) -> Result<Info, MetadataError> {
    let digest = Digest::parse(row.get::<_, String>(0)?)
        .map_err(|cause| MetadataError::Damaged { what: "digest", cause: cause.into() })?;
    Ok(Info {
        digest,
        size_bytes: row.get::<_, i64>(1)?.unsigned_abs(),
        labels: label_column::decode(&row.get::<_, String>(2)?)?,
        created: from_nanos(row.get(3)?),
        updated: from_nanos(row.get(4)?),
    })
}

fn strings(connection: &Connection, query: &str) -> rusqlite::Result<HashSet<String>> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// Removes the files in `folder` whose names the store gives (`is_ours`) and no record has.
fn remove_unknown(
    root: &Path,
    folder: &Path,
    known: &dyn Fn(&str) -> bool,
    is_ours: &dyn Fn(&str) -> bool,
) -> Result<(), ContentError> {
    for entry in fs::read_dir(folder).map_err(file("list folder", folder))? {
        let entry = entry.map_err(file("list folder", folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_str().unwrap_or_default();
        if known(name) {
            continue;
        }
        if !is_ours(name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            set_aside(root, &path, "it is not a file of this store");
            continue;
        }
        log::info!("removing {}, which no record names", path.display());
        if let Err(error) = fs::remove_file(&path).or_else(absent_is_fine) {
            log::warn!("remove {}: {error}", path.display());
        }
    }
    Ok(())
}

pub(super) fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
