//! Clients that give up, logs without a reader, and calls that must be quick while others hang.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{Task, until};
use harness::wait::{self, QUIET};
use protos::ttrpc::api::Status;

use crate::fixture::{
    Fixture, Life, Pipes, SOON, exit_status, finish, status, timed, unless_unimplemented,
    until_told,
};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "log-undrained",
            "with a full log fifo, 600 calls and State are answered as ever",
            "pain 6, §2",
            undrained,
        )
        .within(90),
        row(
            "log-closed",
            "a log whose reader has gone costs neither the shim nor a call",
            "§1.5, pain 6",
            closed,
        ),
        row(
            "log-reopened",
            "a reader of the log that comes back gets what is logged then",
            "§1.5",
            reopened,
        ),
        row("log-debug", "with -debug, something is logged, as lines", "§1.1", debug),
        row(
            "state-quick",
            "State, Connect and Pids answer in well under 100 ms",
            "pain 11, §1.4",
            quick,
        )
        .alone(),
        row(
            "state-during-create",
            "State is answered while other Creates are under way",
            "pain 4",
            during_create,
        )
        .alone(),
        row(
            "deadline-create",
            "a Create over its deadline is finished or undone, never half",
            "pain 1, §2",
            deadline_create,
        )
        .within(90),
        row(
            "deadline-start",
            "a Start over its deadline leaves a container that can be ended",
            "§2",
            deadline_start,
        )
        .within(60),
        row(
            "deadline-exec",
            "an exec's Start over its deadline leaves one that can be ended",
            "§2",
            deadline_exec,
        )
        .within(60),
        row(
            "deadline-delete",
            "a Delete over its deadline goes on, and is answered when repeated",
            "pain 1",
            deadline_delete,
        )
        .within(60),
        row(
            "deadline-wait",
            "a hundred Waits that give up leave nothing behind",
            "§2, pain 14",
            deadline_wait,
        ),
        row(
            "disconnect-create",
            "a client that goes away in Create leaves it finished or undone",
            "pain 16, §2",
            disconnect_create,
        )
        .within(90),
        row(
            "disconnect-delete",
            "a client that goes away in Delete leaves it to be finished",
            "pain 1, §2",
            disconnect_delete,
        )
        .within(60),
        row(
            "daemon-restart",
            "a new client finds every task, its state and its exit",
            "§1.5, pain 11",
            daemon_restart,
        ),
    ]
}

fn undrained(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exec sleep 100")?;
    let log = bundle.log.as_ref().context("the bundle has a log")?;
    // Open, so that it fills instead of failing, and unread.
    let _held = std::fs::OpenOptions::new().read(true).write(true).open(log.path())?;
    let mut invocation = fixture.invocation(&bundle);
    invocation.debug = true;
    let shim = fixture.start_with(&invocation)?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request())?;
    task.start("")?;
    for round in 0..600 {
        let (answer, took) = timed(|| task.within(SOON).kill("nobody", 0));
        ensure!(!matches!(answer, Err(CallError::Silent(_))), "Kill {round} was not answered");
        ensure!(took < Duration::from_secs(2), "Kill {round} took {took:?}");
    }
    let (answer, took) = timed(|| task.within(Duration::from_secs(2)).state(""));
    answer.with_context(|| format!("State, after {took:?}"))?;
    finish(&task)?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn closed(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    life.bundle.log.as_ref().context("the bundle has a log")?.leave();
    for _ in 0..50 {
        // Refused, and so worth a line in the log.
        let _ = life.task.kill("nobody", 9);
        let _ = life.task.other("nobody").delete("");
    }
    life.exec("e1", "exit 0")?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    ensure!(life.shim.alive(), "the shim died of it");
    life.end()
}

fn reopened(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exec sleep 100")?;
    let log = bundle.log.as_ref().context("the bundle has a log")?;
    log.follow()?;
    let mut invocation = fixture.invocation(&bundle);
    invocation.debug = true;
    let shim = fixture.start_with(&invocation)?;
    log.leave();
    let before = log.bytes().len();
    log.follow()?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request())?;
    task.start("")?;
    // The one thing that everybody logs.
    shim.signal(nix::sys::signal::Signal::SIGUSR1)?;
    finish(&task)?;
    let logged = log.wait(SOON, |bytes, _| bytes.len() > before);
    shim.leave(&bundle.id)?;
    ensure!(logged, "nothing was logged after the reader came back");
    fixture.nothing_left()
}

fn debug(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let log = bundle.log.as_ref().context("the bundle has a log")?;
    log.follow()?;
    let mut invocation = fixture.invocation(&bundle);
    invocation.debug = true;
    let shim = fixture.start_with(&invocation)?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request())?;
    task.start("")?;
    // Refused, and so worth a line.
    let _ = task.kill("nobody", 9);
    let _ = task.other("nobody").delete("");
    finish(&task)?;
    shim.leave(&bundle.id)?;
    log.wait(Duration::from_secs(2), |bytes, _| !bytes.is_empty());
    let text = log.text();
    ensure!(!text.is_empty(), "nothing was logged");
    ensure!(text.ends_with('\n'), "the last line is torn: {text:?}");
    fixture.nothing_left()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn quick(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    type Call = fn(&Task) -> Result<(), CallError>;
    let calls: [(&str, Call); 3] = [
        ("State", |task| task.state("").map(|_| ())),
        ("Connect", |task| task.connect().map(|_| ())),
        ("Pids", |task| task.pids().map(|_| ())),
    ];
    for (name, call) in calls {
        let mut times = Vec::new();
        for _ in 0..20 {
            let (answer, took) = timed(|| call(&life.task));
            if name != "Pids"
                || answer.as_ref().err().and_then(CallError::code) != Some(Code::UNIMPLEMENTED)
            {
                answer.with_context(|| name.to_owned())?;
            }
            times.push(took);
        }
        let took = median(times);
        ensure!(took < Duration::from_millis(100), "{name} takes {took:?}");
    }
    life.end()
}

fn during_create(fixture: &Fixture) -> Result<()> {
    let group = |script: &str| {
        fixture.shaped(script, |spec| {
            spec["annotations"] =
                serde_json::json!({ "io.containerd.runc.v2.group": fixture.token });
        })
    };
    let first = group("exec sleep 100")?;
    let shim = fixture.start(&first)?;
    let task = shim.task(&first.id);
    task.create(&first.create_request())?;
    task.start("")?;
    let others = (0..6).map(|_| group("exec sleep 100")).collect::<Result<Vec<_>>>()?;
    let creating = others
        .iter()
        .map(|bundle| Ok(task.send("Create", &bundle.create_request())?))
        .collect::<Result<Vec<_>>>()?;
    let mut times = Vec::new();
    for _ in 0..60 {
        let (answer, took) = timed(|| task.within(Duration::from_secs(2)).state(""));
        answer.with_context(|| format!("State, after {took:?}"))?;
        times.push(took);
        wait::pass(Duration::from_millis(4));
    }
    for pending in &creating {
        let _: protos::ttrpc::api::CreateTaskResponse =
            pending.wait(Duration::from_secs(20)).context("Create")?;
    }
    for bundle in &others {
        finish(&shim.task(&bundle.id))?;
    }
    finish(&task)?;
    shim.leave(&first.id)?;
    fixture.nothing_left()?;
    times.sort_unstable();
    let slow = times[times.len() * 9 / 10];
    ensure!(slow < Duration::from_millis(100), "one State in ten takes {slow:?} or more");
    Ok(())
}

/// After a Create whose client did not wait: there is a container, which can be ended, or there is
/// none, and it can be created.
fn whole(fixture: &Fixture, task: &Task, bundle: &harness::shim::Bundle) -> Result<()> {
    let settled = until(Duration::from_secs(15), || match task.state("") {
        Ok(state) if state.status == Status::CREATED.into() => Some(Ok(true)),
        Ok(_) => None,
        Err(why) if why.code() == Some(Code::NOT_FOUND) => {
            // The Create may still be running.
            let absent = || task.state("").is_err_and(|why| why.code() == Some(Code::NOT_FOUND));
            wait::holds(QUIET, absent).then_some(Ok(false))
        }
        Err(why) => Some(Err(why)),
    });
    let created = match settled {
        Some(answer) => answer.context("State after it")?,
        None => bail!("State says {:?}", task.state("")),
    };
    if !created {
        task.create(&bundle.create_request()).context("there was none; Create")?;
    }
    task.start("").context("Start of what is there")?;
    finish(task)?;
    task.shutdown().or_else(|why| if why == CallError::Closed { Ok(()) } else { Err(why) })?;
    fixture.nothing_left()
}

/// In this time a call whose client has given up ends, or is seen to hang; its end has no answer to wait for.
const AFTER: Duration = Duration::from_millis(200);

fn deadline_create(fixture: &Fixture) -> Result<()> {
    for deadline in [1, 5, 15, 30] {
        let bundle = fixture.shell("exec sleep 100")?;
        let shim = fixture.start(&bundle)?;
        let task = shim.task(&bundle.id);
        let hasty = task.with_deadline(Duration::from_millis(deadline));
        let pending = hasty.send("Create", &bundle.create_request())?;
        wait::pass(Duration::from_millis(deadline));
        drop(pending);
        whole(fixture, &task, &bundle).with_context(|| format!("a deadline of {deadline} ms"))?;
        shim.gone(SOON)?;
    }
    Ok(())
}

fn disconnect_create(fixture: &Fixture) -> Result<()> {
    for moment in [0, 5, 15, 30] {
        let bundle = fixture.shell("exec sleep 100")?;
        let shim = fixture.start(&bundle)?;
        let fickle = shim.reconnect()?;
        let pending = Task::new(&fickle, shim.reply.service(), &bundle.id)
            .send("Create", &bundle.create_request())?;
        wait::pass(Duration::from_millis(moment));
        fickle.close();
        drop(pending);
        whole(fixture, &shim.task(&bundle.id), &bundle)
            .with_context(|| format!("gone after {moment} ms"))?;
        shim.gone(SOON)?;
    }
    Ok(())
}

fn deadline_start(fixture: &Fixture) -> Result<()> {
    for deadline in [1, 4, 12] {
        let life = fixture.create(fixture.shell("exec sleep 100")?)?;
        let request = protos::ttrpc::api::StartRequest {
            id: life.task.id().to_owned(),
            ..Default::default()
        };
        let hasty = life.task.with_deadline(Duration::from_millis(deadline));
        drop(hasty.send("Start", &request)?);
        wait::pass(AFTER);
        let state = life.status()?;
        ensure!(
            matches!(state, Status::CREATED | Status::RUNNING | Status::STOPPED),
            "a deadline of {deadline} ms left it {state:?}"
        );
        life.end().with_context(|| format!("a deadline of {deadline} ms"))?;
    }
    Ok(())
}

fn deadline_exec(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    for deadline in [1, 4, 12] {
        let exec = format!("e{deadline}");
        let process =
            harness::shim::bundle::process(&harness::shim::bundle::shell("exec sleep 100"));
        unless_unimplemented(life.task.exec(&life.task.exec_request(&exec, &process)), "Exec")?;
        let request = protos::ttrpc::api::StartRequest {
            id: life.task.id().to_owned(),
            exec_id: exec.clone(),
            ..Default::default()
        };
        let hasty = life.task.with_deadline(Duration::from_millis(deadline));
        drop(hasty.send("Start", &request)?);
        wait::pass(AFTER);
        match life.task.kill(&exec, 9) {
            Ok(()) => {
                exit_status(&life.task, &exec).context("after a Kill")?;
            }
            Err(why) => ensure!(matches!(why, CallError::Refused { .. }), "Kill: {why}"),
        }
        life.task
            .delete(&exec)
            .with_context(|| format!("Delete; the deadline was {deadline} ms"))?;
    }
    life.end()
}

/// A container that has ended and whose Delete has something to wait for: output without a reader.
fn slow_to_delete<'s>(fixture: &'s Fixture, pipes: &Pipes) -> Result<Life<'s>> {
    let bundle = fixture.shell("exec yes")?;
    let request = pipes.create(bundle.create_request());
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    ensure!(pipes.out()?.wait_for(SOON, "y\n"), "nothing arrives");
    pipes.out()?.leave();
    wait::pass(super::stdio::FULL);
    life.task.kill("", 9)?;
    life.exit_status()?;
    Ok(life)
}

fn deadline_delete(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = slow_to_delete(fixture, &pipes)?;
    let hasty = life.task.with_deadline(Duration::from_millis(2));
    drop(hasty.send("Delete", &life.task.delete_request(""))?);
    wait::pass(AFTER);
    match life.task.within(Duration::from_secs(25)).delete("") {
        Ok(answer) => ensure!(answer.exit_status == 137, "{answer}"),
        Err(why) => ensure!(why.code() == Some(Code::NOT_FOUND), "the second Delete: {why}"),
    }
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn disconnect_delete(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = slow_to_delete(fixture, &pipes)?;
    let fickle = life.shim.reconnect()?;
    drop(
        Task::new(&fickle, life.shim.reply.service(), life.task.id())
            .send("Delete", &life.task.delete_request(""))?,
    );
    wait::pass(Duration::from_millis(5));
    fickle.close();
    wait::pass(AFTER);
    match life.task.within(Duration::from_secs(25)).delete("") {
        Ok(answer) => ensure!(answer.exit_status == 137, "{answer}"),
        Err(why) => ensure!(why.code() == Some(Code::NOT_FOUND), "the second Delete: {why}"),
    }
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn deadline_wait(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    for _ in 0..5 {
        life.task.state("")?;
    }
    let (threads, resident) = (life.shim.threads(), life.shim.resident_kb());
    for _ in 0..100 {
        let hasty = life.task.with_deadline(Duration::from_millis(10));
        drop(hasty.send("Wait", &life.task.wait_request(""))?);
    }
    until(SOON, || (life.shim.threads() <= threads + 4).then_some(()));
    let grown = life.shim.threads().saturating_sub(threads);
    ensure!(grown <= 4, "{grown} threads more");
    let grown = life.shim.resident_kb().saturating_sub(resident);
    ensure!(grown < 4096, "{grown} kB more");
    life.end()
}

fn daemon_restart(fixture: &Fixture) -> Result<()> {
    let life = fixture.run(&until_told(14))?;
    life.exec("e1", "exec sleep 100")?;
    life.shim.client.close();
    life.tell()?;
    let stays = wait::holds(Duration::from_millis(900), || life.shim.alive());
    ensure!(stays, "the shim left with its client");
    let client = life.shim.reconnect()?;
    let task = Task::new(&client, life.shim.reply.service(), life.task.id());
    let (answer, took) = timed(|| task.connect());
    ensure!(answer?.task_pid == life.pid, "Connect after init ended");
    ensure!(took < Duration::from_secs(5), "Connect took {took:?}");
    // On a slow machine, init may only just be about to end.
    until(SOON, || status(&task, "").is_ok_and(|now| now == Status::STOPPED).then_some(()));
    let state = task.state("")?;
    ensure!(state.status == Status::STOPPED.into(), "State says {:?}", state.status);
    ensure!(state.exit_status == 14, "State says {}", state.exit_status);
    ensure!(task.within(SOON).wait("")?.exit_status == 14);
    task.delete("")?;
    task.shutdown().or_else(|why| if why == CallError::Closed { Ok(()) } else { Err(why) })?;
    life.shim.gone(SOON)?;
    fixture.nothing_left()
}
