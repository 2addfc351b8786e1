//! A start destroys nothing that it does not understand: a database that is lost, empty, older,
//! newer, damaged or another root's, and odd entries in the stores.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use harness::fixtures::APP;
use harness::{Root, Supervisor, eventually, run, wait};
use nix::sys::signal::Signal;

use crate::run::supervisor;

/// The files that make up a database.
const FILES: [&str; 3] = ["metadata.db", "metadata.db-wal", "metadata.db-shm"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make the directory");
    for name in FILES {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).expect("copy the database");
        }
    }
}

/// The names of all blobs and snapshots, and of the files in the snapshots.
fn stored(supervisor: &Supervisor<'_>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for store in ["content/blobs/sha256", "snapshots"] {
        for entry in fs::read_dir(supervisor.root().join(store)).expect("the store is there") {
            let path = entry.expect("it can be listed").path();
            let files = fs::read_dir(path.join("fs")).map_or(0, Iterator::count);
            found.insert(format!("{} {files}", path.display()));
        }
    }
    found
}

/// Breaks the database of a root with a running container as `break_it` does, and looks at what a
/// daemon makes of it.
fn in_doubt(reason: &str, prepare: fn(&Supervisor<'_>, &Root), break_it: fn(&Path, &Root)) {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    prepare(&supervisor, &root);
    supervisor.stop(Signal::SIGTERM);
    let early = root.path().join("early");
    copy(&supervisor.root(), &early);
    let id = root.id("lives");
    let words = ["run", "--detach", "--name", &id, APP, "/bin/sleep", "1000"];
    let _ = supervisor.run(&words).success();
    supervisor.stop(Signal::SIGTERM);
    let (before, good) = (stored(&supervisor), root.path().join("good"));
    copy(&supervisor.root(), &good);
    break_it(&supervisor.root(), &root);
    let broken = fs::read(supervisor.root().join("metadata.db")).ok();

    // Found, told, and left alone.
    let listed = supervisor.run(&["ps"]).success().out();
    assert!(listed.contains(&id) && listed.contains("running"), "{listed}");
    for words in [&["images"][..], &["run", "--rm", APP, "/bin/true"]] {
        let refused = supervisor.run(words);
        assert_ne!(refused.code(), 0);
        refused.complains_of(&["metadata.db", reason, "to go on"]);
    }
    assert!(supervisor.log().contains(reason), "{}", supervisor.log());
    supervisor.stop(Signal::SIGKILL);
    let _ = supervisor.run(&["ps"]).success();
    assert_eq!(stored(&supervisor), before);
    assert_eq!(fs::read(supervisor.root().join("metadata.db")).ok(), broken);

    // What runs stays manageable.
    let _ = supervisor.run(&["kill", "--signal", "KILL", &id]).success();
    let gone = || {
        let listed = supervisor.run(&["ps"]).success().out();
        (!listed.contains(&id)).then_some(())
    };
    eventually(wait::SOON, "the container has exited", gone);
    let _ = supervisor.run(&["rm", "--force", &id]).success();
    assert_eq!(stored(&supervisor), before);

    // With the right database all is as it was.
    supervisor.stop(Signal::SIGTERM);
    copy(&good, &supervisor.root());
    assert!(supervisor.run(&["images"]).success().out().contains(APP));
    let _ = supervisor.run(&["rm", "--force", &id]).success();
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
}

fn remove(root: &Path) {
    for name in FILES {
        let _ = fs::remove_file(root.join(name));
    }
}

#[test]
fn a_lost_database_sweeps_nothing() {
    in_doubt("missing or empty", |_, _| {}, |root, _| remove(root));
}

#[test]
fn an_empty_database_sweeps_nothing() {
    in_doubt(
        "missing or empty",
        |_, _| {},
        |root, _| {
            remove(root);
            fs::write(root.join("metadata.db"), "").expect("write it");
        },
    );
}

#[test]
fn a_database_of_a_later_release_is_left_alone() {
    in_doubt(
        "a later release",
        |_, _| {},
        |root, _| {
            let file = fs::File::options().write(true).open(root.join("metadata.db"));
            file.expect("open it").write_all_at(&99_u32.to_be_bytes(), 60).expect("write it");
        },
    );
}

#[test]
fn a_damaged_database_sweeps_nothing() {
    in_doubt(
        "damaged",
        |_, _| {},
        |root, _| {
            let _ = fs::remove_file(root.join("metadata.db-wal"));
            let path = root.join("metadata.db");
            let mut bytes = fs::read(&path).expect("read it");
            bytes[5000..].fill(0xaa);
            fs::write(path, bytes).expect("write it");
        },
    );
}

#[test]
fn an_older_copy_of_the_database_sweeps_nothing() {
    in_doubt(
        "older",
        |_, _| {},
        |root, test| {
            copy(&test.path().join("early"), root);
        },
    );
}

#[test]
fn the_database_of_another_root_sweeps_nothing() {
    in_doubt(
        "belongs to root",
        |_, root| {
            let mut other = Supervisor::named(root, "other");
            let _ = other.run(&["images"]).success();
            other.stop(Signal::SIGTERM);
        },
        |root, test| copy(&test.path().join("other/root"), root),
    );
}

#[test]
fn odd_entries_in_the_stores_are_set_aside_and_keep_no_daemon_from_starting() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    supervisor.stop(Signal::SIGTERM);
    let at = supervisor.root();
    let odd = [
        "snapshots/precious",
        "snapshots/007",
        "content/blobs/sha256/precious",
        "content/ingests/precious",
        &format!("content/blobs/sha256/{}", "a".repeat(64)),
    ];
    for path in odd {
        fs::create_dir_all(at.join(path)).expect("make it");
        fs::write(at.join(path).join("file"), "precious").expect("write it");
    }
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    let aside = fs::read_dir(at.join("set-aside")).expect("they are set aside");
    let kept = aside.flatten().filter(|entry| {
        fs::read_to_string(entry.path().join("file")).is_ok_and(|text| text == "precious")
    });
    assert_eq!(kept.count(), odd.len());
    for path in odd {
        assert!(!at.join(path).exists(), "{path}");
        assert!(supervisor.log().contains(path), "{path} is logged");
    }
}

#[test]
fn a_bundle_whose_shim_is_not_known_is_left_alone_with_its_container() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    let id = root.id("lives");
    let words = ["run", "--detach", "--name", &id, APP, "/bin/sleep", "1000"];
    let _ = supervisor.run(&words).success();
    supervisor.stop(Signal::SIGKILL);
    let bundle = supervisor.state().join("tasks").join(root.namespace()).join(&id);
    fs::write(bundle.join("bootstrap.json"), "{ not what it was").expect("write it");
    // The shim listens where ours do, so it is found all the same.
    let listed = supervisor.run(&["ps"]).success().out();
    assert!(listed.contains(&id) && listed.contains("running"), "{listed}");
    let _ = supervisor.run(&["rm", "--force", &id]).success();
    assert_eq!(run(&mut supervisor.ctr(&["tasks", "ls", "-q"])).success().out(), "");
}
