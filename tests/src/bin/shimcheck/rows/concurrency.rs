//! Many at once, and many in a row: races, and growth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{Bundle, Task, until};
use harness::wait;
use protos::ttrpc::api::{CreateTaskResponse, DeleteResponse, StartRequest, StartResponse, Status};

use crate::fixture::{Fixture, SOON, Shim, exit_status, finish, unless_unimplemented};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("storm-start", "of many Starts at the same time, one succeeds", "§1.4", starts),
        row("storm-delete", "of many Deletes at the same time, all get the one answer or NOT_FOUND", "pain 1", deletes),
        row("storm-kill-delete", "Kill, Wait, State and Delete at the same time each get a true answer", "§1.4", kill_delete),
        row("storm", "create, exec, kill, delete and state from six clients at once: every answer makes sense", "pain 3, pain 4", storm).within(120),
        row("storm-containers", "30 short containers in one shim each tell one exit", "pain 2, pain 9", containers).within(90),
        row("storm-shims", "containers of several shims can be created at once below a cgroup that is new to all", "§1.4", shims).within(90),
        row("growth-execs", "after many execs there is no thread, descriptor or child more", "pain 14, pain 13", growth).within(600),
        row("growth-containers", "after 30 containers in one shim there is no thread, descriptor or child more", "pain 14", growth_containers).within(120),
        row("growth-failures", "after 60 calls that fail there is no thread, descriptor or child more", "pain 14", growth_failures).within(60),
    ]
}

fn starts(fixture: &Fixture) -> Result<()> {
    for _ in 0..3 {
        let life = fixture.create(fixture.shell("exec sleep 100")?)?;
        let request = StartRequest { id: life.task.id().to_owned(), ..Default::default() };
        let sent: Result<Vec<_>, _> = (0..10).map(|_| life.task.send("Start", &request)).collect();
        let mut started = 0;
        for pending in sent? {
            match pending.wait::<StartResponse>(SOON) {
                Ok(_) => started += 1,
                Err(CallError::Refused { .. }) => {}
                Err(why) => bail!("Start: {why}"),
            }
        }
        ensure!(started == 1, "{started} of 10 succeeded");
        ensure!(life.status()? == Status::RUNNING, "the status is {:?}", life.status()?);
        life.end()?;
    }
    Ok(())
}

fn deletes(fixture: &Fixture) -> Result<()> {
    for _ in 0..3 {
        let life = fixture.run("exit 19")?;
        life.exit_status()?;
        let request = life.task.delete_request("");
        let sent: Result<Vec<_>, _> = (0..10).map(|_| life.task.send("Delete", &request)).collect();
        let mut answers = Vec::new();
        for pending in sent? {
            match pending.wait::<DeleteResponse>(SOON) {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    ensure!(why.code() == Some(Code::NOT_FOUND), "a Delete beside others: {why}");
                }
            }
        }
        ensure!(!answers.is_empty(), "none of 10 succeeded");
        ensure!(answers.iter().all(|answer| answer.exit_status == 19), "they got {answers:?}");
        life.shim.leave(&life.bundle.id)?;
        fixture.nothing_left()?;
    }
    Ok(())
}

fn kill_delete(fixture: &Fixture) -> Result<()> {
    for _ in 0..6 {
        let life = fixture.run("exec sleep 100")?;
        let task = &life.task;
        let waiting = task.send("Wait", &task.wait_request(""))?;
        let killing = task.send("Kill", &task.kill_request("", 9))?;
        let deleting = task.send("Delete", &task.delete_request(""))?;
        let state = task.state("");
        let killed = killing.wait::<protos::ttrpc::api::Empty>(SOON);
        ensure!(
            killed.is_ok()
                || killed.as_ref().err().and_then(CallError::code) == Some(Code::NOT_FOUND),
            "Kill: {killed:?}"
        );
        let deleted = deleting.wait::<DeleteResponse>(SOON);
        let waited = waiting.wait::<protos::ttrpc::api::WaitResponse>(SOON);
        match &waited {
            Ok(exit) => ensure!(exit.exit_status == 137, "Wait: {exit}"),
            Err(why) => bail!("Wait: {why}"),
        }
        match (&deleted, &state) {
            (Ok(answer), _) => ensure!(answer.exit_status == 137, "Delete: {answer}"),
            (Err(CallError::Refused { .. }), Ok(_)) => {
                task.delete("").context("Delete, after the exit")?;
            }
            other => bail!("Delete and State: {other:?}"),
        }
        life.shim.leave(&life.bundle.id)?;
        fixture.nothing_left()?;
    }
    Ok(())
}

fn member(fixture: &Fixture, script: &str) -> Result<Bundle> {
    fixture.shaped(script, |spec| {
        spec["annotations"] = serde_json::json!({ "io.containerd.runc.v2.group": fixture.token });
    })
}

/// A shim with one container in it, which others join.
fn host(fixture: &Fixture) -> Result<(Shim<'_>, Bundle)> {
    let bundle = member(fixture, "exec sleep 100")?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request())?;
    task.start("")?;
    Ok((shim, bundle))
}

/// One client's part of the storm: a whole life, with execs, in a shim that others use.
fn client(task: &Task, bundle: &Bundle, host: &Task, round: usize) -> Result<()> {
    task.create(&bundle.create_request()).context("Create")?;
    ensure!(task.state("")?.status == Status::CREATED.into(), "State after Create");
    task.start("").context("Start")?;
    for number in 0..3 {
        let exec = format!("e{number}");
        let request = task.exec_request(&exec, &process(&shell(&format!("exit {number}"))));
        task.exec(&request).context("Exec")?;
        task.start(&exec).context("Start of an exec")?;
        let exit = task.wait(&exec).context("Wait for an exec")?.exit_status;
        ensure!(exit == number, "exec {number} ended with {exit}");
        ensure!(host.state("").context("State of the host")?.status == Status::RUNNING.into());
        task.delete(&exec).context("Delete of an exec")?;
    }
    if round.is_multiple_of(2) {
        task.pids().context("Pids")?;
    }
    task.kill("", 9).context("Kill")?;
    let exit = task.wait("").context("Wait")?.exit_status;
    ensure!(exit == 137, "it ended with {exit}");
    let answer = task.delete("").context("Delete")?;
    ensure!(answer.exit_status == 137, "Delete answered {answer}");
    match task.state("") {
        Err(why) if why.code() == Some(Code::NOT_FOUND) => Ok(()),
        other => bail!("State after Delete answered {other:?}"),
    }
}

fn storm(fixture: &Fixture) -> Result<()> {
    let (shim, bundle) = host(fixture)?;
    let host = shim.task(&bundle.id);
    let trial = host.exec(&host.exec_request("trial", &process(&shell("exit 0"))));
    unless_unimplemented(trial, "Exec")?;
    host.delete("trial")?;
    let rounds = 4;
    let bundles =
        (0..6 * rounds).map(|_| member(fixture, "exec sleep 100")).collect::<Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    let outcome: Result<()> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (bundles, next, service) = (&bundles, &next, shim.reply.service());
                let own = shim.reconnect();
                let id = bundle.id.as_str();
                scope.spawn(move || -> Result<()> {
                    let connection = own?;
                    let host = Task::new(&connection, service, id);
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(bundle) = bundles.get(index) else { return Ok(()) };
                        client(&host.other(&bundle.id), bundle, &host, index)
                            .with_context(|| format!("container {index}"))?;
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    });
    outcome?;
    let events = fixture.events.borrow();
    for bundle in &bundles {
        ensure!(events.wait_for(SOON, &bundle.id, "delete"), "no delete of {}", bundle.id);
        let words = events.words(&bundle.id);
        let exits = words.iter().filter(|word| *word == "exit").count();
        ensure!(exits == 1, "{exits} exits of {}: {words:?}", bundle.id);
        let at = |word: &str| words.iter().position(|seen| seen == word);
        ensure!(
            at("create") < at("start") && at("start") < at("exit") && at("exit") < at("delete"),
            "the order of {} is {words:?}",
            bundle.id
        );
        for number in 0..3 {
            let at = |word: &str| at(&format!("{word}:e{number}"));
            ensure!(
                at("exec-added") < at("exec-started") && at("exec-started") < at("exit"),
                "the order of {} is {words:?}",
                bundle.id
            );
        }
    }
    drop(events);
    finish(&host)?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn containers(fixture: &Fixture) -> Result<()> {
    let (shim, bundle) = host(fixture)?;
    let bundles = (0..30).map(|_| member(fixture, "exit 2")).collect::<Result<Vec<_>>>()?;
    for chunk in bundles.chunks(5) {
        for bundle in chunk {
            let task = shim.task(&bundle.id);
            task.create(&bundle.create_request())?;
        }
        let started = chunk
            .iter()
            .map(|bundle| {
                let request = StartRequest { id: bundle.id.clone(), ..Default::default() };
                Ok(shim.task(&bundle.id).send("Start", &request)?)
            })
            .collect::<Result<Vec<_>>>()?;
        for pending in started {
            pending.wait::<StartResponse>(SOON).context("Start")?;
        }
        for bundle in chunk {
            let task = shim.task(&bundle.id);
            ensure!(exit_status(&task, "")? == 2);
            task.delete("")?;
        }
    }
    let events = fixture.events.borrow();
    for bundle in &bundles {
        ensure!(events.wait_for(SOON, &bundle.id, "delete"), "no delete of {}", bundle.id);
        let words = events.words(&bundle.id);
        ensure!(words == ["create", "start", "exit", "delete"], "{}: {words:?}", bundle.id);
    }
    drop(events);
    finish(&shim.task(&bundle.id))?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

/// The first of all containers in a namespace, each in a shim of its own: all of them find that the
/// namespace's cgroup is missing.
fn shims(fixture: &Fixture) -> Result<()> {
    let bundles = (0..4).map(|_| fixture.shell("exec sleep 100")).collect::<Result<Vec<_>>>()?;
    let shims = bundles.iter().map(|bundle| fixture.start(bundle)).collect::<Result<Vec<_>>>()?;
    let members: Vec<_> = shims.iter().zip(&bundles).collect();
    let sent = members
        .iter()
        .map(|(shim, bundle)| Ok(shim.task(&bundle.id).send("Create", &bundle.create_request())?))
        .collect::<Result<Vec<_>>>()?;
    for pending in sent {
        // All at once in an emulated machine.
        pending.wait::<CreateTaskResponse>(SOON * 2).context("Create")?;
    }
    for (shim, bundle) in members {
        let task = shim.task(&bundle.id);
        task.start("")?;
        finish(&task)?;
        shim.leave(&bundle.id)?;
    }
    fixture.nothing_left()
}

/// What a shim holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    threads: usize,
    descriptors: usize,
    children: usize,
    resident_kb: usize,
}

impl Holdings {
    fn of(shim: &Shim<'_>) -> Self {
        Self {
            threads: shim.threads(),
            descriptors: shim.descriptors(),
            children: harness::proc::children(shim.pid).len(),
            resident_kb: shim.resident_kb(),
        }
    }

    /// What it holds once threads, descriptors and children have not changed for a while.
    fn steady(shim: &Shim<'_>) -> Self {
        wait::steady(|| {
            let now = Self::of(shim);
            (now.threads, now.descriptors, now.children)
        });
        Self::of(shim)
    }

    /// Waits until a shim holds no more than this, and some memory.
    fn regained(self, shim: &Shim<'_>, slack_threads: usize, slack_kb: usize) -> Result<()> {
        let calm = until(SOON, || {
            let now = Self::of(shim);
            (now.threads <= self.threads + slack_threads
                && now.descriptors <= self.descriptors
                && now.children <= self.children
                && now.resident_kb <= self.resident_kb + slack_kb)
                .then_some(())
        });
        let now = Self::of(shim);
        ensure!(calm.is_some(), "before {self:?}, after {now:?}");
        Ok(())
    }
}

fn growth(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 1000")?;
    let run = |number: usize| -> Result<()> {
        let exec = format!("e{number}");
        if number.is_multiple_of(10) {
            let pipes = fixture.pipes()?;
            life.exec_with(&exec, "echo out", &pipes)?;
        } else {
            life.exec(&exec, "exit 0")?;
        }
        exit_status(&life.task, &exec)?;
        life.task.delete(&exec)?;
        Ok(())
    };
    for number in 0..30 {
        run(number)?;
    }
    let before = Holdings::steady(&life.shim);
    let began = Instant::now();
    for number in 30..30 + fixture.options.execs {
        run(number).with_context(|| format!("exec {number}, after {:?}", began.elapsed()))?;
    }
    // A thread pool may not have been at its full size after thirty.
    before.regained(&life.shim, 3, 3072)?;
    life.end()
}

fn growth_containers(fixture: &Fixture) -> Result<()> {
    let (shim, bundle) = host(fixture)?;
    let run = || -> Result<()> {
        let bundle = member(fixture, "exit 0")?;
        let pipes = fixture.pipes()?;
        let task = shim.task(&bundle.id);
        task.create(&pipes.create(bundle.create_request()))?;
        task.start("")?;
        exit_status(&task, "")?;
        task.delete("")?;
        Ok(())
    };
    for _ in 0..5 {
        run()?;
    }
    let before = Holdings::steady(&shim);
    for _ in 0..30 {
        run()?;
    }
    before.regained(&shim, 3, 3072)?;
    finish(&shim.task(&bundle.id))?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn growth_failures(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 1000")?;
    let missing = process(&["/no/such/command".to_owned()]);
    let run = |number: usize| -> Result<()> {
        let exec = format!("e{number}");
        let pipes = fixture.pipes()?;
        let request = pipes.exec(life.task.exec_request(&exec, &missing));
        unless_unimplemented(life.task.exec(&request), "Exec")?;
        ensure!(life.task.start(&exec).is_err(), "a missing command was started");
        life.task.delete(&exec)?;
        // Refused each in its own way.
        let _ = life.task.other("nobody").delete("");
        let _ = life.task.wait("nobody");
        Ok(())
    };
    for number in 0..5 {
        run(number)?;
    }
    let before = Holdings::steady(&life.shim);
    for number in 5..65 {
        run(number)?;
    }
    before.regained(&life.shim, 3, 3072)?;
    life.end()
}
