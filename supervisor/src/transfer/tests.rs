//! Imports of good and bad archives, through the importer.

mod hostile;

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use installer::budget::Budget;
use serde_json::{Value, json};
use shim_sdk::Kind;

use super::*;
use crate::content::{Digest, Store};
use crate::events::Bus;
use crate::gc::Collector;
use crate::image::{Image, ImageError, Images, Platform};
use crate::lease::Leases;
use crate::metadata::{Database, Namespace};
use crate::snapshot::Snapshotter;

struct Fixture {
    folder: tempfile::TempDir,
    importer: Importer,
    namespace: Namespace,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path().join("meta.db")).unwrap();
    let content = Store::open(folder.path(), database.clone()).unwrap();
    let snapshots = Snapshotter::open(folder.path(), database.clone(), Bus::new()).unwrap();
    let importer = Importer {
        content: content.clone(),
        snapshots: snapshots.clone(),
        images: Images::new(database.clone(), Bus::new()),
        leases: Leases::new(database.clone()),
        collector: Collector::new(database, content, snapshots),
    };
    Fixture { folder, importer, namespace: Namespace::new("a").unwrap() }
}

fn unpacking() -> Destination {
    Destination { unpacks: vec![Platform::host()], ..Destination::default() }
}

impl Fixture {
    async fn import(
        &self,
        archive: Vec<u8>,
        to: Destination,
    ) -> Result<Vec<String>, TransferError> {
        self.import_within(archive, to, &Budget::default()).await
    }

    async fn import_within(
        &self,
        archive: Vec<u8>,
        to: Destination,
        budget: &Budget,
    ) -> Result<Vec<String>, TransferError> {
        let archive = Cursor::new(archive);
        let progress = Progress::ignored();
        let images = self.importer.import(&self.namespace, archive, to, progress, budget).await?;
        Ok(images.into_iter().map(|image| image.name).collect())
    }

    /// Imports what must be refused, and checks that nothing of it is left.
    async fn refused(&self, archive: Vec<u8>) -> TransferError {
        self.refused_reader(Cursor::new(archive), &Budget::default()).await
    }

    async fn refused_reader(
        &self,
        archive: impl std::io::Read + Send + 'static,
        budget: &Budget,
    ) -> TransferError {
        let progress = Progress::ignored();
        let outcome =
            self.importer.import(&self.namespace, archive, unpacking(), progress, budget).await;
        let error = outcome.unwrap_err();
        self.assert_empty(&error.to_string()).await;
        error
    }

    async fn assert_empty(&self, after: &str) {
        let importer = self.importer.clone();
        let namespace = self.namespace.clone();
        assert!(importer.images.list(&namespace, &[]).await.unwrap().is_empty());
        assert!(importer.leases.list(&namespace, &[]).await.unwrap().is_empty());
        assert!(importer.snapshots.list(&namespace, &[]).await.unwrap().is_empty());
        let store = importer.content.clone();
        tokio::task::spawn_blocking(move || {
            assert!(store.statuses(&namespace, &[]).unwrap().is_empty());
            assert!(store.list(&namespace, &[]).unwrap().is_empty());
        })
        .await
        .unwrap();
        for folder in ["content/blobs/sha256", "content/ingests", "snapshots"] {
            // A removed snapshot's files go in the background.
            let left = || std::fs::read_dir(self.folder.path().join(folder)).unwrap().count();
            for _ in 0..500 {
                if left() == 0 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(left(), 0, "{folder} after {after}");
        }
    }
}

/// A tar of regular files, in order.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        // Written by hand: the builder itself refuses names that lead outside.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout under construction.
#[derive(Default)]
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
    manifests: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes);
        let link = json!({
            "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()
        });
        self.blobs.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        link
    }

    fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, serde_json::to_vec(value).unwrap())
    }

    /// An image of these layers, gzipped; its config says what `diff_ids` make of theirs.
    fn image(
        &mut self,
        layers: &[Vec<u8>],
        architecture: &str,
        diff_ids: impl Fn(&[u8]) -> Digest,
    ) -> Value {
        let ids: Vec<String> = layers.iter().map(|layer| diff_ids(layer).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}
        });
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer)))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.json("application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    fn named(&mut self, mut target: Value, name: &str) {
        target["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(target);
    }

    fn pack(&self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        let index = serde_json::to_vec(&index).unwrap();
        let mut files: Vec<(&str, &[u8])> =
            vec![("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", &index)];
        files.extend(self.blobs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
        tar(&files)
    }
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[("etc/a", b"one"), ("etc/gone", b"x")]),
        tar(&[("etc/.wh.gone", b""), ("etc/b", b"two")]),
    ]
}

fn good() -> Layout {
    let mut layout = Layout::default();
    let target = layout.image(&layers(), &Platform::host().architecture, Digest::of);
    layout.named(target, "busy:v1");
    layout
}

#[tokio::test]
async fn a_layout_is_imported_unpacked_and_kept_from_collection() {
    let fixture = fixture();
    let names = fixture.import(good().pack(), unpacking()).await.unwrap();
    assert_eq!(names, ["docker.io/library/busy:v1"]);
    fixture.importer.collector.collect().await.unwrap();
    let snapshots = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(snapshots.len(), 2);
    let root = fixture.folder.path().join("snapshots");
    assert_eq!(std::fs::read(root.join("1/fs/etc/a")).unwrap(), b"one");
    assert_eq!(std::fs::read(root.join("2/fs/etc/b")).unwrap(), b"two");
    let store = fixture.importer.content.clone();
    let namespace = fixture.namespace.clone();
    let blobs = tokio::task::spawn_blocking(move || store.list(&namespace, &[])).await.unwrap();
    assert_eq!(blobs.unwrap().len(), 4);
    assert!(fixture.importer.leases.list(&fixture.namespace, &[]).await.unwrap().is_empty());
    // Again: all of it is there, and nothing is made twice.
    fixture.import(gzip(&good().pack()), unpacking()).await.unwrap();
    let again = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(again, snapshots);
}

#[tokio::test]
async fn images_are_named_by_the_client_the_archive_or_the_day() {
    let fixture = fixture();
    let named = Destination { name: "mine".into(), ..Destination::default() };
    assert_eq!(
        fixture.import(good().pack(), named).await.unwrap(),
        ["docker.io/library/mine:latest"]
    );
    let mut tagged = Layout::default();
    let target = tagged.image(&layers(), "amd64", Digest::of);
    tagged.named(target.clone(), "v9");
    let names = fixture.import(tagged.pack(), Destination::default()).await.unwrap();
    assert!(names[0].starts_with("import-2") && names[0].ends_with(":v9"), "{names:?}");
    let prefix = Prefix { name: "example.com/x".into(), is_prefix: true };
    let prefixed = Destination { prefixes: vec![prefix], ..Destination::default() };
    assert_eq!(fixture.import(tagged.pack(), prefixed).await.unwrap(), ["example.com/x:v9"]);
    tagged.manifests = vec![target];
    let names = fixture.import(tagged.pack(), Destination::default()).await.unwrap();
    assert!(names[0].contains("@sha256:"), "{names:?}");
}

#[tokio::test]
async fn docker_s_form_is_imported_through_its_links() {
    let fixture = fixture();
    let layers = layers();
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "os": "linux", "architecture": Platform::host().architecture,
        "rootfs": {"type": "layers", "diff_ids": ids}
    });
    let config = serde_json::to_vec(&config).unwrap();
    let saved = json!([{
        "Config": "c.json", "RepoTags": ["busy:v2", "localhost:5000/x:y"],
        "Layers": ["one/layer.tar", "two/layer.tar"]
    }]);
    let saved = serde_json::to_vec(&saved).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive.append_link(&mut link, "two/layer.tar", "../second.tar").unwrap();
    let links = archive.into_inner().unwrap();
    let files = tar(&[
        ("one/layer.tar", &layers[0]),
        ("one/VERSION", b"1.0"),
        ("second.tar", &layers[1]),
        ("c.json", &config),
        ("manifest.json", &saved),
    ]);
    // Without the end marker of the first.
    let archive = [&links[..512], &files[..]].concat();
    let names = fixture.import(archive, unpacking()).await.unwrap();
    assert_eq!(names, ["docker.io/library/busy:v2", "localhost:5000/x:y"]);
    let snapshots = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(snapshots.len(), 2);
}

#[tokio::test]
async fn of_an_index_the_host_s_image_is_unpacked_and_others_may_be_absent() {
    let fixture = fixture();
    let host = Platform::host().architecture;
    let mut layout = Layout::default();
    let mut ours = layout.image(&layers(), &host, Digest::of);
    ours["platform"] = json!({"os": "linux", "architecture": host});
    let mut elsewhere = Layout::default();
    let mut theirs = elsewhere.image(&layers()[..1], "other", Digest::of);
    theirs["platform"] = json!({"os": "linux", "architecture": "other"});
    let index = json!({"schemaVersion": 2, "manifests": [theirs, ours]});
    let index = layout.json("application/vnd.oci.image.index.v1+json", &index);
    layout.named(index, "multi:1");
    fixture.import(layout.pack(), unpacking()).await.unwrap();
    fixture.importer.collector.collect().await.unwrap();
    let snapshots = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(snapshots.len(), 2);

    let mut foreign = Layout::default();
    let target = foreign.image(&layers(), "other", Digest::of);
    foreign.named(target, "foreign:1");
    let error = fixture.import(foreign.pack(), unpacking()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("linux/other"), "{error}");
}

#[tokio::test]
async fn a_truncated_archive_leaves_nothing() {
    let fixture = fixture();
    let whole = good().pack();
    for cut in [1, 700, whole.len() / 2, whole.len() - 1500] {
        let error = fixture.refused(whole[..cut].to_vec()).await;
        let text = shim_sdk::error::report(&error);
        assert!(text.contains("archive"), "{cut}: {text}");
    }
    let whole = gzip(&whole);
    fixture.refused(whole[..whole.len() - 9].to_vec()).await;
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_name_says_is_named_and_leaves_nothing() {
    let fixture = fixture();
    let mut layout = good();
    layout.blobs[1].1[20] ^= 1;
    let error = fixture.refused(layout.pack()).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains(&layout.blobs[1].0), "{error}");
}

#[tokio::test]
async fn a_missing_config_layer_or_manifest_is_named_and_leaves_nothing() {
    let fixture = fixture();
    for (number, what) in [(0, "config"), (1, "layer"), (3, "manifest")] {
        let mut layout = good();
        let (name, _) = layout.blobs.remove(number);
        let error = fixture.refused(layout.pack()).await;
        assert_eq!(error.kind(), Kind::NotFound);
        let hex = name.rsplit('/').next().unwrap();
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(hex), "{text}");
    }
}

#[tokio::test]
async fn a_layer_that_does_not_unpack_to_what_the_config_says_leaves_nothing() {
    let fixture = fixture();
    let mut layout = Layout::default();
    let wrong = |layer: &[u8]| Digest::of(&[layer, b"!"].concat());
    let target = layout.image(&layers(), &Platform::host().architecture, wrong);
    layout.named(target, "x:1");
    let error = fixture.refused(layout.pack()).await;
    assert!(matches!(error, TransferError::WrongDiffId { .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_reaches_outside_is_refused_and_leaves_nothing() {
    let fixture = fixture();
    for name in ["../../etc/x", "a/../../../x"] {
        let mut layout = Layout::default();
        let layers = [layers().remove(0), tar(&[(name, b"evil")])];
        let target = layout.image(&layers, &Platform::host().architecture, Digest::of);
        layout.named(target, "x:1");
        let error = fixture.refused(layout.pack()).await;
        let text = shim_sdk::error::report(&error);
        assert!(matches!(error, TransferError::Layer { .. }) && text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let fixture = fixture();
    let error = fixture.refused(tar(&[("etc/passwd", b"x")])).await;
    assert!(matches!(error, TransferError::Image(ImageError::NotAnImage)), "{error}");
    let error = fixture.refused(tar(&[("index.json", b"{")])).await;
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let error = fixture.refused(tar(&[("index.json", br#"{"manifests":[]}"#)])).await;
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let error = fixture.refused(tar(&[("../index.json", b"{}")])).await;
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let error = fixture.refused(tar(&[("blobs/sha256/xyz", b"{}")])).await;
    assert!(matches!(error, TransferError::Image(ImageError::BadName { .. })), "{error}");
    fixture.refused(b"not a tar at all".to_vec()).await;
    fixture.refused(Vec::new()).await;
}

#[tokio::test]
async fn an_index_that_leads_to_itself_and_one_too_deep_are_refused() {
    let fixture = fixture();
    let mut layout = good();
    let mut target = layout.manifests.remove(0);
    for _ in 0..5 {
        let index = json!({"schemaVersion": 2, "manifests": [target]});
        target = layout.json("application/vnd.oci.image.index.v1+json", &index);
    }
    layout.named(target, "deep:1");
    let error = fixture.refused(layout.pack()).await;
    assert_eq!(error.kind(), Kind::ResourceExhausted);
}

#[tokio::test]
async fn a_failed_import_leaves_what_was_there_before() {
    let fixture = fixture();
    fixture.import(good().pack(), unpacking()).await.unwrap();
    let mut broken = good();
    broken.blobs.pop();
    broken.blobs[1].1[20] ^= 1;
    fixture.import(broken.pack(), unpacking()).await.unwrap_err();
    let image: Image =
        fixture.importer.images.get(&fixture.namespace, "docker.io/library/busy:v1").await.unwrap();
    let (store, namespace) = (fixture.importer.content.clone(), fixture.namespace.clone());
    tokio::task::spawn_blocking(move || store.open_blob(&namespace, &image.target.digest))
        .await
        .unwrap()
        .unwrap();
    let snapshots = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(snapshots.len(), 2);
}

#[tokio::test]
async fn two_imports_of_one_image_at_once_both_succeed() {
    let fixture = fixture();
    let archive = good().pack();
    let (first, second) = tokio::join!(
        fixture.import(archive.clone(), unpacking()),
        fixture.import(archive.clone(), unpacking()),
    );
    assert_eq!(first.unwrap(), second.unwrap());
    let snapshots = fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap();
    assert_eq!(snapshots.len(), 2);
}

#[tokio::test]
async fn what_a_killed_daemon_was_importing_is_gone_after_the_next_start() {
    let fixture = fixture();
    let archive = good().pack();
    // Blocks for good at its middle, as if the daemon were killed there.
    let (_keep, stalled) = std::sync::mpsc::channel::<()>();
    struct Stalling(Cursor<Vec<u8>>, std::sync::mpsc::Receiver<()>);
    impl std::io::Read for Stalling {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(into)? {
                0 => Err(std::io::Error::other(self.1.recv().unwrap_err())),
                count => Ok(count),
            }
        }
    }
    let half = Stalling(Cursor::new(archive[..archive.len() / 2].to_vec()), stalled);
    let (importer, namespace) = (fixture.importer.clone(), fixture.namespace.clone());
    let import = tokio::spawn(async move {
        importer
            .import(&namespace, half, unpacking(), Progress::ignored(), &Budget::default())
            .await
    });
    let store = fixture.importer.content.clone();
    let namespace = fixture.namespace.clone();
    while fixture.importer.leases.list(&namespace, &[]).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    import.abort();
    let leases = fixture.importer.leases.clone();
    tokio::task::spawn_blocking(move || {
        end_orphans(&leases).unwrap();
        assert!(store.statuses(&namespace, &[]).unwrap().is_empty());
    })
    .await
    .unwrap();
    assert!(fixture.importer.leases.list(&fixture.namespace, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn news_is_told_as_it_happens() {
    let fixture = fixture();
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let progress = Progress::to(move |event| {
        teller.lock().unwrap().push(event.event);
    });
    fixture
        .importer
        .import(
            &fixture.namespace,
            Cursor::new(good().pack()),
            unpacking(),
            progress,
            &Budget::default(),
        )
        .await
        .unwrap();
    let told = told.lock().unwrap();
    let first = |name: &str| told.iter().position(|event| *event == name);
    assert!(
        first("complete") < first("unpacked") && first("unpacked") < first("saved"),
        "{told:?}"
    );
}

mod fuzz;
