//! Create: what it makes, what it undoes, and what it reads.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use harness::leak;
use harness::shim::ttrpc::{CallError, Code};
use harness::wait::{self, QUIET};
use protos::ttrpc::api::Status;
use serde_json::json;

use super::task::contained;
use crate::fixture::{Fixture, SOON, exit_status, finish, refused, status};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "create",
            "Create answers with init's process, created and not yet running its command",
            "§1.4",
            create,
        ),
        row(
            "create-files",
            "Create leaves init.pid, options.json and runtime in the bundle",
            "§1.1, point 26",
            create_files,
        ),
        row(
            "create-mounts",
            "the rootfs list is mounted, and unmounted by Delete",
            "§1.4",
            create_mounts,
        ),
        row(
            "create-bad-mount",
            "a mount that fails fails Create and leaves no other mounted",
            "§1.4",
            bad_mount,
        ),
        row(
            "create-fails",
            "a Create that fails says what the runtime said, and leaves nothing",
            "§1.4, point 9",
            create_fails,
        ),
        row(
            "create-no-bundle",
            "a Create without a bundle fails and leaves the shim usable",
            "§1.4",
            no_bundle,
        ),
        row(
            "create-duplicate",
            "a second Create of an id fails, and the first container lives on",
            "§1.4",
            create_twice,
        ),
        row(
            "create-after-failure",
            "after a Create that failed, the same id can be created",
            "pain 1",
            create_again,
        ),
        row(
            "create-options-old",
            "options of old clients are understood, and what no longer means anything is passed over",
            "point 21",
            old_options,
        ),
        row(
            "rootfs-modes",
            "the bundle keeps its modes, and rootfs can be entered",
            "point 27",
            modes,
        ),
    ]
}

fn create(fixture: &Fixture) -> Result<()> {
    let mut life = fixture.create(fixture.shell("sleep 0.1; exit 5")?)?;
    if life.pid == 0 {
        life.start()?;
        life.exit_status()?;
        life.end()?;
        return not_offered("a created container of this shim has no process yet");
    }
    ensure!(life.pid > 1, "Create says process {}", life.pid);
    let pid = i32::try_from(life.pid)?;
    ensure!(leak::state(pid).is_some_and(|state| state != 'Z'), "process {pid} is not there");
    ensure!(life.status()? == Status::CREATED, "the status is {:?}", life.status()?);
    let waits = wait::holds(QUIET, || life.status().is_ok_and(|status| status == Status::CREATED));
    ensure!(waits, "it did not wait to be started");
    life.start()?;
    ensure!(life.exit_status()? == 5, "the exit status is not 5");
    life.end()
}

fn create_files(fixture: &Fixture) -> Result<()> {
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    contained(&life)?;
    let read = |name: &str| fs::read_to_string(life.bundle.path.join(name));
    let pid = read("init.pid").context("read init.pid")?;
    ensure!(pid.trim() == life.pid.to_string(), "init.pid says {pid:?}, Create {}", life.pid);
    let options = read("options.json").context("read options.json")?;
    let _: serde_json::Value = serde_json::from_str(&options).context("options.json as JSON")?;
    read("runtime").context("read runtime")?;
    life.end()
}

fn create_mounts(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    contained(&life)?;
    let rootfs = life.bundle.path.join("rootfs");
    let mounted = || -> Result<bool> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", life.shim.pid))?;
        Ok(table.lines().any(|line| line.split(' ').nth(4) == rootfs.to_str()))
    };
    ensure!(mounted()?, "nothing is mounted on {}", rootfs.display());
    finish(&life.task)?;
    ensure!(!mounted()?, "{} is still mounted when Delete has answered", rootfs.display());
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn bad_mount(fixture: &Fixture) -> Result<()> {
    let mut bundle = fixture.shell("exit 0")?;
    let mut second = bundle.rootfs[0].clone();
    second.type_ = "no-such-filesystem".to_owned();
    bundle.rootfs.push(second);
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let Err(why) = task.create(&bundle.create_request()) else {
        task.kill("", 9)?;
        task.wait("")?;
        task.delete("")?;
        shim.leave(&bundle.id)?;
        return not_offered("the shim mounts nothing");
    };
    ensure!(matches!(why, CallError::Refused { .. }), "Create: {why}");
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!table.contains(&bundle.id), "still mounted:\n{table}");
    refused(task.state(""), Code::NOT_FOUND, "State after the Create that failed")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn create_fails(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shaped("", |spec| {
        spec["process"]["args"] = json!(["/no/such/command-of-mine"]);
    })?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let message = match task.create(&bundle.create_request()) {
        Err(CallError::Refused { message, .. }) => message,
        Err(why) => bail!("Create: {why}"),
        Ok(_) => {
            // A runtime may find out only when it starts it.
            let Err(why) = task.start("") else {
                bail!("Create and Start of a missing command succeeded")
            };
            finish(&task)?;
            why.to_string()
        }
    };
    ensure!(
        message.contains("command-of-mine"),
        "the message does not name the command: {message}"
    );
    ensure!(message.len() < 4096, "the message has {} bytes", message.len());
    refused(task.state(""), Code::NOT_FOUND, "State after the Create that failed")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn no_bundle(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 7")?;
    let shim = fixture.start(&bundle)?;
    let mut request = bundle.create_request();
    request.id = format!("{}-nowhere", fixture.token);
    request.bundle = fixture.dir.join("b/nowhere").display().to_string();
    let nowhere = shim.task(&request.id);
    match nowhere.create(&request) {
        Err(CallError::Refused { .. }) => {}
        other => bail!("Create without a bundle answered {other:?}"),
    }
    refused(nowhere.state(""), Code::NOT_FOUND, "State after it")?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request()).context("Create with a bundle, after it")?;
    task.start("")?;
    ensure!(exit_status(&task, "")? == 7);
    task.delete("")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn create_twice(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let again = life.task.create(&life.bundle.create_request());
    let Err(why) = again else { bail!("the second Create succeeded: process {again:?}") };
    ensure!(matches!(why, CallError::Refused { .. }), "the second Create: {why}");
    let state = life.task.state("").context("State of the first, after it")?;
    ensure!(state.pid == life.pid, "State says process {}, not {}", state.pid, life.pid);
    ensure!(life.status()? == Status::RUNNING, "the first is {:?}", life.status()?);
    let alive = leak::state(i32::try_from(life.pid)?);
    ensure!(alive.is_some_and(|state| state != 'Z'), "the first container's init is gone");
    ensure!(
        life.task.kill("", 9).is_ok() && life.task.within(SOON).wait("").is_ok(),
        "the first cannot be killed and waited for"
    );
    life.end()
}

fn create_again(fixture: &Fixture) -> Result<()> {
    let mut bundle = fixture.shell("exit 9")?;
    let good = fs::read(bundle.path.join("config.json"))?;
    fs::write(
        bundle.path.join("config.json"),
        fixture.spec(&bundle.id, "").to_string().replace("/bin/sh", "/no/such"),
    )?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    if task.create(&bundle.create_request()).is_ok() {
        ensure!(task.start("").is_err(), "a command that is missing was started");
        finish(&task)?;
    }
    fs::write(bundle.path.join("config.json"), good)?;
    bundle.spec = fixture.spec(&bundle.id, "exit 9");
    task.create(&bundle.create_request()).context("the second Create")?;
    task.start("")?;
    ensure!(exit_status(&task, "")? == 9);
    task.delete("")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn old_options(fixture: &Fixture) -> Result<()> {
    let mut bundle = fixture.shell("exit 6")?;
    let options = bundle.options.get_or_insert_default();
    // A criu of the client's own, which containerd 2.0 did away with, in a field that is reserved
    // now; and one that no test knew of.
    let unknown = options.special_fields.mut_unknown_fields();
    unknown.add_length_delimited(8, b"/nowhere/criu".to_vec());
    unknown.add_varint(99, 1);
    let mut life = fixture.create(bundle)?;
    life.start()?;
    ensure!(life.exit_status()? == 6, "the exit status is not 6");
    life.end()
}

fn modes(fixture: &Fixture) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bundle = fixture.shell("exit 0")?;
    fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o710))?;
    let path = bundle.path.clone();
    let life = fixture.run_bundle(bundle)?;
    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o710, "the bundle's mode became {mode:o}");
    ensure!(status(&life.task, "").is_ok());
    life.end()
}
