//! A signal to `run` while its container is being made, and `rm -f` of such a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use harness::fixtures::APP;
use harness::{Root, Supervisor, eventually, leak, programs, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{nothing_is_kept, supervisor};

/// A shim whose `start` never ends.
fn shim_that_hangs(root: &Root) -> PathBuf {
    let path = root.path().join("containerd-shim-hangs-v1");
    let marker = root.path().join("pid");
    programs::script(
        &path,
        &format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", marker.display()),
    );
    path
}

/// The runc shim, with a runc whose `create` never ends.
fn runc_that_hangs(root: &Root) -> PathBuf {
    let directory = root.dir("hanging");
    let marker = root.path().join("pid");
    let runc = programs::system("runc");
    programs::script(
        &directory.join("runc"),
        &format!(
            "#!/bin/sh\nfor word; do if [ \"$word\" = create ]; then echo $$ > {}; exec sleep 1000; \
             fi; done\nexec {} \"$@\"\n",
            marker.display(),
            runc.display()
        ),
    );
    let path = root.path().join("containerd-shim-runc-v2");
    let shim = programs::ours("containerd-shim-runc-v2");
    programs::script(
        &path,
        &format!("#!/bin/sh\nPATH={}:$PATH exec {} \"$@\"\n", directory.display(), shim.display()),
    );
    path
}

/// Runs a container with a runtime that hangs; returns once it does, with the client and what hangs.
fn hanging(supervisor: &Supervisor<'_>, root: &Root, id: &str, runtime: &Path) -> (Child, i32) {
    let runtime = runtime.to_str().expect("a plain path");
    let mut client = supervisor.cli(&["run", "--id", id, "--runtime", runtime, APP, "/bin/true"]);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = client.spawn().expect("start");
    let marker = root.path().join("pid");
    let pid = eventually(wait::SOON, "the runtime hangs", || {
        fs::read_to_string(&marker).ok()?.trim().parse().ok()
    });
    fs::remove_file(&marker).expect("it is there");
    (client, pid)
}

fn ends_when_told(runtime: impl Fn(&Root) -> PathBuf) {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let root = Root::new();
        let supervisor = supervisor(&root);
        let id = root.id("i");
        let (client, hangs) = hanging(&supervisor, &root, &id, &runtime(&root));
        let begin = Instant::now();
        kill(Pid::from_raw(client.id().cast_signed()), signal).expect("it waits");
        let done = client.wait_with_output().expect("it ends");
        assert!(begin.elapsed() < Duration::from_secs(50), "{:?}", begin.elapsed());
        assert_eq!(done.status.code(), Some(code), "{done:?}");
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(text.contains("interrupted") && text.contains("removed"), "{done:?}");
        eventually(wait::SOON, "what hung has ended", || {
            leak::state(hangs).is_none_or(|state| state == 'Z').then_some(())
        });
        assert!(!supervisor.run(&["ps", "-a"]).success().out().contains(&id));
        nothing_is_kept(&supervisor);
    }
}

#[test]
fn run_ends_when_told_while_its_shim_does_not_start() {
    ends_when_told(shim_that_hangs);
}

#[test]
fn run_ends_when_told_while_its_runtime_hangs() {
    ends_when_told(runc_that_hangs);
}

#[test]
fn a_container_that_is_being_made_for_ever_can_be_removed() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("r");
    let (client, hangs) = hanging(&supervisor, &root, &id, &runc_that_hangs(&root));
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    assert!(leak::state(hangs).is_none_or(|state| state == 'Z'), "what hung has ended");
    let done = client.wait_with_output().expect("it ends");
    assert_eq!(done.status.code(), Some(125), "{done:?}");
    nothing_is_kept(&supervisor);
}

/// The id, the record and the snapshot of another container were removed by a run that was refused.
#[test]
fn a_run_that_is_refused_leaves_the_container_of_the_same_id_alone() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("s");
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sleep", "600"]).success();
    let _ = supervisor.run(&["run", "--id", &id, APP, "/bin/true"]).ended_with(125);
    let _ = supervisor.run(&["exec", &id, "/bin/true"]).success();
    assert!(supervisor.run(&["ps"]).success().out().contains(&id));
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    nothing_is_kept(&supervisor);
}
