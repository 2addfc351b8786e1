//! Events: what they say, their order, and an endpoint that is slow, silent, or gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::shim::events::{Event, Manner};
use harness::shim::until;
use harness::wait;

use crate::fixture::{Fixture, SOON, exit_status, finish, timed};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "events-life",
            "create, start, exit, delete: each once, in this order, with their fields",
            "§1.5",
            life,
        ),
        row(
            "events-exec",
            "an exec is published as added, started and exited, in this order",
            "§1.5, point 7",
            exec,
        ),
        row(
            "events-envelope",
            "each carries its namespace and the topic of its kind",
            "§1.5",
            envelope,
        ),
        row(
            "events-exit-once",
            "a short container's exit is published once, and never before its start",
            "pain 2, pain 9, points 1-2",
            once,
        ),
        row(
            "events-down",
            "with the endpoint down, calls are as quick, and everything comes later, in order",
            "pain 19",
            down,
        )
        .within(90),
        row(
            "events-long-down",
            "half a minute without an endpoint loses nothing",
            "pain 19",
            long_down,
        )
        .within(120),
        row(
            "events-slow",
            "a slow endpoint slows no call down and keeps the order",
            "§1.5, pain 19",
            slow,
        )
        .within(90),
        row(
            "events-silent",
            "an endpoint that never answers hangs no call; later ones still come",
            "§1.5, pain 19",
            silent,
        )
        .within(90),
        row(
            "events-hang-up",
            "connections that are cut are made again, and nothing is lost",
            "§1.5, pain 19",
            hang_up,
        ),
        row(
            "events-drained",
            "a shim delivers its last events before it leaves on Shutdown",
            "point 25, §1.5",
            drained,
        )
        .within(60),
        row(
            "events-drain-bounded",
            "a dead endpoint does not keep a shim from leaving",
            "point 25, pain 16",
            drain_bounded,
        )
        .within(60),
    ]
}

fn life(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 31")?;
    life.exit_status()?;
    life.task.delete("")?;
    let id = life.task.id().to_owned();
    {
        let events = fixture.events.borrow();
        ensure!(events.wait_for(SOON, &id, "delete"), "no delete: {:?}", events.words(&id));
        // From here on no process is there that could publish one more.
        life.shim.leave(&life.bundle.id)?;
        let words = events.words(&id);
        ensure!(words == ["create", "start", "exit", "delete"], "the events are {words:?}");
        for event in events.of(&id) {
            match event {
                Event::Create(event) => {
                    ensure!(event.pid == life.created_pid, "create: pid {}", event.pid);
                    ensure!(
                        event.bundle == life.bundle.path.display().to_string(),
                        "create: bundle {:?}",
                        event.bundle
                    );
                    ensure!(
                        event.rootfs.len() == life.bundle.rootfs.len(),
                        "create: rootfs {:?}",
                        event.rootfs
                    );
                    ensure!(event.io.is_some(), "create: no io");
                }
                Event::Start(event) => ensure!(event.pid == life.pid, "start: pid {}", event.pid),
                Event::Exit(event) => {
                    ensure!(event.pid == life.pid, "exit: pid {}", event.pid);
                    ensure!(event.exit_status == 31, "exit: status {}", event.exit_status);
                    ensure!(event.exited_at.seconds > 1_600_000_000, "exit: no time");
                    ensure!(event.id == id, "exit: id {:?}", event.id);
                }
                Event::Delete(event) => {
                    ensure!(event.pid == life.pid, "delete: pid {}", event.pid);
                    ensure!(event.exit_status == 31, "delete: status {}", event.exit_status);
                    ensure!(event.exited_at.seconds > 1_600_000_000, "delete: no time");
                }
                _ => {}
            }
        }
    }
    fixture.nothing_left()
}

fn exec(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let pid = life.exec("e1", "exit 32")?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    let id = life.task.id();
    {
        let events = fixture.events.borrow();
        ensure!(events.wait_for(SOON, id, "exit:e1"), "no exit: {:?}", events.words(id));
        // One more event of the exec would come before those of init's end.
        finish(&life.task)?;
        ensure!(events.wait_for(SOON, id, "delete"), "no delete: {:?}", events.words(id));
        let mut words = events.words(id);
        // An exec's Delete may be told, as long as it names the exec.
        words.retain(|word| word != "delete:e1");
        ensure!(
            words
                == [
                    "create",
                    "start",
                    "exec-added:e1",
                    "exec-started:e1",
                    "exit:e1",
                    "exit",
                    "delete"
                ],
            "the events are {words:?}"
        );
        for event in events.of(id) {
            match event {
                Event::ExecStarted(event) => ensure!(event.pid == pid, "pid {}", event.pid),
                Event::Exit(event) if event.id != event.container_id => {
                    ensure!(event.pid == pid && event.exit_status == 32, "exit: {event}");
                }
                _ => {}
            }
        }
    }
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn envelope(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    life.exec("e1", "exit 0")?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    let id = life.task.id().to_owned();
    life.end()?;
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, &id, "delete"), "no delete");
    for seen in events.seen() {
        let topic = match &seen.event {
            Event::Create(_) => "/tasks/create",
            Event::Start(_) => "/tasks/start",
            Event::Exit(_) => "/tasks/exit",
            Event::Delete(_) => "/tasks/delete",
            Event::ExecAdded(_) => "/tasks/exec-added",
            Event::ExecStarted(_) => "/tasks/exec-started",
            other => anyhow::bail!("an unexpected event: {other:?}"),
        };
        ensure!(seen.topic == topic, "{} has the topic {}", seen.event, seen.topic);
        ensure!(seen.namespace == fixture.token, "{} has namespace {}", seen.event, seen.namespace);
    }
    Ok(())
}

fn once(fixture: &Fixture) -> Result<()> {
    let mut ids = Vec::new();
    for _ in 0..15 {
        let life = fixture.run("exit 0")?;
        ids.push(life.task.id().to_owned());
        life.exit_status()?;
        life.task.delete("")?;
        life.shim.leave(&life.bundle.id)?;
    }
    let events = fixture.events.borrow();
    for id in &ids {
        events.wait_for(SOON, id, "delete");
        let words = events.words(id);
        ensure!(words == ["create", "start", "exit", "delete"], "{id}: {words:?}");
    }
    drop(events);
    fixture.nothing_left()
}

/// The life of a container and of three execs; its id, and the events in the order that it must be.
fn eventful(fixture: &Fixture) -> Result<(crate::fixture::Life<'_>, Vec<String>, Duration)> {
    let mut expected: Vec<String> = ["create", "start"].map(str::to_owned).to_vec();
    let mut slowest = Duration::ZERO;
    let mut measure = |took: Duration| slowest = slowest.max(took);
    let bundle = fixture.shell("exec sleep 100")?;
    let request = bundle.create_request();
    let mut life = fixture.create_with(bundle, &request)?;
    let (started, took) = timed(|| life.start());
    started?;
    measure(took);
    for number in 0..3 {
        let exec = format!("e{number}");
        let (started, took) = timed(|| life.exec(&exec, "exit 0"));
        started?;
        measure(took);
        exit_status(&life.task, &exec)?;
        life.task.delete(&exec)?;
        for word in ["exec-added", "exec-started", "exit"] {
            expected.push(format!("{word}:{exec}"));
        }
    }
    let (answer, took) = timed(|| life.task.state(""));
    answer?;
    measure(took);
    Ok((life, expected, slowest))
}

/// What was told, without an exec's Delete, which some tell and some do not.
fn told(fixture: &Fixture, id: &str) -> Vec<String> {
    let mut words = fixture.events.borrow().words(id);
    words.retain(|word| !word.starts_with("delete:"));
    words
}

fn expect(fixture: &Fixture, id: &str, expected: &[String], limit: Duration) -> Result<()> {
    until(limit, || (told(fixture, id).len() >= expected.len()).then_some(()));
    let words = told(fixture, id);
    ensure!(words == expected, "told {words:?}, expected {expected:?}");
    Ok(())
}

fn down(fixture: &Fixture) -> Result<()> {
    fixture.events.borrow_mut().down();
    let (life, expected, slowest) = eventful(fixture)?;
    ensure!(slowest < Duration::from_secs(3), "a call took {slowest:?} with the endpoint down");
    wait::pass(Duration::from_secs(3));
    fixture.events.borrow_mut().up()?;
    expect(fixture, life.task.id(), &expected, Duration::from_secs(40))?;
    life.end()
}

fn long_down(fixture: &Fixture) -> Result<()> {
    fixture.events.borrow_mut().down();
    let (life, expected, _) = eventful(fixture)?;
    wait::pass(Duration::from_secs(30));
    fixture.events.borrow_mut().up()?;
    expect(fixture, life.task.id(), &expected, Duration::from_secs(40))?;
    life.end()
}

fn slow(fixture: &Fixture) -> Result<()> {
    fixture.events.borrow().answer(Manner::Slow(Duration::from_millis(400)));
    let (life, expected, slowest) = eventful(fixture)?;
    ensure!(slowest < Duration::from_secs(3), "a call took {slowest:?} with a slow endpoint");
    expect(fixture, life.task.id(), &expected, Duration::from_secs(40))?;
    fixture.events.borrow().answer(Manner::Prompt);
    life.end()
}

fn silent(fixture: &Fixture) -> Result<()> {
    fixture.events.borrow().answer(Manner::Silent);
    let (life, _, slowest) = eventful(fixture)?;
    ensure!(slowest < Duration::from_secs(3), "a call took {slowest:?} with a silent endpoint");
    fixture.events.borrow().answer(Manner::Prompt);
    let id = life.task.id().to_owned();
    life.exec("late", "exit 0")?;
    exit_status(&life.task, "late")?;
    life.task.delete("late")?;
    let events = fixture.events.borrow();
    ensure!(
        events.wait_for(Duration::from_secs(50), &id, "exit:late"),
        "what came after it: {:?}",
        events.words(&id)
    );
    drop(events);
    life.end()
}

fn hang_up(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let mut expected: Vec<String> = ["create", "start"].map(str::to_owned).to_vec();
    let id = life.task.id().to_owned();
    expect(fixture, &id, &expected, SOON)?;
    for number in 0..4 {
        fixture.events.borrow().hang_up();
        let exec = format!("e{number}");
        life.exec(&exec, "exit 0")?;
        exit_status(&life.task, &exec)?;
        life.task.delete(&exec)?;
        for word in ["exec-added", "exec-started", "exit"] {
            expected.push(format!("{word}:{exec}"));
        }
    }
    // An event whose answer was cut off is sent again: at least once is what can be had.
    let once = || {
        let mut words = told(fixture, &id);
        words.dedup();
        words
    };
    until(Duration::from_secs(20), || (once().len() >= expected.len()).then_some(()));
    ensure!(once() == expected, "told {:?}, expected {expected:?}", told(fixture, &id));
    life.end()
}

fn drained(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 33")?;
    life.exit_status()?;
    let id = life.task.id().to_owned();
    fixture.events.borrow().answer(Manner::Slow(Duration::from_millis(600)));
    life.task.delete("")?;
    let (left, took) = timed(|| life.shim.leave(&life.bundle.id));
    left?;
    let events = fixture.events.borrow();
    events.wait_for(Duration::from_secs(2), &id, "delete");
    let words = events.words(&id);
    ensure!(
        words == ["create", "start", "exit", "delete"],
        "the shim left after {took:?}, and told {words:?}"
    );
    drop(events);
    fixture.nothing_left()
}

fn drain_bounded(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    life.exit_status()?;
    fixture.events.borrow().answer(Manner::Silent);
    finish(&life.task).or_else(|_| life.task.delete("").map(|_| ()).context("Delete"))?;
    let (left, took) = timed(|| life.shim.leave(&life.bundle.id));
    left?;
    ensure!(took < Duration::from_secs(8), "it took {took:?} to leave");
    fixture.nothing_left()
}
