//! What a transfer may cost, names that are none, and records that are not to be believed.

use std::fs;

use installer::budget::{Exhausted, Limits};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn within(limits: Limits) -> Budget {
    Budget::new(limits)
}

/// An index of 300 indexes of 3,000 links each took 46 s: each link was followed.
#[tokio::test]
async fn an_index_that_fans_out_reads_each_document_once() {
    let fixture = fixture();
    let mut layout = good();
    let image = layout.manifests.remove(0);
    let config = layout.json("application/vnd.oci.image.config.v1+json", &json!({"rootfs": {}}));
    let mut below = vec![image];
    for number in 0..60 {
        let annotations = json!({"n": number.to_string()});
        let manifest = json!({"config": config, "layers": [], "annotations": annotations});
        let mut link = layout.json(MANIFEST, &manifest);
        link["platform"] = json!({"os": "none", "architecture": "none"});
        below.push(link);
    }
    let indexes: Vec<Value> = (0..30)
        .map(|number| {
            let annotations = json!({"n": number.to_string()});
            layout.json(INDEX, &json!({"manifests": below, "annotations": annotations}))
        })
        .collect();
    let top = layout.json(INDEX, &json!({"manifests": indexes}));
    layout.named(top, "fan:1");
    // 30 indexes, 61 manifests and as many configs, of at most 20 KiB. The product is 3,700.
    let budget = within(Limits { max_document_bytes: 2 << 20, ..Limits::default() });
    fixture.import_within(layout.pack(), unpacking(), &budget).await.unwrap();
    // And what is kept for each link is charged.
    let budget = within(Limits { max_kept_bytes: 200 << 10, ..Limits::default() });
    let error = fixture.import_within(layout.pack(), unpacking(), &budget).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
}

#[tokio::test]
async fn documents_that_would_fill_the_memory_are_refused_while_they_are_parsed() {
    let fixture = fixture();
    let link = r#"{"digest":"","size":0}"#;
    let links = format!("{{\"manifests\":[{}]}}", vec![link; 20_000].join(","));
    let error = fixture.refused(tar(&[("index.json", links.as_bytes())])).await;
    assert!(error.to_string().contains("more than 10000 items"), "{error}");
    // What is quoted of a document has a bound, and no control characters.
    let long = format!("{{\"manifests\":\"\\u001b[2J{}\"}}", "x".repeat(3 << 20));
    let error = fixture.refused(tar(&[("index.json", long.as_bytes())])).await;
    let text = shim_sdk::error::report(&error);
    assert!(text.len() < 1000 && !text.contains('\x1b'), "{} bytes", text.len());
    for (field, value) in [
        ("mediaType", "x".repeat(300)),
        ("mediaType", "no\ntype".to_owned()),
        ("digest", format!("sha256:{}", "A".repeat(3 << 20))),
    ] {
        let mut layout = good();
        layout.manifests[0][field] = json!(value);
        let error = fixture.refused(layout.pack()).await;
        let text = shim_sdk::error::report(&error);
        assert_eq!(error.kind(), Kind::InvalidArgument, "{text}");
        assert!(text.len() < 1000 && !text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn an_image_whose_name_can_be_none_is_kept_by_its_digest() {
    let long = "x".repeat(3 << 20);
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        for name in ["1.0.0+build.5", "Team/App:1", "a\x1b]0;b", "a\nb", &long[..10_000]] {
            let fixture = fixture();
            let mut layout = good();
            layout.manifests[0]["annotations"] = json!({ key: name });
            let names = fixture.import(layout.pack(), unpacking()).await.unwrap();
            assert_eq!(names.len(), 1);
            assert!(names[0].starts_with("import-") && names[0].contains("@sha256:"), "{names:?}");
        }
        // More than any descriptor may have.
        let fixture = fixture();
        let mut layout = good();
        layout.manifests[0]["annotations"] = json!({ key: long });
        let error = fixture.refused(layout.pack()).await.to_string();
        assert!(error.len() < 1000, "{} bytes", error.len());
    }
}

#[tokio::test]
async fn of_an_image_and_a_chart_the_image_is_unpacked_and_both_are_kept() {
    let fixture = fixture();
    let mut layout = good();
    let config = layout.json("application/vnd.cncf.helm.config.v1+json", &json!({"name": "c"}));
    let layer = layout.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"c".to_vec());
    let chart = layout.json(MANIFEST, &json!({"config": config, "layers": [layer]}));
    layout.named(chart.clone(), "chart:1");
    // Another platform under the name of the image.
    let other = layout.image(&layers(), "other", Digest::of);
    layout.named(other, "busy:v1");
    let names = fixture.import(layout.pack(), unpacking()).await.unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
    let ours = layout.manifests[0]["digest"].as_str().unwrap();
    let images = fixture.importer.images.list(&fixture.namespace, &[]).await.unwrap();
    assert!(images.iter().any(|image| image.target.digest.as_str() == ours));
    assert_eq!(fixture.importer.snapshots.list(&fixture.namespace, &[]).await.unwrap().len(), 2);
    // Alone, it is an error, as before.
    let mut alone = Layout { blobs: layout.blobs.clone(), manifests: Vec::new() };
    alone.named(chart, "chart:1");
    self::fixture().refused(alone.pack()).await;
}

#[tokio::test]
async fn a_transfer_that_is_stopped_leaves_nothing() {
    struct Stopping(Cursor<Vec<u8>>, u64, Budget);
    impl std::io::Read for Stopping {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.0.position() >= self.1 {
                self.2.stop();
            }
            let most = into.len().min(512);
            self.0.read(&mut into[..most])
        }
    }
    let archive = good().pack();
    for at in [0, archive.len() / 3, archive.len() - 600] {
        let fixture = fixture();
        let budget = Budget::default();
        let reader = Stopping(Cursor::new(archive.clone()), at as u64, budget.clone());
        let error = fixture.refused_reader(reader, &budget).await;
        assert_eq!(error.kind(), Kind::Cancelled, "{at}: {error}");
    }
    // Between reading and unpacking.
    let fixture = fixture();
    let budget = Budget::default();
    let stopper = budget.clone();
    let progress = Progress::to(move |event| {
        if event.event == "unpacked" {
            stopper.stop();
        }
    });
    let archive = Cursor::new(archive);
    let to = unpacking();
    let outcome = fixture.importer.import(&fixture.namespace, archive, to, progress, &budget).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
    fixture.assert_empty("a stop while unpacking").await;
}

/// 1.5 kB with a sparse entry filled the disk.
#[tokio::test]
async fn a_sparse_entry_of_an_archive_is_charged_for_its_holes() {
    let size = (1u64 << 40).to_string();
    let mut records = String::new();
    for (key, value) in [
        ("GNU.sparse.size", size.as_str()),
        ("GNU.sparse.name", "a.tar"),
        ("GNU.sparse.map", "0,1"),
    ] {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
        records.push_str(&format!("{length} {key}={value}\n"));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, content) in [(b'x', records.as_bytes()), (b'0', b"x")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_path("a.tar").unwrap();
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    let fixture = fixture();
    let budget = within(Limits { free_expansion_bytes: 8 << 20, ..Limits::default() });
    let archive = Cursor::new(archive.into_inner().unwrap());
    let error = fixture.refused_reader(archive, &budget).await;
    let text = shim_sdk::error::report(&error);
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{text}");
}

#[tokio::test]
async fn a_layer_is_charged_to_the_budget_of_its_import() {
    let fixture = fixture();
    let mut layout = Layout::default();
    let zeros = vec![0; 4 << 20];
    let layers = [tar(&[("zeros", &zeros)])];
    let target = layout.image(&layers, &Platform::host().architecture, Digest::of);
    layout.named(target, "x:1");
    let limits = Limits { free_expansion_bytes: 1 << 20, max_expansion: 10, ..Limits::default() };
    let error = fixture.refused_reader(Cursor::new(layout.pack()), &within(limits)).await;
    let TransferError::Layer { cause, .. } = &error else { panic!("{error}") };
    let text = shim_sdk::error::report(cause);
    assert!(text.contains("bytes came out of"), "{text}");
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(Exhausted::Stopped.to_string().contains("client has gone"));
}

/// Whatever happened to the files of a blob, its record is not believed.
#[tokio::test]
async fn importing_again_repairs_lost_truncated_and_changed_blobs() {
    let fixture = fixture();
    let layout = good();
    fixture.import(layout.pack(), unpacking()).await.unwrap();
    let blobs = fixture.folder.path().join("content/blobs/sha256");
    let whole: Vec<(std::path::PathBuf, Vec<u8>)> = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert_eq!(whole.len(), 4);
    let damages: [fn(&std::path::Path, &[u8]); 4] = [
        |path, _| fs::remove_file(path).unwrap(),
        |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        |path, bytes| fs::write(path, [bytes, b"more"].concat()).unwrap(),
        |path, bytes| {
            let mut changed = bytes.to_vec();
            changed[bytes.len() - 1] ^= 1;
            fs::write(path, changed).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        for (path, bytes) in &whole {
            damage(path, bytes);
        }
        fixture.import(layout.pack(), unpacking()).await.unwrap();
        for (path, bytes) in &whole {
            assert!(fs::read(path).is_ok_and(|found| found == *bytes), "damage {number}");
        }
        // Another namespace shares no damaged bytes either.
        damage(&whole[0].0, &whole[0].1);
        let other = Namespace::new(format!("other{number}")).unwrap();
        let archive = Cursor::new(layout.pack());
        let budget = Budget::default();
        let importer = &fixture.importer;
        importer
            .import(&other, archive, Destination::default(), Progress::ignored(), &budget)
            .await
            .unwrap();
        assert!(fs::read(&whole[0].0).is_ok_and(|found| found == whole[0].1), "damage {number}");
    }
    let store = fixture.importer.content.clone();
    let namespace = fixture.namespace.clone();
    tokio::task::spawn_blocking(move || {
        assert!(store.statuses(&namespace, &[]).unwrap().is_empty());
    })
    .await
    .unwrap();
    assert_eq!(fs::read_dir(fixture.folder.path().join("content/ingests")).unwrap().count(), 0);
}

#[tokio::test]
async fn importing_again_brings_back_the_directory_of_a_snapshot() {
    let fixture = fixture();
    fixture.import(good().pack(), unpacking()).await.unwrap();
    let snapshots = fixture.folder.path().join("snapshots");
    let listed = || {
        let mut names: Vec<_> = fs::read_dir(&snapshots)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = listed();
    assert_eq!(before, ["1", "2"]);
    for lost in [&["1"][..], &["2"], &["1", "2"], &["1/fs"]] {
        for name in lost {
            fs::remove_dir_all(snapshots.join(name)).unwrap();
        }
        fixture.import(good().pack(), unpacking()).await.unwrap();
        assert_eq!(listed(), before, "{lost:?}");
        assert_eq!(fs::read(snapshots.join("1/fs/etc/a")).unwrap(), b"one");
        assert_eq!(fs::read(snapshots.join("2/fs/etc/b")).unwrap(), b"two");
        let gone = fs::symlink_metadata(snapshots.join("2/fs/etc/gone")).unwrap();
        use std::os::unix::fs::FileTypeExt as _;
        assert!(gone.file_type().is_char_device(), "a whiteout over the layer below");
    }
}
