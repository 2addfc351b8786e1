//! Control groups that are not the container's alone.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use harness::leak;
use harness::wait;
use serde_json::json;

use crate::attack::{Attack, on_both};
use crate::fixture::{Fixture, SOON};

pub(crate) fn attacks() -> Vec<Attack> {
    [
        on_both(
            "A.6",
            "process-in-the-group",
            "a process that was in the group before the container outlives it",
            process,
        ),
        on_both(
            "A.6",
            "two-in-one-group",
            "of two containers in one group the second outlives the first",
            two,
        ),
    ]
    .concat()
}

/// Every tree of control groups that is mounted.
fn trees() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    table
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .filter(|path| path.starts_with("/sys/fs/cgroup"))
        .collect()
}

fn join(path: &str, child: &Child) {
    for tree in trees() {
        let group = tree.join(path);
        // A tree that takes no groups is none to be afraid for.
        if fs::create_dir_all(&group).is_ok() {
            let _ = fs::write(group.join("cgroup.procs"), child.id().to_string());
        }
    }
}

fn process(fixture: &Fixture) {
    let path = format!("{}/own", fixture.root().namespace());
    let mut bystander = Command::new("sleep").arg("1000").spawn().expect("start a process");
    join(&path, &bystander);
    let bundle = fixture.daemon.shaped("exit 3", |spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("/{path}"));
    });
    // Refused or run: both are right.
    let _ = fixture.outcome(&bundle);
    let ended = wait::until(wait::QUIET, || bystander.try_wait().expect("a child of this process"));
    let _ = bystander.kill();
    let _ = bystander.wait();
    for tree in trees() {
        let _ = fs::remove_dir(tree.join(&path));
    }
    assert!(ended.is_none(), "the process was killed with the container: {ended:?}");
}

fn two(fixture: &Fixture) {
    let path = format!("/{}/both", fixture.root().namespace());
    let bundle =
        || fixture.daemon.shaped("sleep 1000", |spec| spec["linux"]["cgroupsPath"] = json!(path));
    let (first, second) = (bundle(), bundle());
    let (other, survivor) = fixture.daemon.run(&second);
    let pid = survivor.state("").expect("State").pid;
    let shim = fixture.daemon.start(&first);
    let task = shim.task(&first.id);
    let created = task.create(&first.create_request()).and_then(|_| task.start(""));
    if created.is_ok() {
        let _ = task.kill("", 9);
        let _ = task.within(SOON).wait("");
    }
    let _ = task.delete("");
    let _ = task.shutdown();
    shim.gone(SOON);
    let alive = wait::holds(wait::QUIET, || {
        !matches!(leak::state(pid.cast_signed()), None | Some('Z' | 'X'))
    });
    fixture.daemon.end(&other, &survivor);
    assert!(alive, "deleting the one container killed the other");
}
