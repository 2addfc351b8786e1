//! Checkpoints and what is made from them, with criu where it works.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::programs;
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::until;
use protos::ttrpc::api::Status;
use protos::ttrpc::shim::oci::CheckpointOptions;

use super::task::contained;
use crate::fixture::{Fixture, Life, SOON};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "checkpoint",
            "Checkpoint works, or says in one line why not, and the container lives",
            "§1.4, point 20",
            checkpoint,
        ),
        row(
            "checkpoint-restore",
            "a container outlives a checkpoint, and goes on from one in another shim and under another id",
            "point 20",
            restore,
        )
        .within(150),
        row(
            "checkpoint-fails",
            "criu's log of a checkpoint that failed stays in the bundle, and the container lives",
            "point 20",
            fails,
        )
        .within(90),
        row(
            "restore-declared",
            "Create from a checkpoint that is not there fails and leaves nothing",
            "point 20",
            restore_declared,
        ),
    ]
}

/// How long criu may take on a slow machine.
const CRIU: Duration = Duration::from_secs(40);

fn checkpoint(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let image = fixture.dir.join("image");
    match life.task.within(Duration::from_secs(30)).checkpoint(&image.display().to_string()) {
        Ok(()) => {
            ensure!(image.read_dir()?.next().is_some(), "Checkpoint wrote nothing");
        }
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, .. }) => {
            life.end()?;
            return not_offered("Checkpoint is UNIMPLEMENTED");
        }
        Err(CallError::Refused { message, .. }) => {
            ensure!(message.trim().lines().count() == 1, "the message is {message:?}");
            ensure!(life.status()? == Status::RUNNING, "the container is {:?}", life.status()?);
        }
        Err(why) => bail!("Checkpoint: {why}"),
    }
    life.end()
}

/// A container that counts in its memory, and where it writes how far it is. All of a fixture's have
/// one group: on version 2 criu puts processes back into the group in which it found them.
fn counting<'s>(fixture: &'s Fixture, image: Option<&PathBuf>) -> Result<(Life<'s>, PathBuf)> {
    let script = "n=0; while :; do n=$((n + 1)); echo $n >> /tmp/now; sleep 0.05; done";
    let bundle = fixture.shaped(script, |spec| {
        spec["linux"]["cgroupsPath"] = format!("/{0}/{0}-counting", fixture.token).into();
    })?;
    let file = fixture.dir.join("snap").join(&bundle.id).join("fs/tmp/now");
    let mut request = bundle.create_request();
    request.checkpoint = image.map(|image| image.display().to_string()).unwrap_or_default();
    Ok((fixture.create_with(bundle, &request)?, file))
}

/// How far it is: what its last whole line says, wherever in writing another it was stopped.
fn counted(file: &PathBuf) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    text.rsplit_once('\n')?.0.lines().next_back()?.parse().ok()
}

fn restore(fixture: &Fixture) -> Result<()> {
    let (mut life, file) = counting(fixture, None)?;
    contained(&life)?;
    life.start()?;
    until(SOON, || counted(&file).filter(|now| *now > 3))
        .context("the container counts nothing")?;
    let running = fixture.dir.join("running");
    match life.task.within(CRIU).checkpoint(&running.display().to_string()) {
        Ok(()) => {}
        Err(CallError::Refused { message, .. }) => {
            let log = fs::read_to_string(life.bundle.path.join("criu-dump.log"));
            let log = log.unwrap_or_default();
            let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            life.end()?;
            let errors = errors.join("\n");
            return not_offered(format!("no checkpoint can be made here: {message}\n{errors}"));
        }
        Err(why) => bail!("Checkpoint: {why}"),
    }
    ensure!(running.join("inventory.img").exists(), "Checkpoint wrote nothing");
    let now = counted(&file).context("the count is gone")?;
    until(SOON, || counted(&file).filter(|later| *later > now)).context("it did not go on")?;

    let image = fixture.dir.join("image");
    let exit = CheckpointOptions { exit: true, ..CheckpointOptions::default() };
    life.task.within(CRIU).checkpoint_with(&image.display().to_string(), &exit)?;
    ensure!(life.exit_status()? == 137, "the exit is not that of a killed process");
    ensure!(!life.bundle.path.join("work/criu-work").exists(), "criu's work directory stays");
    ensure!(!life.bundle.path.join("criu-work").exists(), "criu's work directory stays");
    let before = counted(&file).context("the count is gone")?;
    life.end().context("after the checkpoint")?;

    let (mut life, file) = counting(fixture, Some(&image))?;
    ensure!(life.pid == 0, "Create says process {} before there can be one", life.pid);
    ensure!(life.status()? == Status::CREATED, "the status is {:?}", life.status()?);
    let early = life.task.exec(&life.task.exec_request("early", &process(&shell("exit 0"))));
    let refused = early.and_then(|()| life.task.start("early").map(drop));
    match refused {
        Err(CallError::Refused { code, .. }) if code != Code::NOT_FOUND => {}
        other => bail!("an exec in a container not yet restored answered {other:?}"),
    }
    life.task = life.task.within(CRIU);
    life.start()?;
    ensure!(life.status()? == Status::RUNNING, "the status is {:?}", life.status()?);
    let now = until(SOON, || counted(&file)).context("it does not go on")?;
    ensure!(now >= before, "it began again: {now}, and {before} before the checkpoint");
    until(SOON, || counted(&file).filter(|later| *later > now)).context("it stands still")?;
    life.task.stats().context("Stats of a restored container")?;
    life.exec("e1", "exit 7").context("an exec in a restored container")?;
    ensure!(life.task.wait("e1")?.exit_status == 7, "the exec's exit is lost");
    life.task.delete("e1")?;
    let id = life.task.id().to_owned();
    life.task.kill("", 9)?;
    ensure!(life.exit_status()? == 137, "the exit of a restored container is lost");
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, &id, "exit"), "no exit event");
    let words = events.words(&id);
    let expected = ["create", "start", "exec-added:e1", "exec-started:e1", "exit:e1", "exit"]
        .map(str::to_owned);
    ensure!(words == expected, "the events are {words:?}");
    drop(events);
    life.end().context("after the restore")
}

fn fails(fixture: &Fixture) -> Result<()> {
    // criu refuses a file that is open, has no name any more and is larger than 1 MiB.
    let script = "dd if=/dev/zero of=/tmp/ghost bs=1M count=3 2> /dev/null; exec 9< /tmp/ghost; \
                  busybox rm /tmp/ghost; echo > /tmp/held; while :; do sleep 1; done";
    let bundle = fixture.shell(script)?;
    let held = fixture.dir.join("snap").join(&bundle.id).join("fs/tmp/held");
    let life = fixture.run_bundle(bundle)?;
    contained(&life)?;
    if programs::find("criu").is_none() {
        return not_offered("there is no criu");
    }
    until(SOON, || held.exists().then_some(())).context("the container opens no file")?;
    let image = fixture.dir.join("image").display().to_string();
    let message = match life.task.within(CRIU).checkpoint(&image) {
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, .. }) => {
            life.end()?;
            return not_offered("Checkpoint is UNIMPLEMENTED");
        }
        Err(CallError::Refused { message, .. }) => message,
        other => bail!("Checkpoint of a container with such a file answered {other:?}"),
    };
    if !message.contains("criu failed") {
        life.end()?;
        return not_offered(format!("the runtime did not get as far as criu: {message}"));
    }
    let log = life.bundle.path.join("criu-dump.log");
    ensure!(message.trim().lines().count() == 1, "the message is {message:?}");
    ensure!(message.contains("criu-dump.log"), "the message names no log: {message:?}");
    let told = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    ensure!(told.contains("Error"), "criu's log tells no error:\n{told}");
    ensure!(life.status()? == Status::RUNNING, "the container is {:?}", life.status()?);
    life.end()
}

fn restore_declared(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let mut request = bundle.create_request();
    request.checkpoint = fixture.dir.join("no-such-image").display().to_string();
    match task.create(&request) {
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, .. }) => {
            shim.leave(&bundle.id)?;
            fixture.nothing_left()?;
            return not_offered("Create from a checkpoint is UNIMPLEMENTED");
        }
        Err(CallError::Refused { .. }) => {}
        Err(why) => bail!("Create: {why}"),
        Ok(_) => {
            match task.start("") {
                Err(CallError::Refused { .. }) => {}
                other => bail!("Start from an image that is not there answered {other:?}"),
            }
            match task.delete("") {
                Ok(_) => {}
                Err(why) if why.code() == Some(Code::NOT_FOUND) => {}
                Err(why) => bail!("Delete after the Start that failed: {why}"),
            }
        }
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}
