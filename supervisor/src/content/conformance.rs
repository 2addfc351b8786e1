//! The suite of every content store, on the store itself.

use std::io::Read as _;

use conformance::content::{ContentStore, Info};
use conformance::{Labels, Refused, Result};

use super::{ContentError, Digest, Request, Store};
use crate::metadata::{Database, Namespace};

struct Local {
    store: Store,
    namespace: Namespace,
}

impl Local {
    /// Runs a call of the store, which blocks.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store, &Namespace) -> std::result::Result<T, ContentError> + Send + 'static,
    ) -> Result<T> {
        let (store, namespace) = (self.store.clone(), self.namespace.clone());
        let called = tokio::task::spawn_blocking(move || call(&store, &namespace)).await;
        called
            .expect("the call does not panic")
            .map_err(|error| Refused { kind: error.kind(), text: shim_sdk::error::report(&error) })
    }
}

fn parse(digest: &str) -> Digest {
    Digest::parse(digest).expect("the suite's digests are well formed")
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn begin(reference: String) -> Request {
    Request { reference, ..Request::default() }
}

fn known(info: super::Info) -> Info {
    Info { digest: info.digest.to_string(), size: info.size_bytes, labels: info.labels }
}

impl ContentStore for Local {
    async fn append(&self, reference: &str, bytes: &[u8]) -> Result<u64> {
        let (reference, bytes) = (reference.to_owned(), bytes.to_vec());
        self.call(move |store, namespace| {
            let mut ingest = store.ingest(namespace, begin(reference))?;
            ingest.write(&bytes)?;
            Ok(ingest.status().offset)
        })
        .await
    }

    async fn commit(
        &self,
        reference: &str,
        size: u64,
        digest: &str,
        labels: &Labels,
    ) -> Result<String> {
        let (reference, labels) = (reference.to_owned(), labels.clone());
        let expected = (!digest.is_empty()).then(|| parse(digest));
        self.call(move |store, namespace| {
            let ingest = store.ingest(namespace, begin(reference))?;
            Ok(ingest.commit(size, expected.as_ref(), labels)?.digest.to_string())
        })
        .await
    }

    async fn status(&self, reference: &str) -> Result<u64> {
        let reference = reference.to_owned();
        self.call(move |store, namespace| Ok(store.status(namespace, &reference)?.offset)).await
    }

    async fn statuses(&self, filters: &[&str]) -> Result<Vec<String>> {
        let filters = owned(filters);
        self.call(move |store, namespace| {
            let found = store.statuses(namespace, &filters)?;
            Ok(found.into_iter().map(|status| status.reference).collect())
        })
        .await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.call(move |store, namespace| store.abort(namespace, &reference)).await
    }

    async fn info(&self, digest: &str) -> Result<Info> {
        let digest = parse(digest);
        self.call(move |store, namespace| store.info(namespace, &digest).map(known)).await
    }

    async fn update(&self, digest: &str, labels: &Labels, paths: &[&str]) -> Result<Info> {
        let (digest, labels, paths) = (parse(digest), labels.clone(), owned(paths));
        self.call(move |store, namespace| {
            store.update(namespace, &digest, labels, paths).map(known)
        })
        .await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<String>> {
        let filters = owned(filters);
        self.call(move |store, namespace| {
            let found = store.list(namespace, &filters)?;
            Ok(found.into_iter().map(|info| info.digest.to_string()).collect())
        })
        .await
    }

    async fn read(&self, digest: &str, offset: u64, size: u64) -> Result<Vec<u8>> {
        let digest = parse(digest);
        self.call(move |store, namespace| {
            use std::io::Seek as _;
            let (mut blob, left) = store.open_range(namespace, &digest, offset, size)?;
            let mut bytes = Vec::new();
            blob.seek(std::io::SeekFrom::Start(offset)).expect("seek in a blob");
            blob.take(left).read_to_end(&mut bytes).expect("read a blob");
            Ok(bytes)
        })
        .await
    }

    async fn delete(&self, digest: &str) -> Result<()> {
        let digest = parse(digest);
        self.call(move |store, namespace| store.delete(namespace, &digest)).await
    }
}

fn on_an_empty_store(case: impl AsyncFnOnce(&Local)) {
    let folder = tempfile::tempdir().expect("make a directory");
    let database = Database::open(folder.path().join("meta.db")).expect("open a database");
    let store = Store::open(folder.path(), database).expect("open a store");
    let local = Local { store, namespace: Namespace::new("a").expect("a namespace") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("make a runtime").block_on(case(&local));
}

conformance::content_store_suite!(on_an_empty_store);
