//! What is kept and what goes.

use super::*;
use crate::content::{Descriptor, Digest, Request};
use crate::events::Bus;
use crate::image::{Image, Images};
use crate::lease::{LeaseId, Leases};
use crate::metadata::{Labels, Namespace};
use crate::snapshot::{Commit, New};

struct Fixture {
    _folder: tempfile::TempDir,
    content: Store,
    snapshots: Snapshotter,
    images: Images,
    leases: Leases,
    collector: Collector,
    namespace: Namespace,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path().join("meta.db")).unwrap();
    let content = Store::open(folder.path(), database.clone()).unwrap();
    let snapshots = Snapshotter::open(folder.path(), database.clone(), Bus::new()).unwrap();
    Fixture {
        content: content.clone(),
        snapshots: snapshots.clone(),
        images: Images::new(database.clone(), Bus::new()),
        leases: Leases::new(database.clone()),
        collector: Collector::new(database, content, snapshots),
        namespace: Namespace::new("a").unwrap(),
        _folder: folder,
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Fixture {
    async fn blob(&self, bytes: &'static [u8], labels: Labels, lease: Option<LeaseId>) -> Digest {
        let (content, namespace) = (self.content.clone(), self.namespace.clone());
        tokio::task::spawn_blocking(move || {
            let reference = String::from_utf8_lossy(bytes).into_owned();
            let request = Request { reference, lease, ..Request::default() };
            let mut ingest = content.ingest(&namespace, request).unwrap();
            ingest.write(bytes).unwrap();
            ingest.commit(0, None, labels).unwrap().digest
        })
        .await
        .unwrap()
    }

    async fn has(&self, digest: &Digest) -> bool {
        let (content, namespace) = (self.content.clone(), self.namespace.clone());
        let digest = digest.clone();
        tokio::task::spawn_blocking(move || content.open_blob(&namespace, &digest).is_ok())
            .await
            .unwrap()
    }

    async fn layer(&self, name: &str, parent: &str) {
        let new = New { key: format!("{name}-active"), parent: parent.into(), ..New::default() };
        let key = new.key.clone();
        self.snapshots.prepare(&self.namespace, new).await.unwrap();
        let commit = Commit { key, name: name.to_owned(), labels: Labels::new(), lease: None };
        self.snapshots.commit(&self.namespace, commit).await.unwrap();
    }

    async fn snapshots(&self) -> Vec<String> {
        let list = self.snapshots.list(&self.namespace, &[]).await.unwrap();
        list.into_iter().map(|info| info.name).collect()
    }
}

#[tokio::test]
async fn an_image_keeps_all_that_its_labels_lead_to_until_it_goes() {
    let fixture = fixture();
    let layer = fixture.blob(b"layer", Labels::new(), None).await;
    fixture.layer("chain1", "").await;
    fixture.layer("chain2", "chain1").await;
    fixture.layer("loose", "chain1").await;
    let config = fixture
        .blob(b"config", labels(&[("containerd.io/gc.ref.snapshot.overlayfs", "chain2")]), None)
        .await;
    let manifest = labels(&[
        ("containerd.io/gc.ref.content.config", config.as_str()),
        ("containerd.io/gc.ref.content.l.0", layer.as_str()),
    ]);
    let manifest = fixture.blob(b"manifest", manifest, None).await;
    let loose = fixture.blob(b"loose", Labels::new(), None).await;
    let target = Descriptor {
        media_type: "m".into(),
        digest: manifest.clone(),
        size_bytes: 8,
        annotations: Labels::new(),
    };
    let image = Image::new("i", Labels::new(), target);
    fixture.images.create(&fixture.namespace, image).await.unwrap();

    let swept = fixture.collector.collect().await.unwrap();
    assert_eq!(swept, Swept { blobs: 1, ingests: 0, snapshots: 1 });
    assert!(!fixture.has(&loose).await);
    for kept in [&manifest, &config, &layer] {
        assert!(fixture.has(kept).await);
    }
    assert_eq!(fixture.snapshots().await, ["chain1", "chain2"]);

    fixture.images.delete(&fixture.namespace, "i", None).await.unwrap();
    let swept = fixture.collector.collect().await.unwrap();
    assert_eq!(swept, Swept { blobs: 3, ingests: 0, snapshots: 2 });
}

#[tokio::test]
async fn a_lease_keeps_what_it_holds_until_it_is_deleted_or_expires() {
    let fixture = fixture();
    let (kept, expired) = (LeaseId::new("kept"), LeaseId::new("expired"));
    let past = labels(&[("containerd.io/gc.expire", "2001-01-01T00:00:00Z")]);
    fixture.leases.create(&fixture.namespace, kept.clone(), Labels::new()).await.unwrap();
    fixture.leases.create(&fixture.namespace, expired.clone(), past).await.unwrap();
    let held = fixture.blob(b"held", Labels::new(), Some(kept.clone())).await;
    let late = fixture.blob(b"late", Labels::new(), Some(expired.clone())).await;
    fixture.collector.collect().await.unwrap();
    assert!(fixture.has(&held).await && !fixture.has(&late).await);
    let left = fixture.leases.list(&fixture.namespace, &[]).await.unwrap();
    assert!(left.len() == 1 && left[0].id == kept);
    fixture.leases.delete(&fixture.namespace, &kept).await.unwrap();
    fixture.collector.collect().await.unwrap();
    assert!(!fixture.has(&held).await);
}

#[tokio::test]
async fn a_flat_lease_does_not_keep_what_its_resources_refer_to() {
    let fixture = fixture();
    let lease = LeaseId::new("flat");
    let flat = labels(&[("containerd.io/gc.flat", "true")]);
    fixture.leases.create(&fixture.namespace, lease.clone(), flat).await.unwrap();
    let inner = fixture.blob(b"inner", Labels::new(), None).await;
    let refers = labels(&[("containerd.io/gc.ref.content.0", inner.as_str())]);
    let outer = fixture.blob(b"outer", refers, Some(lease)).await;
    fixture.collector.collect().await.unwrap();
    assert!(fixture.has(&outer).await && !fixture.has(&inner).await);
}

#[tokio::test]
async fn a_layer_whose_unpacker_has_gone_is_not_taken_for_fresh_work() {
    let fixture = fixture();
    let labels = labels(&[("containerd.io/snapshot.ref", "sha256:chain")]);
    let new = New { key: "extract-1 sha256:chain".into(), labels, ..New::default() };
    fixture.snapshots.prepare(&fixture.namespace, new).await.unwrap();
    assert_eq!(fixture.collector.collect().await.unwrap().snapshots, 1);
}

#[tokio::test]
async fn roots_back_references_and_fresh_work_are_kept() {
    let fixture = fixture();
    let root = fixture.blob(b"root", labels(&[("containerd.io/gc.root", "now")]), None).await;
    let back = labels(&[("containerd.io/gc.bref.content", root.as_str())]);
    let back = fixture.blob(b"back", back, None).await;
    let new = New { key: "active".into(), ..New::default() };
    fixture.snapshots.prepare(&fixture.namespace, new).await.unwrap();
    assert_eq!(fixture.collector.collect().await.unwrap(), Swept::default());
    assert!(fixture.has(&root).await && fixture.has(&back).await);
    let (content, namespace) = (fixture.content.clone(), fixture.namespace.clone());
    let other = root.clone();
    tokio::task::spawn_blocking(move || content.update(&namespace, &other, Labels::new(), vec![]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fixture.collector.collect().await.unwrap().blobs, 2);
    assert_eq!(fixture.snapshots().await, ["active"]);
}

#[tokio::test]
async fn a_lease_that_has_ended_makes_a_collection_due_by_itself() {
    let fixture = fixture();
    assert!(!fixture.collector.is_due().await.unwrap());
    for (id, expires) in [("ended", "2020-01-02T03:04:05Z"), ("holds", "2200-01-02T03:04:05Z")] {
        let labels = labels(&[("containerd.io/gc.expire", expires)]);
        fixture.leases.create(&fixture.namespace, LeaseId::new(id), labels).await.unwrap();
    }
    assert!(fixture.collector.is_due().await.unwrap());
    fixture.collector.collect().await.unwrap();
    assert!(!fixture.collector.is_due().await.unwrap());
    let left = fixture.leases.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(left.len(), 1);
}
