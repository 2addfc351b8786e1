//! What a killed command left half made is removed, by itself or when the same id is used again;
//! what was started, and what other clients made, stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use harness::fixtures::APP;
use harness::{Root, Supervisor, eventually, programs, run, wait};

use crate::run::{nothing_is_kept, supervisor};

/// The daemon looks every half minute.
const A_WHILE: Duration = Duration::from_secs(75);

/// A shim that says `go` before it passes an invocation on, and then waits: the command that waits
/// for it can be killed in the middle.
fn slow_shim(root: &Root) -> (PathBuf, PathBuf) {
    let (path, go) = (root.path().join("slow-shim"), root.path().join("go"));
    let shim = programs::ours("containerd-shim-youki-v1");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *start) touch {go}; sleep 3;; esac\nexec {shim} \"$@\"\n",
        go = go.display(),
        shim = shim.display(),
    );
    fs::write(&path, script).expect("write it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    (path, go)
}

/// Kills a `run` whose record and snapshot are there, and whose task is being created.
fn killed_run(root: &Root, supervisor: &Supervisor<'_>, id: &str) {
    let (shim, go) = slow_shim(root);
    let shim = shim.display().to_string();
    let words = ["run", "--detach", "--name", id, "--runtime", &shim, APP, "/bin/sleep", "1000"];
    let mut client = supervisor.cli(&words);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
    eventually(wait::SOON, "the task is being created", || go.exists().then_some(()));
    client.kill().expect("kill it");
    client.wait().expect("reap it");
    fs::remove_file(go).expect("remove the sign");
    let listed = run(&mut supervisor.ctr(&["containers", "ls", "-q"])).success().out();
    assert_eq!(listed.trim(), id, "the record is left");
}

#[test]
fn a_name_of_a_run_that_was_killed_before_its_start_can_be_used_again() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("again");
    killed_run(&root, &supervisor, &id);
    // Its creation, which goes on without it, is ended for the one that asks again.
    let _ = supervisor.run(&["run", "--rm", "--name", &id, APP, "/bin/true"]).success();
    nothing_is_kept(&supervisor);
}

#[test]
fn a_snapshot_of_a_run_that_was_killed_before_its_record_gives_its_name_free() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words)).success();
    // Its maker is of an earlier boot; another client's snapshot has none.
    let (left, foreign) = (root.id("left"), root.id("foreign"));
    for id in [&left, &foreign] {
        let _ = ctr(&["snapshots", "prepare", id]);
    }
    let _ = ctr(&["snapshots", "label", &left, "supervisor/maker=earlier/1/2/3"]);
    let run = |id: &str| supervisor.run(&["run", "--rm", "--name", id, APP, "/bin/true"]);
    let _ = run(&left).success();
    run(&foreign).ended_with(125).complains_of(&["already in use"]);
    let _ = ctr(&["snapshots", "rm", &foreign]);
    nothing_is_kept(&supervisor);
}

#[test]
fn what_a_killed_run_left_goes_by_itself_and_what_was_started_or_is_foreign_stays() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    supervisor.serve();
    let (left, started, over) = (root.id("left"), root.id("started"), root.id("over"));
    let foreign = root.id("foreign");
    // Started, and its command gone.
    let words = ["run", "--detach", "--name", &started, APP, "/bin/sleep", "1000"];
    let _ = supervisor.run(&words).success();
    // Over, its task deleted.
    let _ = supervisor.run(&["run", "--name", &over, APP, "/bin/true"]).success();
    // Never started, by another client.
    let mut create = supervisor.ctr(&["containers", "create", APP, &foreign]);
    let _ = run(&mut create).success();
    let all = || {
        let out = run(&mut supervisor.ctr(&["containers", "ls", "-q"])).success().out();
        let mut ids: Vec<String> = out.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let mut kept = vec![started.clone(), over.clone(), foreign.clone()];
    kept.sort();
    assert_eq!(all(), kept);
    {
        let root = &root;
        let (shim, go) = slow_shim(root);
        let shim = shim.display().to_string();
        let words = ["run", "--name", &left, "--runtime", &shim, APP, "/bin/sleep", "1000"];
        let mut client = supervisor.cli(&words);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
        eventually(wait::SOON, "the task is being created", || go.exists().then_some(()));
        client.kill().expect("kill it");
        client.wait().expect("reap it");
    }
    assert!(all().contains(&left));
    eventually(A_WHILE, "what was left half made is gone", || (all() == kept).then_some(()));
    let snapshots = run(&mut supervisor.ctr(&["snapshots", "ls"])).success().out();
    assert!(!snapshots.contains(&left), "{snapshots}");
    // Two more looks change nothing.
    let tasks = run(&mut supervisor.ctr(&["tasks", "ls", "-q"])).success().out();
    assert_eq!(tasks.trim(), started);
    let _ = supervisor.run(&["rm", "--force", &started, &over]).success();
    let _ = run(&mut supervisor.ctr(&["containers", "rm", &foreign])).success();
}

#[test]
fn a_lease_that_has_expired_ends_without_another_cause() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    supervisor.serve();
    // The start itself has something collected.
    wait::pass(Duration::from_secs(3));
    let lease = |words: &[&str]| run(&mut supervisor.ctr(&[&["leases"], words].concat())).success();
    let _ = lease(&["create", "--id", "short", "--expires", "1s"]);
    let _ = lease(&["create", "--id", "none", "--expires", "0s"]);
    eventually(A_WHILE, "the lease has ended", || {
        (!lease(&["ls", "-q"]).out().contains("short")).then_some(())
    });
    assert!(lease(&["ls", "-q"]).out().contains("none"), "one without an end stays");
}
