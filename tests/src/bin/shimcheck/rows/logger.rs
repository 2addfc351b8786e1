//! Programs that take a container's output: `binary://` and `binary-v2://`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::leak;
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::until;

use super::stdio::addressed;
use crate::fixture::{Fixture, SOON, exit_status, timed};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "stdio-binary",
            "a logger gets both streams, its arguments and who it logs for",
            "§1.5, point 14",
            binary,
        ),
        row(
            "stdio-binary-v2",
            "a logger of version 2 is waited for until it writes a byte",
            "§1.5, pain 17",
            binary_v2,
        ),
        row(
            "stdio-binary-unready",
            "a logger that never gets ready does not hang Create for good",
            "pain 17, point 14",
            binary_unready,
        )
        .within(90),
        row(
            "stdio-binary-dies",
            "a logger that dies does not take the container along",
            "pain 17",
            binary_dies,
        )
        .within(60),
        row(
            "stdio-binary-stays",
            "a logger that does not end is ended, and Delete returns",
            "point 14",
            binary_stays,
        )
        .within(90),
    ]
}

/// A logger: a script, which has `$d` for its own directory.
fn logger(fixture: &Fixture, name: &str, script: &str) -> Result<PathBuf> {
    let path = fixture.dir.join(name);
    fs::write(&path, format!("#!/bin/sh\nd='{}'\n{script}\n", fixture.dir.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn logged(fixture: &Fixture, script: &str, scheme: &str, path: &Path) -> Result<u32> {
    let address = format!("{scheme}://{}?mode=loud", path.display());
    addressed(fixture, script, &address, &address)
}

/// What reads both streams to their ends.
const COPY: &str = "cat <&3 >\"$d/logged.out\" & cat <&4 >\"$d/logged.err\"; wait";

fn binary(fixture: &Fixture) -> Result<()> {
    let path = logger(
        fixture,
        "logger",
        &format!("echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" >\"$d/told\"\nexec 5>&-\n{COPY}"),
    )?;
    let status = logged(fixture, "echo out; echo err >&2; exit 4", "binary", &path)?;
    ensure!(status == 4, "the exit status is {status}");
    let read = |name: &str| fs::read_to_string(fixture.dir.join(name));
    let told = read("told").context("the logger did not run")?;
    ensure!(told.contains(&fixture.token), "it was told {told:?}");
    ensure!(
        told.split_whitespace().nth(1) == Some(fixture.token.as_str()),
        "its namespace is not {}: {told:?}",
        fixture.token
    );
    ensure!(told.trim().ends_with("mode loud"), "its arguments are {told:?}");
    let copied = until(SOON, || {
        (read("logged.out").ok()? == "out\n" && read("logged.err").ok()? == "err\n").then_some(())
    });
    ensure!(copied.is_some(), "it logged {:?} and {:?}", read("logged.out"), read("logged.err"));
    Ok(())
}

fn binary_v2(fixture: &Fixture) -> Result<()> {
    let path = logger(
        fixture,
        "logger",
        &format!("sleep 0.5\ndate +%s%N >\"$d/ready\"\nprintf x >&5\nexec 5>&-\n{COPY}"),
    )?;
    let address = format!("binary-v2://{}", path.display());
    let bundle = fixture.shell("echo out; exit 4")?;
    let mut request = bundle.create_request();
    (request.stdout, request.stderr) = (address.clone(), address);
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    if let Err(why) = task.create(&request) {
        shim.leave(&bundle.id)?;
        return not_offered(format!("binary-v2: {why}"));
    }
    ensure!(fixture.dir.join("ready").exists(), "Create answered before the logger was ready");
    task.start("")?;
    ensure!(exit_status(&task, "")? == 4);
    task.delete("")?;
    shim.leave(&bundle.id)?;
    let out = fs::read_to_string(fixture.dir.join("logged.out"))?;
    ensure!(out == "out\n", "it logged {out:?}");
    fixture.nothing_left()
}

fn binary_unready(fixture: &Fixture) -> Result<()> {
    let sleep = fixture.dir.join("sleep");
    std::os::unix::fs::symlink("/bin/busybox", &sleep)?;
    let path = logger(fixture, "logger", &format!("exec {} 200", sleep.display()))?;
    let address = format!("binary://{}", path.display());
    let bundle = fixture.shell("exit 4")?;
    let mut request = bundle.create_request();
    (request.stdout, request.stderr) = (address.clone(), address);
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let creating = task.send("Create", &request)?;
    let (state, took) = timed(|| task.other("nobody").within(Duration::from_secs(2)).state(""));
    ensure!(
        state.as_ref().err().and_then(CallError::code) == Some(Code::NOT_FOUND),
        "State meanwhile, after {took:?}: {state:?}"
    );
    let (answer, took) =
        timed(|| creating.wait::<protos::ttrpc::api::CreateTaskResponse>(Duration::from_secs(45)));
    match answer {
        Err(CallError::Refused { .. }) => {}
        Ok(_) => {
            task.start("")?;
            exit_status(&task, "")?;
            task.delete("")?;
        }
        Err(why) => anyhow::bail!("Create, after {took:?}: {why}"),
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn binary_dies(fixture: &Fixture) -> Result<()> {
    let path = logger(fixture, "logger", "exec 5>&-\nexit 1")?;
    let status = logged(
        fixture,
        "sleep 0.5; for i in 1 2 3 4 5; do echo line $i; done; sleep 0.2; exit 6",
        "binary",
        &path,
    )?;
    ensure!(status == 6, "the container ended with {status}, not 6");
    Ok(())
}

fn binary_stays(fixture: &Fixture) -> Result<()> {
    let sleep = fixture.dir.join("sleep");
    std::os::unix::fs::symlink("/bin/busybox", &sleep)?;
    let path =
        logger(fixture, "logger", &format!("trap '' TERM\nexec 5>&-\n{} 300", sleep.display()))?;
    let address = format!("binary://{}", path.display());
    let bundle = fixture.shell("echo out; exit 4")?;
    let mut request = bundle.create_request();
    (request.stdout, request.stderr) = (address.clone(), address);
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    ensure!(life.exit_status()? == 4);
    let (deleted, took) = timed(|| life.task.within(Duration::from_secs(35)).delete(""));
    deleted.with_context(|| format!("Delete, after {took:?}"))?;
    life.shim.leave(&life.bundle.id)?;
    let script = path.display().to_string();
    let ended = until(Duration::from_secs(15), || {
        let logger = |trace: &leak::Trace| matches!(trace, leak::Trace::Process { what, .. } if what.contains(&script));
        (!leak::processes(&fixture.scope()).iter().any(logger)).then_some(())
    });
    ensure!(ended.is_some(), "the logger is still there 15 s after the shim has left");
    Ok(())
}
