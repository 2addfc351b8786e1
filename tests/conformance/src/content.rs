//! The promises of a content store.

use sha2::{Digest as _, Sha256};
use shim_sdk::Kind;

use crate::{Labels, Result, labels, refused};

/// Blobs by digest, and the ingests that become blobs, in one namespace.
///
/// An *ingest* is content on its way in. The writer names it by a reference of its choice and can
/// go on with it later. A *commit* makes it a blob, which never changes.
#[allow(async_fn_in_trait)] // the cases are generic, and need no bounds on the futures
pub trait ContentStore {
    /// Appends to the ingest of this reference, which is begun when there is none. Returns its size.
    async fn append(&self, reference: &str, bytes: &[u8]) -> Result<u64>;

    /// Makes the ingest a blob, if it has this size (unless 0) and this digest (unless empty).
    /// Returns the blob's digest.
    async fn commit(
        &self,
        reference: &str,
        size: u64,
        digest: &str,
        labels: &Labels,
    ) -> Result<String>;

    /// How many bytes the ingest has.
    async fn status(&self, reference: &str) -> Result<u64>;

    /// The references of the ingests that pass the filters.
    async fn statuses(&self, filters: &[&str]) -> Result<Vec<String>>;

    /// Removes an ingest.
    async fn abort(&self, reference: &str) -> Result<()>;

    /// What is known about a blob.
    async fn info(&self, digest: &str) -> Result<Info>;

    /// Changes the labels that the field paths name (`labels`, `labels.NAME`); all without paths.
    async fn update(&self, digest: &str, labels: &Labels, paths: &[&str]) -> Result<Info>;

    /// The digests of the blobs that pass the filters, in any order.
    async fn list(&self, filters: &[&str]) -> Result<Vec<String>>;

    /// Reads `size` bytes at an offset; 0 means to the end.
    async fn read(&self, digest: &str, offset: u64, size: u64) -> Result<Vec<u8>>;

    /// Removes a blob.
    async fn delete(&self, digest: &str) -> Result<()>;
}

/// What is known about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its digest, `sha256:` and hexadecimal digits.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: Labels,
}

/// The digest of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

async fn add(store: &impl ContentStore, bytes: &[u8], with: &Labels) -> Result<String> {
    store.append("add", bytes).await?;
    store.commit("add", bytes.len() as u64, &digest(bytes), with).await
}

/// Adds a blob that has no labels.
async fn plain(store: &impl ContentStore, bytes: &[u8]) -> String {
    add(store, bytes, &Labels::new()).await.expect("add a blob")
}

/// A committed blob is read as it was written, from any offset; a size beyond its end reads to its end.
pub async fn a_committed_blob_is_read_whole_and_in_parts(store: &impl ContentStore) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let name = plain(store, &bytes).await;
    assert_eq!(name, digest(&bytes));
    let info = store.info(&name).await.expect("it is known");
    assert_eq!(info, Info { digest: name.clone(), size: 300_000, labels: Labels::new() });
    assert!(store.read(&name, 0, 0).await.expect("read it") == bytes);
    assert!(store.read(&name, 1, 70_000).await.expect("read it") == bytes[1..70_001]);
    assert!(store.read(&name, 299_999, 0).await.expect("read it") == bytes[299_999..]);
    assert!(store.read(&name, 0, 300_000).await.expect("read it") == bytes);
}

/// Nothing is content too.
pub async fn an_empty_blob_is_a_blob(store: &impl ContentStore) {
    let name = plain(store, b"").await;
    assert_eq!(store.info(&name).await.expect("it is known").size, 0);
    assert_eq!(store.read(&name, 0, 0).await.expect("read it"), b"");
}

/// Every request for a blob or an ingest that does not exist is NOT_FOUND.
pub async fn a_blob_that_is_not_there_is_not_found(store: &impl ContentStore) {
    let absent = digest(b"absent");
    refused(store.info(&absent).await, Kind::NotFound);
    refused(store.read(&absent, 0, 0).await, Kind::NotFound);
    refused(store.delete(&absent).await, Kind::NotFound);
    refused(store.update(&absent, &Labels::new(), &[]).await, Kind::NotFound);
    refused(store.status("absent").await, Kind::NotFound);
    refused(store.abort("absent").await, Kind::NotFound);
    assert_eq!(store.list(&[]).await.expect("list"), Vec::<String>::new());
}

/// The end itself can be read from, and is empty; behind it is OUT_OF_RANGE.
pub async fn a_read_past_the_end_is_out_of_range(store: &impl ContentStore) {
    let name = plain(store, b"hello").await;
    assert_eq!(store.read(&name, 5, 0).await.expect("read at the end"), b"");
    refused(store.read(&name, 6, 0).await, Kind::OutOfRange);
}

/// A writer that comes back goes on at the offset that the status tells.
pub async fn an_ingest_resumes_where_it_ended(store: &impl ContentStore) {
    assert_eq!(store.append("r", b"hel").await.expect("begin"), 3);
    assert_eq!(store.status("r").await.expect("its status"), 3);
    assert_eq!(store.append("r", b"lo").await.expect("go on"), 5);
    let name = store.commit("r", 5, &digest(b"hello"), &Labels::new()).await.expect("commit");
    assert_eq!(store.read(&name, 0, 0).await.expect("read it"), b"hello");
}

/// Ingests are listed until they become blobs, and blobs are not listed before.
pub async fn an_ingest_has_a_status_until_it_is_committed(store: &impl ContentStore) {
    store.append("one", b"1").await.expect("begin");
    store.append("two", b"22").await.expect("begin");
    let mut both = store.statuses(&[]).await.expect("the ingests");
    both.sort();
    assert_eq!(both, ["one", "two"]);
    assert_eq!(store.statuses(&["ref==two"]).await.expect("the ingests"), ["two"]);
    assert!(store.list(&[]).await.expect("the blobs").is_empty());
    store.commit("one", 0, "", &Labels::new()).await.expect("commit");
    refused(store.status("one").await, Kind::NotFound);
    assert_eq!(store.statuses(&[]).await.expect("the ingests"), ["two"]);
    assert_eq!(store.list(&[]).await.expect("the blobs"), [digest(b"1")]);
}

/// An abort leaves nothing of an ingest: the reference can be used for other bytes.
pub async fn an_aborted_ingest_is_gone(store: &impl ContentStore) {
    store.append("r", b"garbage").await.expect("begin");
    store.abort("r").await.expect("abort");
    refused(store.status("r").await, Kind::NotFound);
    refused(store.abort("r").await, Kind::NotFound);
    assert_eq!(store.append("r", b"hello").await.expect("begin again"), 5);
    let name = store.commit("r", 5, &digest(b"hello"), &Labels::new()).await.expect("commit");
    assert_eq!(store.read(&name, 0, 0).await.expect("read it"), b"hello");
}

/// Bytes that are not what the writer expects make no blob. They stay for the writer to look at.
pub async fn a_wrong_digest_makes_no_blob_and_keeps_the_ingest(store: &impl ContentStore) {
    store.append("r", b"hello").await.expect("begin");
    let wrong = store.commit("r", 0, &digest(b"other"), &Labels::new()).await;
    refused(wrong, Kind::FailedPrecondition);
    assert!(store.list(&[]).await.expect("the blobs").is_empty());
    assert_eq!(store.status("r").await.expect("its status"), 5);
    store.commit("r", 0, &digest(b"hello"), &Labels::new()).await.expect("the right digest");
}

/// The same for a size; 0 means that the writer expects none.
pub async fn a_wrong_size_makes_no_blob_and_keeps_the_ingest(store: &impl ContentStore) {
    store.append("r", b"hello").await.expect("begin");
    for wrong in [4, 6] {
        refused(store.commit("r", wrong, "", &Labels::new()).await, Kind::FailedPrecondition);
    }
    assert!(store.list(&[]).await.expect("the blobs").is_empty());
    assert_eq!(store.append("r", b"!").await.expect("go on"), 6);
    store.commit("r", 6, "", &Labels::new()).await.expect("the right size");
}

/// The second writer of a blob gets ALREADY_EXISTS, which clients take for success. The labels of
/// the first one stay, and no ingest is left.
pub async fn a_second_commit_of_a_blob_is_refused_and_changes_nothing(store: &impl ContentStore) {
    let first = labels(&[("k", "first")]);
    let name = add(store, b"hello", &first).await.expect("the first");
    store.append("second", b"hello").await.expect("begin");
    let second = store.commit("second", 5, "", &labels(&[("k", "second")])).await;
    refused(second, Kind::AlreadyExists);
    assert_eq!(store.info(&name).await.expect("it is known").labels, first);
    assert!(store.statuses(&[]).await.expect("the ingests").is_empty());
}

/// Two writers have two ingests.
pub async fn ingests_of_two_references_do_not_mix(store: &impl ContentStore) {
    store.append("a", b"aa").await.expect("begin");
    store.append("b", b"b").await.expect("begin");
    store.append("a", b"aa").await.expect("go on");
    let a = store.commit("a", 4, &digest(b"aaaa"), &Labels::new()).await.expect("commit");
    let b = store.commit("b", 1, &digest(b"b"), &Labels::new()).await.expect("commit");
    assert_eq!(store.read(&a, 0, 0).await.expect("read it"), b"aaaa");
    assert_eq!(store.read(&b, 0, 0).await.expect("read it"), b"b");
}

/// A deleted blob is gone at once, and its digest can come back.
pub async fn a_deleted_blob_is_gone_and_can_be_written_again(store: &impl ContentStore) {
    let name = add(store, b"hello", &labels(&[("k", "old")])).await.expect("add");
    store.delete(&name).await.expect("delete");
    refused(store.info(&name).await, Kind::NotFound);
    refused(store.read(&name, 0, 0).await, Kind::NotFound);
    refused(store.delete(&name).await, Kind::NotFound);
    assert_eq!(plain(store, b"hello").await, name);
    assert!(store.info(&name).await.expect("it is known").labels.is_empty());
    assert_eq!(store.read(&name, 0, 0).await.expect("read it"), b"hello");
}

/// A path changes one label; an empty value removes it; no path replaces all.
pub async fn labels_change_one_by_one_or_all_at_once(store: &impl ContentStore) {
    let name = add(store, b"hello", &labels(&[("a", "1"), ("b", "2")])).await.expect("add");
    let change = labels(&[("a", "9"), ("b", "9"), ("c", "3")]);
    let one = store.update(&name, &change, &["labels.a"]).await.expect("one label");
    assert_eq!(one.labels, labels(&[("a", "9"), ("b", "2")]));
    let new = store.update(&name, &change, &["labels.c"]).await.expect("a new label");
    assert_eq!(new.labels, labels(&[("a", "9"), ("b", "2"), ("c", "3")]));
    let gone = store.update(&name, &labels(&[("b", "")]), &["labels.b"]).await.expect("none");
    assert_eq!(gone.labels, labels(&[("a", "9"), ("c", "3")]));
    let all = store.update(&name, &labels(&[("z", "0")]), &[]).await.expect("all labels");
    assert_eq!(all.labels, labels(&[("z", "0")]));
    assert_eq!(store.info(&name).await.expect("it is known"), all);
    assert_eq!(all.size, 5);
}

/// Nothing but the labels of a blob can change.
pub async fn a_field_that_is_not_labels_cannot_be_updated(store: &impl ContentStore) {
    let name = plain(store, b"hello").await;
    refused(store.update(&name, &Labels::new(), &["size"]).await, Kind::InvalidArgument);
}

/// A label's name and value have 4096 bytes together at most. A refused one loses nothing.
pub async fn a_label_that_is_too_long_is_refused(store: &impl ContentStore) {
    let long = labels(&[("k", &"x".repeat(4096))]);
    store.append("r", b"hello").await.expect("begin");
    refused(store.commit("r", 5, "", &long).await, Kind::InvalidArgument);
    let name = store.commit("r", 5, "", &labels(&[("k", "v")])).await.expect("a short label");
    refused(store.update(&name, &long, &[]).await, Kind::InvalidArgument);
    assert_eq!(store.info(&name).await.expect("it is known").labels, labels(&[("k", "v")]));
}

/// A blob is listed when one of the filters matches; parts of a filter must all match.
pub async fn blobs_are_listed_by_filters(store: &impl ContentStore) {
    let one = add(store, b"1", &labels(&[("k", "v"), ("n", "1")])).await.expect("add");
    let two = add(store, b"2", &labels(&[("k", "v"), ("n", "2")])).await.expect("add");
    let found = async |filters: &[&str]| {
        let mut found = store.list(filters).await.expect("list");
        found.sort();
        found
    };
    let mut both = vec![one.clone(), two.clone()];
    both.sort();
    assert_eq!(found(&[]).await, both);
    assert_eq!(found(&["labels.k==v"]).await, both);
    assert_eq!(found(&["labels.k==v,labels.n==2"]).await, [two.as_str()]);
    assert_eq!(found(&["labels.n==1", "labels.n==2"]).await, both);
    assert_eq!(found(&["labels.n!=1"]).await, [two.as_str()]);
    assert_eq!(found(&[&format!("digest=={one}")]).await, [one]);
    assert!(found(&["labels.absent"]).await.is_empty());
}

/// A filter that cannot be read is not taken for one that matches all, or none.
pub async fn a_malformed_filter_is_refused(store: &impl ContentStore) {
    plain(store, b"hello").await;
    refused(store.list(&["labels.k=="]).await, Kind::InvalidArgument);
}
