//! Further processes in a container.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::leak;
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};
use protos::ttrpc::api::{Empty, Status};
use serde_json::json;

use crate::fixture::{
    Fixture, Life, SOON, exit_status, refused, status, timed, unless_unimplemented,
};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "exec",
            "an exec runs, reports its exit, and is deleted without an effect on the container",
            "§1.4",
            exec,
        ),
        row(
            "exec-state",
            "State of an exec shows its own process, status and exit",
            "§1.4",
            exec_state,
        ),
        row(
            "exec-process",
            "user, directory and environment of an exec are its own",
            "§1.4",
            exec_process,
        ),
        row(
            "exec-duplicate",
            "an exec id that is taken is ALREADY_EXISTS",
            "§1.4, point 6",
            duplicate,
        ),
        row(
            "exec-reserve",
            "of many execs with one id at the same time, one is added",
            "§1.4, point 6",
            reserve,
        ),
        row(
            "exec-id-again",
            "an exec id is free again after its Delete, or after a failure",
            "point 6",
            id_again,
        ),
        row(
            "exec-created",
            "an exec can be added to a created container",
            "point 18",
            exec_created,
        ),
        row(
            "exec-missing-command",
            "an exec that cannot start says so, releases its waiters, and can be deleted",
            "point 5",
            missing,
        ),
        row("exec-bad-spec", "an exec without a process is refused", "§1.4", bad_spec),
        row("exec-kill", "Kill of an exec reaches it alone", "§1.4", kill),
        row(
            "exec-kill-finished",
            "Kill of an exec that ended is NOT_FOUND",
            "§1.4, point 10",
            kill_finished,
        ),
        row("exec-delete-running", "Delete of a running exec is refused", "§1.4", delete_running),
        row(
            "exec-delete-unstarted",
            "an exec that was never started can be deleted",
            "§1.4",
            delete_unstarted,
        ),
        row(
            "exec-paused",
            "State of an exec shows that its container is paused",
            "point 19",
            paused,
        ),
        row(
            "exec-into-paused",
            "an exec is refused while its container is paused, and works once it is resumed",
            "point 18",
            into_paused,
        ),
        row(
            "exec-many",
            "twenty execs at the same time each get their own output and exit",
            "pain 3",
            many,
        ),
        row(
            "exec-short",
            "a hundred execs that end at once each publish their exit once",
            "pain 2, point 1",
            short,
        ),
        row("exec-wait-before-start", "a Wait before the Start gets the exit", "§1.4", wait_before),
    ]
}

pub(super) fn sleeping(fixture: &Fixture) -> Result<Life<'_>> {
    fixture.run("exec sleep 100")
}

fn exec(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let pipes = fixture.pipes()?;
    let pid = life.exec_with("e1", "echo out; echo err >&2; exit 3", &pipes)?;
    let exit = exit_status(&life.task, "e1")?;
    ensure!(exit == 3, "the exit status is {exit}");
    let deleted = life.task.delete("e1")?;
    ensure!(deleted.pid == pid && deleted.exit_status == 3, "Delete answered {deleted}");
    refused(life.task.state("e1"), Code::NOT_FOUND, "State after Delete")?;
    ensure!(pipes.out()?.wait_end(SOON), "its stdout did not end");
    ensure!(pipes.out()?.text() == "out\n", "stdout is {:?}", pipes.out()?.text());
    let err = pipes.stderr.as_ref().context("stderr")?;
    ensure!(err.wait_end(SOON) && err.text() == "err\n", "stderr is {:?}", err.text());
    ensure!(life.status()? == Status::RUNNING, "the container is {:?}", life.status()?);
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, life.task.id(), "exit:e1"), "no exit event");
    ensure!(
        !events.words(life.task.id()).contains(&"delete".to_owned()),
        "Delete of an exec was told as the container's: {:?}",
        events.words(life.task.id())
    );
    drop(events);
    life.end()
}

fn exec_state(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    // It ends when its input does.
    let mut pipes = fixture.pipes_with_input()?;
    let request = life.task.exec_request("e1", &process(&shell("cat; exit 4")));
    unless_unimplemented(life.task.exec(&pipes.exec(request)), "Exec")?;
    ensure!(status(&life.task, "e1")? == Status::CREATED, "{:?}", status(&life.task, "e1")?);
    let pid = life.task.start("e1")?;
    let state = life.task.state("e1")?;
    ensure!(state.status == Status::RUNNING.into(), "the status is {:?}", state.status);
    ensure!(state.pid == pid && pid != life.pid, "State says {}, Start {pid}", state.pid);
    // Go gives the exec's id as `id` and leaves `exec_id` out.
    ensure!(
        state.exec_id == "e1" || (state.exec_id.is_empty() && state.id == "e1"),
        "id is {:?}, exec_id {:?}",
        state.id,
        state.exec_id
    );
    pipes.input()?.open(SOON)?;
    life.task.close_stdin("e1")?;
    pipes.input()?.close();
    ensure!(exit_status(&life.task, "e1")? == 4);
    let state = life.task.state("e1")?;
    ensure!(state.status == Status::STOPPED.into(), "the status is {:?}", state.status);
    ensure!(state.exit_status == 4, "exit_status is {}", state.exit_status);
    life.task.delete("e1")?;
    life.end()
}

fn exec_process(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    super::task::contained(&life)?;
    let pipes = fixture.pipes()?;
    let mut spec = process(&shell("id -u; id -g; pwd; echo $COLOUR"));
    spec["user"] = json!({ "uid": 7, "gid": 8 });
    spec["cwd"] = json!("/tmp");
    spec["env"] = json!(["PATH=/bin", "COLOUR=green"]);
    life.task.exec(&pipes.exec(life.task.exec_request("e1", &spec)))?;
    life.task.start("e1")?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    pipes.out()?.wait_end(SOON);
    ensure!(pipes.out()?.text() == "7\n8\n/tmp\ngreen\n", "it saw {:?}", pipes.out()?.text());
    life.end()
}

fn duplicate(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let request = life.task.exec_request("e1", &process(&shell("exec sleep 100")));
    unless_unimplemented(life.task.exec(&request), "Exec")?;
    refused(life.task.exec(&request), Code::ALREADY_EXISTS, "Exec of an id that is added")?;
    life.task.start("e1")?;
    refused(life.task.exec(&request), Code::ALREADY_EXISTS, "Exec of an id that runs")?;
    ensure!(status(&life.task, "e1")? == Status::RUNNING);
    life.end()
}

fn reserve(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let request = life.task.exec_request("e1", &process(&shell("exit 0")));
    let sent: Result<Vec<_>, _> = (0..16).map(|_| life.task.send("Exec", &request)).collect();
    let mut added = 0;
    for pending in sent? {
        let answer: Result<Empty, _> = pending.wait(SOON);
        match answer {
            Ok(_) => added += 1,
            Err(why) if why.code() == Some(Code::ALREADY_EXISTS) => {}
            Err(why) => {
                unless_unimplemented::<()>(Err(why), "Exec")?;
            }
        }
    }
    ensure!(added == 1, "{added} of 16 were added");
    life.end()
}

fn id_again(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    for round in 0..3 {
        life.exec("e1", &format!("exit {round}"))?;
        ensure!(exit_status(&life.task, "e1")? == round);
        ensure!(life.task.delete("e1")?.exit_status == round);
    }
    let mut bad = life.task.exec_request("e1", &json!(7));
    bad.stdout = "no-such-scheme:///x".to_owned();
    // Which of Exec and Start refuses it is the shim's choice.
    if life.task.exec(&bad).is_ok() {
        ensure!(life.task.start("e1").is_err(), "nonsense was started");
        life.task.delete("e1").context("Delete of what failed to start")?;
    }
    life.exec("e1", "exit 8").context("the same id after a failure")?;
    ensure!(exit_status(&life.task, "e1")? == 8);
    life.task.delete("e1")?;
    life.end()
}

fn exec_created(fixture: &Fixture) -> Result<()> {
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    let request = life.task.exec_request("e1", &process(&shell("exit 2")));
    unless_unimplemented(life.task.exec(&request), "Exec")
        .context("Exec in a created container")?;
    match life.task.start("e1") {
        Ok(_) => ensure!(exit_status(&life.task, "e1")? == 2),
        // A runtime may refuse before the container's own start.
        Err(CallError::Refused { .. }) => {}
        Err(why) => bail!("Start: {why}"),
    }
    life.task.delete("e1")?;
    life.end()
}

fn missing(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let spec = process(&["/no/such/command-of-mine".to_owned()]);
    unless_unimplemented(life.task.exec(&life.task.exec_request("e1", &spec)), "Exec")?;
    let waiting = life.task.send("Wait", &life.task.wait_request("e1"))?;
    let (answer, took) = timed(|| life.task.start("e1"));
    let Err(CallError::Refused { message, .. }) = answer else {
        bail!("Start of a missing command answered {answer:?}");
    };
    ensure!(message.contains("command-of-mine"), "the message does not name it: {message}");
    ensure!(took < Duration::from_secs(5), "Start took {took:?}");
    let released: Result<protos::ttrpc::api::WaitResponse, _> = waiting.wait(SOON);
    ensure!(
        !matches!(released, Err(CallError::Silent(_))),
        "a Wait that began before the Start never returned"
    );
    let late = life.task.within(SOON).wait("e1");
    ensure!(!matches!(late, Err(CallError::Silent(_))), "a Wait after it never returned");
    let left = status(&life.task, "e1")?;
    ensure!(matches!(left, Status::STOPPED | Status::CREATED), "its status is {left:?}");
    life.task.delete("e1").context("Delete")?;
    life.end()
}

fn bad_spec(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let mut request = life.task.exec_request("e1", &json!({}));
    for spec in [None, Some(&b"\xff\xfe not JSON"[..]), Some(&b"{\"args\": 7}"[..])] {
        match spec {
            None => request.spec = None.into(),
            Some(bytes) => request.spec.mut_or_insert_default().value = bytes.to_vec(),
        }
        let added = life.task.exec(&request);
        if added.is_ok() {
            ensure!(life.task.start("e1").is_err(), "{spec:?} was started");
            life.task.delete("e1")?;
        } else {
            unless_unimplemented(added, "Exec").err().map_or(Ok(()), |why| {
                if why.downcast_ref::<crate::verdict::NotOffered>().is_some() {
                    Err(why)
                } else {
                    Ok(())
                }
            })?;
        }
    }
    ensure!(life.shim.alive(), "the shim died of it");
    life.exec("e1", "exit 0").context("a proper exec after them")?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    life.end()
}

fn kill(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    life.exec("e1", "exec sleep 100")?;
    life.exec("e2", "exec sleep 100")?;
    life.task.kill("e1", 9)?;
    ensure!(exit_status(&life.task, "e1")? == 137);
    ensure!(status(&life.task, "e2")? == Status::RUNNING);
    ensure!(life.status()? == Status::RUNNING);
    life.task.kill("e2", 15)?;
    ensure!(exit_status(&life.task, "e2")? == 143);
    life.end()
}

fn kill_finished(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    life.exec("e1", "exit 0")?;
    exit_status(&life.task, "e1")?;
    refused(life.task.kill("e1", 9), Code::NOT_FOUND, "Kill of an ended exec")?;
    life.task.delete("e1")?;
    refused(life.task.kill("e1", 9), Code::NOT_FOUND, "Kill of a deleted exec")?;
    life.end()
}

fn delete_running(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let pid = life.exec("e1", "exec sleep 100")?;
    match life.task.delete("e1") {
        Err(CallError::Refused { code, .. }) if code != Code::NOT_FOUND => {}
        other => bail!("Delete of a running exec answered {other:?}"),
    }
    let state = leak::state(i32::try_from(pid)?);
    ensure!(state.is_some_and(|state| state != 'Z'), "the exec is gone");
    life.end()
}

fn delete_unstarted(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let request = life.task.exec_request("e1", &process(&shell("exit 0")));
    unless_unimplemented(life.task.exec(&request), "Exec")?;
    life.task.delete("e1").context("Delete")?;
    refused(life.task.start("e1"), Code::NOT_FOUND, "Start after Delete")?;
    life.end()
}

fn paused(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    life.exec("e1", "exec sleep 100")?;
    unless_unimplemented(life.task.pause(), "Pause")?;
    ensure!(status(&life.task, "e1")? == Status::PAUSED, "{:?}", status(&life.task, "e1")?);
    life.task.resume()?;
    ensure!(status(&life.task, "e1")? == Status::RUNNING, "{:?}", status(&life.task, "e1")?);
    life.end()
}

fn into_paused(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    unless_unimplemented(life.task.pause(), "Pause")?;
    let request = life.task.exec_request("e1", &process(&shell("exit 4")));
    let added = life.task.exec(&request);
    let began =
        added.as_ref().map_err(Clone::clone).and_then(|()| life.task.within(SOON).start("e1"));
    ensure!(began.is_err(), "an exec was started in a paused container");
    ensure!(!matches!(began, Err(CallError::Silent(_))), "the exec hung in the paused container");
    life.task.resume()?;
    if added.is_ok() {
        // Added then, it may be spoiled; it can be removed in any case.
        life.task.delete("e1").context("Delete of the exec that was refused")?;
    }
    life.exec("e1", "exit 4").context("an exec after Resume")?;
    ensure!(exit_status(&life.task, "e1")? == 4);
    life.end()
}

fn many(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let count = 20_u32;
    let mut pipes = Vec::new();
    for number in 0..count {
        let pipe = fixture.pipes()?;
        let script = format!("echo number {number}; exit {number}");
        let request =
            pipe.exec(life.task.exec_request(&format!("e{number}"), &process(&shell(&script))));
        unless_unimplemented(life.task.exec(&request), "Exec")?;
        pipes.push(pipe);
    }
    let began: Result<Vec<_>, _> = (0..count)
        .map(|number| {
            let request = protos::ttrpc::api::StartRequest {
                id: life.task.id().to_owned(),
                exec_id: format!("e{number}"),
                ..Default::default()
            };
            life.task.send("Start", &request)
        })
        .collect();
    for (number, pending) in began?.iter().enumerate() {
        let _: protos::ttrpc::api::StartResponse = pending
            .wait(Duration::from_secs(20))
            .with_context(|| format!("Start of exec {number}"))?;
    }
    for number in 0..count {
        let exec = format!("e{number}");
        let exit = exit_status(&life.task, &exec)?;
        ensure!(exit == number, "exec {number} ended with {exit}");
        life.task.delete(&exec)?;
        let out = pipes[number as usize].out()?;
        ensure!(out.wait_end(SOON), "the stdout of exec {number} did not end");
        ensure!(out.text() == format!("number {number}\n"), "exec {number} wrote {:?}", out.text());
    }
    life.end()
}

fn short(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let count = 100;
    for number in 0..count {
        let exec = format!("e{number}");
        let pid = life.exec(&exec, "exit 1")?;
        ensure!(pid > 0, "Start of exec {number} says process 0");
        ensure!(exit_status(&life.task, &exec)? == 1, "exec {number}");
        life.task.delete(&exec)?;
    }
    let events = fixture.events.borrow();
    let id = life.task.id().to_owned();
    events.wait(SOON, |seen| {
        seen.iter().filter(|seen| seen.event.to_string().starts_with("exit:")).count() >= count
    });
    let words = events.words(&id);
    drop(events);
    let exits: Vec<_> = words.iter().filter(|word| word.starts_with("exit:")).collect();
    let distinct: BTreeSet<_> = exits.iter().collect();
    ensure!(
        exits.len() == count && distinct.len() == count,
        "{} exits told, {} distinct",
        exits.len(),
        distinct.len()
    );
    for number in 0..count {
        let at = |word: String| words.iter().position(|seen| *seen == word);
        let (added, started, exited) = (
            at(format!("exec-added:e{number}")),
            at(format!("exec-started:e{number}")),
            at(format!("exit:e{number}")),
        );
        ensure!(
            added < started && started < exited && added.is_some(),
            "exec {number}: added at {added:?}, started at {started:?}, exited at {exited:?}"
        );
    }
    life.end()
}

fn wait_before(fixture: &Fixture) -> Result<()> {
    let mut life = fixture.create(fixture.shell("exit 21")?)?;
    let waiting = life.task.send("Wait", &life.task.wait_request(""))?;
    life.start()?;
    let answer: protos::ttrpc::api::WaitResponse = waiting.wait(SOON).context("Wait for init")?;
    ensure!(answer.exit_status == 21, "init: {}", answer.exit_status);
    life.end()?;
    let life = sleeping(fixture)?;
    let request = life.task.exec_request("e1", &process(&shell("exit 22")));
    unless_unimplemented(life.task.exec(&request), "Exec")?;
    let waiting = life.task.send("Wait", &life.task.wait_request("e1"))?;
    life.task.start("e1")?;
    let answer: protos::ttrpc::api::WaitResponse =
        waiting.wait(SOON).context("Wait for an exec")?;
    ensure!(answer.exit_status == 22, "the exec: {}", answer.exit_status);
    life.end()
}
