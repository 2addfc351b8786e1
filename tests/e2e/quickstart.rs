//! The README's first command.

use std::path::Path;

use harness::{Finished, Root, fixtures, programs, run};

fn quickstart(root: &Root, argument: Option<&Path>) -> Finished {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.sh");
    let cargo = Path::new(env!("CARGO")).parent().expect("cargo lies in a directory");
    let mut command = root.command(script);
    command.env("PATH", format!("{}:{}", cargo.display(), programs::SEARCH_PATH));
    run(command.args(argument))
}

#[test]
fn the_quickstart_shows_each_step_with_its_time_and_leaves_nothing() {
    let root = Root::new();
    let done = quickstart(&root, None).success();
    let said = done.out();
    for part in [
        "static release build",
        "pack the shim and the application",
        "supervisor install",
        "supervisor run --rm --runtime io.containerd.youki.v1",
        "Hello from a container: uid=0(root)",
        "no process, mount or file remains",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {done:?}");
    }
    assert!(said.lines().filter(|line| line.trim().starts_with("took ")).count() >= 6, "{done:?}");
    assert!(said.ends_with("exit status 0"), "{done:?}");
    // The scratch directory that it names is gone.
    let scratch = said
        .split(['/', ' ', '\n'])
        .find(|word| word.starts_with("quickstart."))
        .expect("it names its scratch directory");
    assert!(!Path::new("/tmp").join(scratch).exists());
}

#[test]
fn the_quickstart_runs_the_archive_it_is_given() {
    let root = Root::new();
    for archive in [fixtures::images().configured(), fixtures::images().app_docker()] {
        let done = quickstart(&root, Some(&archive)).success();
        assert!(done.out().ends_with("exit status 0"), "{done:?}");
    }
}
