//! Bad input: refused with a message that names what and why, and nothing half-made is left.

use std::fs;
use std::path::Path;

use harness::fixtures::{self, APP};
use harness::image::{Image, Layer};
use harness::{Finished, Root, Supervisor, programs, run};
use tar::EntryType;

use crate::run::supervisor;

const BAD: &str = "example.test/bad:1";

/// Imports an archive that must be refused with these words, and checks that no trace is left.
#[track_caller]
fn refused(root: &Root, archive: &Path, words: &[&str]) -> Finished {
    let supervisor = Supervisor::new(root);
    let done = run(supervisor.cli(&["import"]).arg(archive)).ended_with(125);
    done.complains_of(words);
    assert!(!supervisor.run(&["images"]).success().out().contains(BAD));
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words)).success().out();
    assert_eq!(ctr(&["images", "ls", "-q"]), "", "no image");
    let ingests = ctr(&["content", "active"]);
    assert_eq!(ingests.lines().count(), 1, "a heading, and no ingest: {ingests}");
    let snapshots = ctr(&["snapshots", "ls"]);
    assert!(!snapshots.contains("Active"), "no snapshot half made: {snapshots}");
    done
}

fn image_with(layer: Layer) -> Image {
    Image::busybox(BAD).layer(layer)
}

#[test]
fn a_truncated_archive_is_refused() {
    let root = Root::new();
    let whole = fs::read(fixtures::images().app()).expect("built");
    for share in [10, 50, 90] {
        let part = root.path().join(format!("part-{share}.tar"));
        fs::write(&part, &whole[..whole.len() * share / 100]).expect("write");
        refused(&root, &part, &[]);
    }
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let root = Root::new();
    let path = root.path().join("text");
    fs::write(&path, "no archive at all\n".repeat(1000)).expect("write");
    refused(&root, &path, &[]);
    let empty = root.path().join("empty");
    fs::write(&empty, "").expect("write");
    refused(&root, &empty, &[]);
    let done =
        run(Supervisor::new(&root).cli(&["import"]).arg("/no/such/archive.tar")).ended_with(125);
    done.complains_of(&["/no/such/archive.tar", "no such file"]);
}

#[test]
fn a_blob_that_does_not_match_its_digest_is_refused_by_name() {
    let root = Root::new();
    let mut layout = Image::busybox(BAD).layout();
    let layer = layout.layers[0].clone();
    // Inside the last entry's padding: still a valid tar, of the same size.
    let bytes = layout.files.get_mut(&layer).expect("a layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let archive = layout.write(&root.path().join("bad.tar"));
    let digest = layer.rsplit('/').next().expect("a digest").to_owned();
    refused(&root, &archive, &["digest", &digest[..12]]);
}

#[test]
fn a_missing_config_is_refused_by_name() {
    let root = Root::new();
    let mut layout = Image::busybox(BAD).layout();
    layout.files.remove(&layout.config).expect("a config");
    let digest = layout.config.rsplit('/').next().expect("a digest").to_owned();
    let archive = layout.write(&root.path().join("bad.tar"));
    refused(&root, &archive, &[&digest[..12]]);
}

#[test]
fn a_missing_layer_is_refused_by_name() {
    let root = Root::new();
    let mut layout = Image::busybox(BAD).layout();
    let layer = layout.layers[0].clone();
    layout.files.remove(&layer).expect("a layer");
    let digest = layer.rsplit('/').next().expect("a digest").to_owned();
    let archive = layout.write(&root.path().join("bad.tar"));
    refused(&root, &archive, &[&digest[..12]]);
}

#[test]
fn an_entry_that_climbs_out_of_the_layer_is_refused_by_name() {
    let root = Root::new();
    let layer = Layer::new().entry(EntryType::Regular, "../../etc/escaped", "", 0o644, b"out");
    let archive = image_with(layer).write(&root.path().join("bad.tar"));
    refused(&root, &archive, &["../../etc/escaped"]);
    assert_nowhere(&root, "escaped");
}

#[test]
fn a_symbolic_link_does_not_lead_a_later_entry_out_of_the_layer() {
    let root = Root::new();
    let outside = root.dir("outside");
    let outside_text = outside.to_str().expect("a plain path");
    for (number, target) in [outside_text, "../../../../../../../../../../tmp"].iter().enumerate() {
        let layer = Layer::new().symlink("way", target).file("way/escaped", 0o644, b"out");
        let archive = image_with(layer).write(&root.path().join(format!("bad-{number}.tar")));
        let supervisor = Supervisor::named(&root, &format!("s{number}"));
        // Refused, or kept inside as if the layer were the root; never written outside.
        let done = run(supervisor.cli(&["import"]).arg(&archive));
        if done.code() != 0 {
            done.ended_with(125).complains_of(&["way/escaped"]);
        }
        assert_eq!(fs::read_dir(&outside).expect("made above").count(), 0);
        assert!(!Path::new("/tmp/escaped").exists());
    }
}

#[test]
fn a_hard_link_to_a_file_outside_the_layer_is_refused_by_name() {
    let root = Root::new();
    let secret = root.path().join("secret");
    fs::write(&secret, "host").expect("write");
    let target = format!("../../../../../../../../../..{}", secret.display());
    let layer = Layer::new().hard_link("stolen", &target);
    let archive = image_with(layer).write(&root.path().join("bad.tar"));
    refused(&root, &archive, &["stolen"]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&secret).expect("still there").nlink(), 1);
}

/// No file of this name lies anywhere the unpacking could have reached.
fn assert_nowhere(root: &Root, name: &str) {
    for directory in [Path::new("/etc"), Path::new("/tmp"), Path::new("/"), root.path()] {
        assert!(!directory.join(name).exists(), "{} was written", directory.join(name).display());
    }
    let done = run(root.command(programs::system("find")).arg(root.path()).args(["-name", name]));
    assert_eq!(done.success().out(), "");
}

#[test]
fn an_unknown_runtime_is_refused_with_the_names_that_were_tried() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let words = ["run", "--rm", "--runtime", "io.containerd.nosuch.v9", APP, "/bin/true"];
    let done = supervisor.run(&words).ended_with(125);
    done.complains_of(&["io.containerd.nosuch.v9", "containerd-shim-nosuch-v9", "opt/bin"]);
    let done = supervisor.run(&["run", "--rm", "--runtime", "nonsense", APP]).ended_with(125);
    done.complains_of(&["nonsense"]);
    let done = supervisor.run(&["run", "--rm", "--runtime", "/no/such/shim", APP]).ended_with(125);
    done.complains_of(&["/no/such/shim"]);
    crate::run::nothing_is_kept(&supervisor);
}

#[test]
fn an_unknown_image_is_refused_by_name() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let done = supervisor.run(&["run", "--rm", "example.test/unknown:7"]).ended_with(125);
    done.complains_of(&["example.test/unknown:7"]);
}

#[test]
fn a_root_that_another_daemon_holds_is_refused() {
    let root = Root::new();
    let mut first = Supervisor::new(&root);
    first.serve();
    // The same root, another state directory: the lock decides, not the socket.
    let state = root.dir("other");
    let mut second = root.command(programs::ours("supervisor"));
    second.arg("--root").arg(first.root()).arg("--state").arg(&state).arg("serve");
    let done = run(&mut second).ended_with(125);
    done.complains_of(&[first.root().to_str().expect("a plain path")]);
    let _ = first.run(&["ps"]).success();
}

#[test]
fn an_id_in_use_is_refused_and_its_container_untouched() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("taken");
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sleep", "600"]).success();
    let done = supervisor.run(&["run", "--id", &id, APP, "/bin/true"]).ended_with(125);
    done.complains_of(&[&id, "in use"]);
    let _ = supervisor.run(&["exec", &id, "/bin/true"]).success();
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    crate::run::nothing_is_kept(&supervisor);
    for bad in ["../escape", "has space", "", &"x".repeat(100)] {
        let done = supervisor.run(&["run", "--id", bad, APP, "/bin/true"]);
        let _ = done.ended_with(125);
    }
    crate::run::nothing_is_kept(&supervisor);
}

#[test]
fn somebody_who_is_not_root_is_told_so() {
    let root = Root::new();
    // Where anybody may look for it, since the build directory need not be.
    let copy = root.path().join("supervisor");
    // By another process: see `install::alone`.
    let mut cp = root.command(programs::system("cp"));
    let _ = run(cp.arg(programs::ours("supervisor")).arg(&copy)).success();
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("own");
    let directory = root.dir("s");
    let setpriv = programs::system("setpriv");
    for words in [&["ps"][..], &["serve"], &["run", "--rm", APP]] {
        let mut command = root.command(&setpriv);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        command
            .arg("--root")
            .arg(directory.join("root"))
            .arg("--state")
            .arg(directory.join("state"));
        let done = run(command.args(words)).ended_with(125);
        done.complains_of(&["root"]);
    }
}

#[test]
fn a_mistyped_configuration_key_is_refused_with_the_nearest_known_one() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root).with_config("[plugins.opt]\npaht = \"/x\"\n");
    let done = supervisor.run(&["serve"]).ended_with(125);
    done.complains_of(&["paht", "path"]);
}
