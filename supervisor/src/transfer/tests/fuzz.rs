//! Hostile archives, documents and names.

use ::fuzz::Target;

use super::*;
use crate::image::manifest::{self, IndexOrManifest};
use crate::image::reference;

const WORDS: &[&str] = &[
    "mediaType",
    "manifests",
    "layers",
    "config",
    "digest",
    "size",
    "rootfs",
    "diff_ids",
    "annotations",
    "platform",
    "null",
    "[",
    "{",
    "[[[[[[[[",
    "{\"a\":{\"a\":",
    "\\ud800",
    "sha256:",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "index.json",
    "manifest.json",
    "oci-layout",
    "blobs/sha256/",
    "../",
    "ustar",
    "L",
    "x",
    "2",
    "1",
];

#[test]
fn archives_are_imported_whole_or_leave_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fixture = fixture();
    Target::new("archive").words(WORDS).repair(::fuzz::tar::repair).max_bytes(64 * 1024).run(
        |archive| {
            runtime.block_on(async {
                if fixture.import(archive.to_vec(), unpacking()).await.is_ok() {
                    let images =
                        fixture.importer.images.list(&fixture.namespace, &[]).await.unwrap();
                    assert!(!images.is_empty(), "a success names an image");
                    for image in images {
                        fixture
                            .importer
                            .images
                            .delete(&fixture.namespace, &image.name, None)
                            .await
                            .unwrap();
                    }
                    fixture.importer.collector.collect().await.unwrap();
                }
                // Refused like this one: what is asserted there holds after each input.
                fixture.refused(b"not an archive".to_vec()).await;
            });
        },
    );
}

#[test]
fn documents_are_read_or_refused() {
    Target::new("document").words(WORDS).run(|bytes| {
        for media_type in [
            "",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.manifest.v1+json",
        ] {
            match manifest::parse_index_or_manifest("it", media_type, bytes) {
                Ok(IndexOrManifest::Index(index)) => {
                    for link in index.manifests.iter() {
                        let _ = (link.descriptor("it"), link.platform("it"));
                    }
                }
                Ok(IndexOrManifest::Manifest(parsed)) => {
                    let again = serde_json::to_vec(&parsed).unwrap();
                    let again: manifest::Manifest = manifest::parse("it", &again).unwrap();
                    assert_eq!(again.layers.len(), parsed.layers.len());
                    assert_eq!(again.config.digest, parsed.config.digest);
                }
                Err(_) => {}
            }
        }
        if let Ok(config) = manifest::parse::<manifest::Config>("it", bytes) {
            let _ =
                (config.platform("it").map(|one| one.to_string()), config.rootfs.diff_ids("it"));
        }
        let _ = manifest::parse::<Vec<manifest::DockerImage>>("manifest.json", bytes);
    });
}

#[test]
fn an_accepted_reference_is_plain_and_already_complete() {
    Target::new("reference")
        .words(&["docker.io/", "library/", ":latest", "@sha256:", "[::1]:5000/", "localhost", "__"])
        .run(|bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let Ok(name) = reference::normalize(text) else { return };
            assert_eq!(reference::normalize(&name).expect("a complete name is a name"), name);
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        });
}
