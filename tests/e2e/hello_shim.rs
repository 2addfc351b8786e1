//! The shim in the README: it is the example's text, it builds, and containerd runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::fixtures::{self, APP};
use harness::{Containerd, Root, run};

const SHIM: &str = "containerd-shim-hello-v1";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|cause| panic!("read {}: {cause}", path.display()))
}

/// Builds the example with the tests' profile, whose dependencies are built already.
fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "-q", "--locked", "--offline", "-p", "examples", "--bin", SHIM]);
    let _ = run(cargo.current_dir(repository())).success();
    repository().join("target/x86_64-unknown-linux-gnu/debug").join(SHIM)
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let readme = read("README.md");
    let example = read("examples/hello_shim/main.rs");
    assert!(
        readme.contains(&format!("```rust\n{example}```\n")),
        "the README has another text than examples/hello_shim/main.rs"
    );
}

#[test]
fn stock_containerd_runs_a_container_with_the_example() {
    let root = Root::new();
    let shims = root.dir("shims");
    fs::copy(build(), shims.join(SHIM)).expect("copy the shim");
    let containerd = Containerd::start(&root, Some(&shims));
    containerd.import(&fixtures::images().app());
    let (mut ctr, _) = containerd.ctr_run("io.containerd.hello.v1", &["--rm"], APP, &["/bin/true"]);
    let done = run(&mut ctr).success();
    assert_eq!(done.out(), "hello from a shim");
}
