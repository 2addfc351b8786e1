//! `supervisor check`: it reports what is lost or damaged, and repairs what can be repaired.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use harness::fixtures::APP;
use harness::image::{Image, hex};
use harness::{Root, Supervisor, tree};
use nix::sys::signal::Signal;

use crate::run::supervisor;

const FILES: [&str; 3] = ["metadata.db", "metadata.db-wal", "metadata.db-shm"];

fn lose_database(supervisor: &Supervisor<'_>) {
    for name in FILES {
        let _ = fs::remove_file(supervisor.root().join(name));
    }
}

/// A container that runs on, on a supervisor whose daemon has left in order.
fn with_a_container<'r>(root: &'r Root) -> (Supervisor<'r>, String) {
    let mut supervisor = supervisor(root);
    let id = root.id("lives");
    let words = ["run", "--detach", "--name", &id, APP, "/bin/sleep", "1000"];
    let _ = supervisor.run(&words).success();
    supervisor.stop(Signal::SIGTERM);
    (supervisor, id)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

#[test]
fn a_lost_database_is_rebuilt_from_its_copy_with_what_came_after_it() {
    let root = Root::new();
    let (mut supervisor, id) = with_a_container(&root);
    // After the copy, and lost with the database.
    let later = root.id("later");
    let words = ["run", "--detach", "--name", &later, APP, "/bin/sleep", "1000"];
    let _ = supervisor.run(&words).success();
    supervisor.stop(Signal::SIGKILL);
    lose_database(&supervisor);

    let looked = supervisor.run(&["check"]).ended_with(1).out();
    assert!(looked.contains("missing or empty") && looked.contains("metadata.copy.db"), "{looked}");
    assert!(!supervisor.root().join("metadata.db").exists(), "a look makes none");

    let mended = supervisor.run(&["check", "--repair"]).out();
    assert!(mended.contains("rebuilt from") && mended.contains(&later), "{mended}");
    assert!(supervisor.run(&["images"]).success().out().contains(APP));
    let listed = supervisor.run(&["ps"]).success().out();
    assert!(listed.contains(&id) && listed.contains(&later), "{listed}");
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    let _ = supervisor.run(&["rm", "--force", &id, &later]).success();
    // The next daemon takes it for its own, and keeps what was recovered.
    supervisor.stop(Signal::SIGTERM);
    let kept = entries(&supervisor.root().join("snapshots"));
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    let recovered = harness::run(&mut supervisor.ctr(&["snapshots", "ls"])).success().out();
    let recovered: Vec<_> = recovered
        .split_whitespace()
        .filter(|word| word.starts_with("recovered-"))
        .map(str::to_owned)
        .collect();
    assert_eq!(recovered.len(), 1, "the later container's snapshot, of {kept:?}");
    let _ = harness::run(&mut supervisor.ctr(&["snapshots", "rm", &recovered[0]])).success();
    let _ = supervisor.run(&["check"]).success();
}

/// An image that calls itself as another is called took that one's name.
#[test]
fn a_repair_gives_no_image_the_name_that_it_gives_itself() {
    let root = Root::new();
    let (mut supervisor, id) = with_a_container(&root);
    let target = |supervisor: &Supervisor<'_>| {
        let _ = supervisor.run(&["images"]).success(); // there is a daemon then
        let listed = harness::run(&mut supervisor.ctr(&["images", "ls"])).success().out();
        let line = listed.lines().find(|line| line.starts_with(&format!("{APP} ")));
        let line = line.unwrap_or_else(|| panic!("{APP} in {listed}"));
        line.split_whitespace().find(|word| word.starts_with("sha256:")).map(str::to_owned)
    };
    let before = target(&supervisor);
    let mut layout = Image::busybox("example.test/impostor:1").layout();
    let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    let mut index = parsed(&layout.files["index.json"]);
    let link = &mut index["manifests"][0];
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    let old = link["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let old = layout.files.remove(&blob(old.expect("a digest"))).expect("its manifest");
    let mut manifest = parsed(&old);
    manifest["annotations"] = serde_json::json!({"io.containerd.image.name": APP});
    let manifest = manifest.to_string().into_bytes();
    link["digest"] = format!("sha256:{}", hex(&manifest)).into();
    link["size"] = manifest.len().into();
    layout.files.insert(blob(&hex(&manifest)), manifest);
    layout.files.insert("index.json".into(), index.to_string().into_bytes());
    // After the copy, and lost with the database.
    supervisor.import(&layout.write(&root.path().join("impostor.tar")));
    supervisor.stop(Signal::SIGKILL);
    lose_database(&supervisor);
    let mended = supervisor.run(&["check", "--repair"]).out();
    assert!(mended.contains(&format!("it calls itself {APP}")), "{mended}");
    assert_eq!(target(&supervisor), before);
    let _ = supervisor.run(&["rm", "--force", &id]).success();
}

#[test]
fn images_are_rebuilt_from_the_content_store_when_no_copy_is_left() {
    let root = Root::new();
    let (supervisor, id) = with_a_container(&root);
    lose_database(&supervisor);
    fs::remove_file(supervisor.root().join("metadata.copy.db")).expect("a copy was kept");
    let mended = supervisor.run(&["check", "--repair"]).out();
    assert!(mended.contains("names of images are lost"), "{mended}");
    let images = supervisor.run(&["images", "ls", "--quiet"]).success().out();
    let image = images.lines().find(|name| name.contains("recovered@sha256:"));
    let image = image.unwrap_or_else(|| panic!("no image was recovered: {images}"));
    let _ = supervisor.run(&["run", "--rm", image, "/bin/true"]).success();
    assert!(supervisor.run(&["ps"]).success().out().contains(&id));
    let _ = supervisor.run(&["rm", "--force", &id]).success();
    let _ = supervisor.run(&["images", "rm", image]).success();
}

#[test]
fn a_damaged_database_is_set_aside_and_rebuilt() {
    let root = Root::new();
    let (supervisor, id) = with_a_container(&root);
    let path = supervisor.root().join("metadata.db");
    let mut bytes = fs::read(&path).expect("read it");
    bytes[5000..].fill(0xaa);
    fs::write(&path, &bytes).expect("write it");
    let _ = fs::remove_file(supervisor.root().join("metadata.db-wal"));
    let mended = supervisor.run(&["check", "--repair"]).out();
    assert!(mended.contains("damaged") && mended.contains("rebuilt from"), "{mended}");
    let aside = entries(&supervisor.root().join("set-aside"));
    assert!(aside.iter().any(|path| fs::read(path).is_ok_and(|kept| kept == bytes)), "{aside:?}");
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    let _ = supervisor.run(&["rm", "--force", &id]).success();
}

#[test]
fn a_whole_database_beside_a_mark_that_cannot_be_read_is_kept() {
    let root = Root::new();
    let (supervisor, id) = with_a_container(&root);
    fs::remove_file(supervisor.root().join("metadata.copy.db")).expect("a copy was kept");
    fs::write(supervisor.root().join("metadata.mark"), "").expect("write it");
    let looked = supervisor.run(&["check"]).ended_with(1).out();
    assert!(looked.contains("metadata.mark"), "{looked}");
    let mended = supervisor.run(&["check", "--repair"]).success().out();
    assert!(mended.contains("rebuilt from"), "{mended}");
    assert!(supervisor.run(&["images"]).success().out().contains(APP));
    let _ = supervisor.run(&["rm", "--force", &id]).success();
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
}

#[test]
fn a_database_of_a_later_release_is_not_repaired() {
    let root = Root::new();
    let (mut supervisor, id) = with_a_container(&root);
    let path = supervisor.root().join("metadata.db");
    let right = fs::read(&path).expect("read it");
    let file = fs::File::options().write(true).open(&path).expect("open it");
    file.write_all_at(&99_u32.to_be_bytes(), 60).expect("write it");
    let newer = fs::read(&path).expect("read it");
    supervisor.run(&["check", "--repair"]).ended_with(125).complains_of(&["a later release"]);
    assert_eq!(fs::read(&path).expect("read it"), newer);
    supervisor.stop(Signal::SIGTERM);
    fs::write(&path, right).expect("write it");
    let _ = supervisor.run(&["rm", "--force", &id]).success();
}

#[test]
fn damaged_and_missing_snapshots_are_unpacked_again_into_place_and_lost_blobs_told() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    let _ = supervisor.run(&["check"]).success();
    let _ = supervisor.run(&["check", "--read-all"]).success();
    let snapshots = entries(&supervisor.root().join("snapshots"));
    let before = tree::read(&snapshots[0].join("fs"));
    fs::remove_dir_all(&snapshots[0]).expect("remove a snapshot");
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]);
    let looked = supervisor.run(&["check"]).ended_with(1).out();
    assert!(looked.contains("its directory is missing"), "{looked}");
    let mended = supervisor.run(&["check", "--repair"]).success().out();
    assert!(mended.contains("unpacked again"), "{mended}");
    let after = tree::read(&snapshots[0].join("fs"));
    assert_eq!(tree::differences(&after, &before), Vec::<String>::new());
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();

    // One file without its content, as a power cut leaves it.
    let busybox = snapshots
        .iter()
        .map(|path| path.join("fs/bin/busybox"))
        .find(|path| path.is_file())
        .expect("the image has a busybox");
    fs::File::options().write(true).open(&busybox).expect("open it").set_len(0).expect("empty it");
    let looked = supervisor.run(&["check"]).ended_with(1).out();
    assert!(looked.contains("busybox"), "{looked}");
    let _ = supervisor.run(&["check", "--repair"]).success();
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    let file = fs::File::options().write(true).open(&busybox).expect("open it");
    file.write_all_at(b"changed", 100).expect("change it");
    let _ = supervisor.run(&["check"]).success();
    let _ = supervisor.run(&["check", "--read-all"]).ended_with(1);
    let _ = supervisor.run(&["check", "--read-all", "--repair"]).success();
    let aside = supervisor.run(&["check", "--read-all"]).success().out();
    assert!(aside.contains("set-aside"), "what was replaced is listed: {aside}");

    let blob = entries(&supervisor.root().join("content/blobs/sha256")).remove(0);
    fs::File::options().write(true).open(&blob).expect("open it").set_len(1).expect("cut it");
    let looked = supervisor.run(&["check"]).ended_with(1).out();
    let name = blob.file_name().expect("it has one").to_string_lossy().into_owned();
    assert!(looked.contains(&name) && looked.contains("import"), "{looked}");
    supervisor.stop(Signal::SIGTERM);
}
