//! The store's promises, through its own API.

use std::io::Read;

use shim_sdk::Kind;

use super::*;
use crate::metadata::{Database, Labels, Namespace};

struct Fixture {
    folder: tempfile::TempDir,
    database: Database,
    store: Store,
    namespace: Namespace,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path().join("meta.db")).unwrap();
    let store = Store::open(folder.path(), database.clone()).unwrap();
    Fixture { folder, database, store, namespace: Namespace::new("a").unwrap() }
}

fn request(reference: &str) -> Request {
    Request { reference: reference.to_owned(), ..Request::default() }
}

impl Fixture {
    fn add(&self, namespace: &Namespace, bytes: &[u8]) -> Result<Info, ContentError> {
        let mut ingest = self.store.ingest(namespace, request("r"))?;
        ingest.write(bytes)?;
        ingest.commit(bytes.len() as u64, Some(&Digest::of(bytes)), Labels::new())
    }

    fn bytes(&self, digest: &Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.store.open_blob(&self.namespace, digest).unwrap().1.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn files(&self, kind: &str) -> usize {
        std::fs::read_dir(self.folder.path().join("content").join(kind)).unwrap().count()
    }
}

#[test]
fn what_is_committed_can_be_read() {
    let fixture = fixture();
    let info = fixture.add(&fixture.namespace, b"hello").unwrap();
    assert_eq!(fixture.bytes(&info.digest), b"hello");
    assert_eq!(fixture.store.info(&fixture.namespace, &info.digest).unwrap(), info);
    assert_eq!(fixture.files("ingests"), 0);
    let (_, left) = fixture.store.open_range(&fixture.namespace, &info.digest, 2, 0).unwrap();
    assert_eq!(left, 3);
    let past = fixture.store.open_range(&fixture.namespace, &info.digest, 6, 0).unwrap_err();
    assert_eq!(past.kind(), Kind::OutOfRange);
}

#[test]
fn a_second_commit_of_a_blob_says_so_and_keeps_its_labels() {
    let fixture = fixture();
    let digest = Digest::of(b"hello");
    let commit = |value: &str| {
        let mut ingest = fixture.store.ingest(&fixture.namespace, request("r")).unwrap();
        ingest.write(b"hello").unwrap();
        ingest.commit(0, None, Labels::from([("k".into(), value.into())]))
    };
    commit("first").unwrap();
    assert_eq!(commit("second").unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(fixture.store.info(&fixture.namespace, &digest).unwrap().labels["k"], "first");
    assert_eq!(fixture.files("ingests"), 0);
    let expected = Request { expected: Some(digest), ..request("other") };
    let refused = fixture.store.ingest(&fixture.namespace, expected).err().unwrap();
    assert_eq!(refused.kind(), Kind::AlreadyExists);
}

#[test]
fn a_dropped_ingest_resumes_where_it_ended() {
    let fixture = fixture();
    let mut ingest = fixture.store.ingest(&fixture.namespace, request("r")).unwrap();
    ingest.write(b"hel").unwrap();
    let busy = fixture.store.ingest(&fixture.namespace, request("r")).err().unwrap();
    assert_eq!(busy.kind(), Kind::Unavailable);
    drop(ingest);
    assert_eq!(fixture.store.status(&fixture.namespace, "r").unwrap().offset, 3);
    // A new daemon on the same files.
    let store = Store::open(fixture.folder.path(), fixture.database.clone()).unwrap();
    store.sweep().unwrap();
    let mut ingest = store.ingest(&fixture.namespace, request("r")).unwrap();
    assert_eq!(ingest.status().offset, 3);
    ingest.write(b"lo").unwrap();
    ingest.commit(5, Some(&Digest::of(b"hello")), Labels::new()).unwrap();
}

#[test]
fn a_wrong_digest_or_size_makes_no_blob() {
    let fixture = fixture();
    let mut ingest = fixture.store.ingest(&fixture.namespace, request("r")).unwrap();
    ingest.write(b"hello").unwrap();
    let wrong = ingest.commit(0, Some(&Digest::of(b"other")), Labels::new()).unwrap_err();
    assert_eq!(wrong.kind(), Kind::FailedPrecondition);
    let ingest = fixture.store.ingest(&fixture.namespace, request("r")).unwrap();
    let wrong = ingest.commit(4, None, Labels::new()).unwrap_err();
    assert_eq!(wrong.kind(), Kind::FailedPrecondition);
    assert!(fixture.store.list(&fixture.namespace, &[]).unwrap().is_empty());
    fixture.store.abort(&fixture.namespace, "r").unwrap();
    assert_eq!(fixture.files("ingests") + fixture.files("blobs/sha256"), 0);
    assert_eq!(fixture.store.abort(&fixture.namespace, "r").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_ingest_that_starts_over_forgets_what_it_had() {
    let fixture = fixture();
    let mut ingest = fixture.store.ingest(&fixture.namespace, request("r")).unwrap();
    ingest.write(b"garbage").unwrap();
    ingest.reset().unwrap();
    ingest.write(b"hello").unwrap();
    ingest.commit(5, Some(&Digest::of(b"hello")), Labels::new()).unwrap();
}

#[test]
fn a_blob_of_another_namespace_is_shared_and_outlives_it() {
    let fixture = fixture();
    let other = Namespace::new("b").unwrap();
    let digest = fixture.add(&other, b"hello").unwrap().digest;
    assert_eq!(fixture.store.info(&fixture.namespace, &digest).unwrap_err().kind(), Kind::NotFound);
    let expected = Request { expected: Some(digest.clone()), ..request("r") };
    let ingest = fixture.store.ingest(&fixture.namespace, expected).unwrap();
    assert_eq!(ingest.status().offset, 5);
    ingest.commit(5, Some(&digest), Labels::new()).unwrap();
    fixture.store.delete(&other, &digest).unwrap();
    assert_eq!(fixture.bytes(&digest), b"hello");
    fixture.store.delete(&fixture.namespace, &digest).unwrap();
    assert_eq!(fixture.files("blobs/sha256"), 0);
}

#[test]
fn a_shared_ingest_can_still_be_written_anew() {
    let fixture = fixture();
    let other = Namespace::new("b").unwrap();
    let digest = fixture.add(&other, b"hello").unwrap().digest;
    let expected = Request { expected: Some(digest.clone()), ..request("r") };
    let mut ingest = fixture.store.ingest(&fixture.namespace, expected).unwrap();
    ingest.reset().unwrap();
    ingest.write(b"hello").unwrap();
    ingest.commit(5, Some(&digest), Labels::new()).unwrap();
    assert_eq!(fixture.bytes(&digest), b"hello");
}

#[test]
fn files_without_a_record_are_swept_at_start() {
    let fixture = fixture();
    let digest = fixture.add(&fixture.namespace, b"hello").unwrap().digest;
    let content = fixture.folder.path().join("content");
    std::fs::write(content.join("blobs/sha256").join(Digest::of(b"x").hex()), b"x").unwrap();
    std::fs::write(content.join("ingests/99"), b"x").unwrap();
    fixture.store.sweep().unwrap();
    assert_eq!((fixture.files("ingests"), fixture.files("blobs/sha256")), (0, 1));
    assert_eq!(fixture.bytes(&digest), b"hello");
}

#[test]
fn labels_are_updated_by_mask_and_filtered_on() {
    let fixture = fixture();
    let digest = fixture.add(&fixture.namespace, b"hello").unwrap().digest;
    let change = Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
    let update = |paths: &[&str], change: Labels| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        fixture.store.update(&fixture.namespace, &digest, change, paths)
    };
    update(&["labels.a"], change.clone()).unwrap();
    assert_eq!(update(&["labels.b"], change.clone()).unwrap().labels, change);
    let found =
        |filter: &str| fixture.store.list(&fixture.namespace, &[filter.to_owned()]).unwrap().len();
    assert_eq!((found("labels.a==1"), found("labels.a==2")), (1, 0));
    update(&[], Labels::new()).unwrap();
    assert_eq!(found("labels.a"), 0);
    assert_eq!(update(&["size"], Labels::new()).unwrap_err().kind(), Kind::InvalidArgument);
}

/// A file system of 8 MiB, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = Some("size=8m");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, data).unwrap();
        Self(folder)
    }

    fn fill(&self) {
        use std::io::Write as _;
        let path = self.0.path().join(format!("filler-{}", self.free()));
        let mut file = std::fs::File::create(path).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        assert_eq!(self.free(), 0);
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.0.path()).unwrap();
        found.f_bavail * found.f_frsize
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        nix::mount::umount2(self.0.path(), flags).unwrap();
    }
}

#[test]
fn blobs_and_ingests_are_removed_from_a_full_file_system_and_the_store_opens_on_it() {
    let disk = Small::new();
    let namespace = Namespace::new("a").unwrap();
    let open = || {
        let database = Database::open(disk.0.path().join("metadata.db")).unwrap();
        Store::open(disk.0.path(), database).unwrap()
    };
    let store = open();
    let bytes = vec![1; 1 << 20];
    let digest = Digest::of(&bytes);
    let mut ingest = store.ingest(&namespace, request("whole")).unwrap();
    ingest.write(&bytes).unwrap();
    ingest.commit(0, None, Labels::new()).unwrap();
    let mut ingest = store.ingest(&namespace, request("half")).unwrap();
    ingest.write(&bytes[..100_000]).unwrap();
    drop(ingest);
    disk.fill();
    // Writes that are no removals use up what the write-ahead log has.
    for number in 0..2000 {
        if store.ingest(&namespace, request(&format!("more-{number}"))).is_err() {
            break;
        }
    }
    disk.fill();
    drop(store);
    let store = open();
    disk.fill();
    store.abort(&namespace, "half").unwrap();
    assert!(disk.free() >= 90_000, "{}", disk.free());
    disk.fill();
    store.delete(&namespace, &digest).unwrap();
    assert!(disk.free() >= 1_000_000, "{}", disk.free());
}

/// The bytes had no record, and stayed until the next start.
#[test]
fn a_commit_that_the_full_file_system_refuses_leaves_the_bytes_to_the_ingest() {
    let disk = Small::new();
    let database = Database::open(disk.0.path().join("metadata.db")).unwrap();
    let store = Store::open(disk.0.path(), database).unwrap();
    let namespace = Namespace::new("a").unwrap();
    let mut ingest = store.ingest(&namespace, request("large")).unwrap();
    ingest.write(&vec![1; 1 << 20]).unwrap();
    disk.fill();
    for number in 0..10_000 {
        if store.ingest(&namespace, request(&format!("more-{number}"))).is_err() {
            break;
        }
    }
    disk.fill();
    let refused = ingest.commit(0, None, Labels::new()).unwrap_err();
    assert_eq!(refused.kind(), Kind::ResourceExhausted);
    store.abort(&namespace, "large").unwrap();
    // Not by what is free: the reserve may have been given back as well.
    for folder in ["content/blobs/sha256", "content/ingests"] {
        let files = std::fs::read_dir(disk.0.path().join(folder)).unwrap().flatten();
        let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(bytes, 0, "in {folder}");
    }
}

#[test]
fn an_ingest_that_fills_the_file_system_gives_its_bytes_back_at_once() {
    let disk = Small::new();
    let database = Database::open(disk.0.path().join("metadata.db")).unwrap();
    let store = Store::open(disk.0.path(), database).unwrap();
    let namespace = Namespace::new("a").unwrap();
    let mut ingest = store.ingest(&namespace, request("large")).unwrap();
    let before = disk.free();
    let failed = loop {
        if let Err(error) = ingest.write(&[1; 65536]) {
            break error;
        }
    };
    assert_eq!(failed.kind(), Kind::ResourceExhausted);
    assert!(disk.free() + 65536 >= before, "{} of {before} are free", disk.free());
    assert_eq!(ingest.status().offset, 0);
    ingest.write(b"small").unwrap();
    assert_eq!(ingest.commit(5, Some(&Digest::of(b"small")), Labels::new()).unwrap().size_bytes, 5);
}
