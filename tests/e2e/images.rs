//! Images made by other tools: every byte is imported, every attribute unpacked.

use std::path::{Path, PathBuf};

use harness::fixtures::{self, APP};
use harness::image::{Image, Layer};
use harness::{Root, Supervisor, run, tree};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tar::EntryType;

/// A snapshot of an unpacked image, mounted to look at.
struct View {
    top: PathBuf,
}

impl View {
    /// Mounts the image's topmost snapshot, read-only, through containerd's own client.
    fn of(supervisor: &Supervisor<'_>, root: &Root, name: &str) -> Self {
        let ctr = |words: &[&str]| run(&mut supervisor.ctr(words)).success().out();
        // The chain id is the name of the committed snapshot that has no child.
        let listed = ctr(&["snapshots", "ls"]);
        let rows: Vec<Vec<&str>> =
            listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
        let parents: Vec<&str> =
            rows.iter().filter(|row| row.len() == 3).map(|row| row[1]).collect();
        let tops: Vec<&&str> = names.iter().filter(|name| !parents.contains(name)).collect();
        assert_eq!(tops.len(), 1, "one image is unpacked: {listed}");
        let top = root.dir(name);
        let key = format!("view-{name}");
        let _ = ctr(&["snapshots", "view", &key, tops[0]]);
        let command = ctr(&["snapshots", "mounts", top.to_str().expect("a plain path"), &key]);
        let words: Vec<&str> = command.split_whitespace().collect();
        // mount -t KIND SOURCE TARGET -o OPTIONS
        let after = |flag: &str| {
            words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied()
        };
        let kind = after("-t").expect("a type");
        let options: Vec<&str> = after("-o").unwrap_or_default().split(',').collect();
        let (flags, data) = split(&options);
        let source = words.get(3).copied().expect("a source");
        mount(Some(source), &top, Some(kind), flags | MsFlags::MS_RDONLY, Some(data.as_str()))
            .unwrap_or_else(|why| panic!("{command}: {why}"));
        Self { top }
    }
}

fn split(options: &[&str]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match *option {
            "ro" | "rw" => {}
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

impl Drop for View {
    fn drop(&mut self) {
        umount2(&self.top, MntFlags::MNT_DETACH).expect("it is mounted");
    }
}

fn assert_equal_to_umoci(archive: &Path) {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    supervisor.import(archive);
    let view = View::of(&supervisor, &root, "ours");
    let differences =
        tree::differences(&tree::read(&view.top), &tree::read(&fixtures::images().unpacked()));
    assert!(differences.is_empty(), "differs from umoci:\n{}", differences.join("\n"));
}

#[test]
fn an_oci_archive_unpacks_to_what_umoci_unpacks() {
    assert_equal_to_umoci(&fixtures::images().app());
}

#[test]
fn a_docker_archive_unpacks_to_what_umoci_unpacks() {
    assert_equal_to_umoci(&fixtures::images().app_docker());
}

#[test]
fn the_fixture_has_one_of_everything_it_is_to_test() {
    let tree = tree::read(&fixtures::images().unpacked());
    let entry = |name: &str| tree.get(Path::new(name)).unwrap_or_else(|| panic!("no {name}"));
    assert!(!tree.contains_key(Path::new("data/a")), "a whiteout hides it");
    assert!(!tree.contains_key(Path::new("opaque/old")), "an opaque directory hides it");
    assert!(!tree.contains_key(Path::new("gone/deep")), "a directory is gone");
    assert_eq!(entry("gone").mode, 0o700, "and came back as another");
    assert_eq!(entry("becomes-dir").kind, "dir");
    assert_eq!(entry("kinds/null").kind, "char");
    assert_eq!(entry("kinds/loop").kind, "block");
    assert_eq!(entry("kinds/pipe").kind, "fifo");
    assert_eq!(entry("kinds/setuid").mode, 0o4755);
    assert_eq!(entry("kinds/owned").owner, (54321, 65533));
    assert!(entry("kinds/owned").xattrs.contains_key("user.comment"));
    assert!(entry("kinds/capable").xattrs.contains_key("security.capability"));
    assert_eq!(entry("kinds/setuid").mtime, 1_234_567_890);
    assert_eq!(entry("links/two").same_as.as_deref(), Some(Path::new("kinds/three")));
    assert_eq!(entry("data/b-again").same_as.as_deref(), Some(Path::new("data/b")));
}

#[test]
fn archives_in_both_forms_run_and_name_their_image() {
    for archive in [fixtures::images().app(), fixtures::images().app_docker()] {
        let root = Root::new();
        let supervisor = Supervisor::new(&root);
        let done = run(supervisor.cli(&["import"]).arg(&archive)).success();
        assert!(done.out().contains(APP), "{done:?}");
        assert!(supervisor.run(&["images"]).success().out().contains(APP));
        let done = supervisor.run(&["run", "--rm", APP, "/bin/sh", "-c", "cat /returns; exit 3"]);
        assert_eq!(done.ended_with(3).out(), "third");
    }
}

#[test]
fn importing_twice_changes_nothing() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    supervisor.import(&fixtures::images().app());
    let before = run(&mut supervisor.ctr(&["snapshots", "ls"])).success().out();
    supervisor.import(&fixtures::images().app());
    supervisor.import(&fixtures::images().app_docker());
    assert_eq!(run(&mut supervisor.ctr(&["snapshots", "ls"])).success().out(), before);
}

#[test]
fn layers_that_replace_one_kind_of_entry_by_another_unpack_as_the_specification_says() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let base = Layer::new()
        .dir("dir/", 0o755)
        .file("dir/inside", 0o644, b"below")
        .file("file", 0o644, b"below")
        .symlink("link", "dir")
        .dir("opaque/", 0o755)
        .file("opaque/old", 0o644, b"below")
        .dir("kept/", 0o755)
        .file("kept/old", 0o644, b"below");
    let upper = Layer::new()
        .file("dir", 0o600, b"now a file")
        .dir("file/", 0o711)
        .file("file/inside", 0o644, b"new")
        .dir("link/", 0o755)
        .file("link/inside", 0o644, b"new")
        // The marker hides what lies below, wherever in the layer it stands.
        .dir("opaque/", 0o700)
        .file("opaque/new", 0o644, b"new")
        .entry(EntryType::Regular, "opaque/.wh..wh..opq", "", 0, b"")
        .entry(EntryType::Regular, "kept/.wh.old", "", 0, b"")
        .file("kept/new", 0o644, b"new")
        // A parent that no entry makes.
        .file("made/on/the/way", 0o644, b"deep")
        .hard_link("made/hard", "made/on/the/way");
    let name = "example.test/replaced:1";
    let archive = Image::busybox(name).layer(base).layer(upper).write(&root.path().join("i.tar"));
    supervisor.import(&archive);
    let view = View::of(&supervisor, &root, "view");
    let tree = tree::read(&view.top);
    let kind = |name: &str| tree.get(Path::new(name)).map(|entry| entry.kind);
    for (name, expected) in [
        ("dir", Some("file")),
        ("dir/inside", None),
        ("file", Some("dir")),
        ("file/inside", Some("file")),
        ("link", Some("dir")),
        ("opaque/old", None),
        ("opaque/new", Some("file")),
        ("opaque/.wh..wh..opq", None),
        ("kept/old", None),
        ("kept/.wh.old", None),
        ("kept/new", Some("file")),
        ("made/on/the/way", Some("file")),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
    assert_eq!(tree[Path::new("opaque")].mode, 0o700);
    assert_eq!(tree[Path::new("made/on/the/way")].same_as.as_deref(), Some(Path::new("made/hard")));
}
