//! Binaries from images, in the managed directory.

use std::fs;
use std::path::{Path, PathBuf};

use harness::fixtures::{self, APP};
use harness::image::{Image, Layer};
use harness::{Root, Supervisor, programs, run};
use tar::EntryType;

const SHIM: &str = "example.test/shim:1";

/// A supervisor whose binary stands alone, so that shims come only from where they are installed.
fn alone(root: &Root) -> Supervisor<'_> {
    let binary = root.dir("alone").join("supervisor");
    if !binary.exists() {
        // Not copied by this process: what another test starts meanwhile would hold the copy open
        // for writing until it executes, and a file that is open for writing cannot be executed.
        let mut copy = root.command(programs::system("cp"));
        let _ = run(copy.arg(programs::ours("supervisor")).arg(&binary)).success();
    }
    Supervisor::new(root).with_binary(binary)
}

fn shim_image(root: &Root) -> PathBuf {
    let shim = programs::ours("containerd-shim-youki-v1");
    Image::binaries(SHIM, &[("containerd-shim-youki-v1", &shim)])
        .write(&root.path().join("shim.tar"))
}

fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_shim_installed_from_an_image_is_found_by_its_runtime_name() {
    let root = Root::new();
    let supervisor = alone(&root);
    supervisor.import(&fixtures::images().app());
    let words =
        ["run", "--rm", "--runtime", "io.containerd.youki.v1", APP, "/bin/sh", "-c", "exit 12"];
    let before = supervisor.run(&words).ended_with(125);
    before.complains_of(&["containerd-shim-youki-v1"]);
    let _ = run(supervisor.cli(&["install"]).arg(shim_image(&root))).success();
    let installed = supervisor.opt().join("bin/containerd-shim-youki-v1");
    assert_eq!(
        fs::read(&installed).expect("installed"),
        fs::read(programs::ours("containerd-shim-youki-v1")).expect("built")
    );
    let _ = supervisor.run(&words).ended_with(12);
    let listed = supervisor.run(&["install", "ls"]).success();
    assert!(listed.out().contains(SHIM), "{listed:?}");
    let _ = supervisor.run(&["uninstall", SHIM]).success();
    assert_eq!(listing(&supervisor.opt().join("bin")), [""; 0]);
    supervisor.run(&words).ended_with(125).complains_of(&["containerd-shim-youki-v1"]);
    supervisor.run(&["uninstall", SHIM]).ended_with(125).complains_of(&[SHIM, "not"]);
}

#[test]
fn a_rollback_returns_to_the_set_before() {
    let root = Root::new();
    let supervisor = alone(&root);
    let tool = |version: &str| {
        let script = format!("#!/bin/sh\necho {version}\n");
        let layer = Layer::new().dir("bin/", 0o755).file("bin/tool", 0o755, script.as_bytes());
        let name = format!("example.test/tool:{version}");
        let path = root.path().join(format!("tool-{version}.tar"));
        (name.clone(), Image::new(&name).layer(layer).write(&path))
    };
    let says = || run(&mut root.command(supervisor.opt().join("bin/tool"))).success().out();
    let (_, one) = tool("one");
    let (_, two) = tool("two");
    let _ = run(supervisor.cli(&["install"]).arg(&one)).success();
    assert_eq!(says(), "one");
    // Another image's file is not replaced unasked.
    let done = run(supervisor.cli(&["install"]).arg(&two)).ended_with(125);
    done.complains_of(&["bin/tool", "example.test/tool:one"]);
    assert_eq!(says(), "one");
    let _ = run(supervisor.cli(&["install", "--replace"]).arg(&two)).success();
    assert_eq!(says(), "two");
    let _ = supervisor.run(&["rollback"]).success();
    assert_eq!(says(), "one");
    assert_eq!(listing(&supervisor.opt().join("bin")), ["tool"]);
}

#[test]
fn an_image_that_would_write_outside_the_managed_directory_is_refused_whole() {
    let root = Root::new();
    let supervisor = alone(&root);
    let name = "example.test/climbs:1";
    let layer = Layer::new().dir("bin/", 0o755).file("bin/good", 0o755, b"#!/bin/sh\n").entry(
        EntryType::Regular,
        "bin/../../../escaped",
        "",
        0o755,
        b"out",
    );
    let archive = Image::new(name).layer(layer).write(&root.path().join("climbs.tar"));
    run(supervisor.cli(&["install"]).arg(archive)).ended_with(125).complains_of(&["escaped"]);
    assert_eq!(listing(&supervisor.opt().join("bin")), [""; 0], "not even the good part");
}

#[test]
fn stock_ctr_installs_into_our_managed_directory() {
    let root = Root::new();
    let mut supervisor = alone(&root);
    supervisor.serve();
    let archive = shim_image(&root);
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words));
    let _ = ctr(&["images", "import", archive.to_str().expect("a plain path")]).success();
    let _ = ctr(&["install", SHIM]).success();
    assert!(supervisor.opt().join("bin/containerd-shim-youki-v1").exists());
    supervisor.import(&fixtures::images().app());
    let words =
        ["run", "--rm", "--runtime", "io.containerd.youki.v1", APP, "/bin/sh", "-c", "exit 12"];
    let _ = supervisor.run(&words).ended_with(12);
}
