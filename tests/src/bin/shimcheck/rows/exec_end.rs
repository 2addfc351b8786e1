//! How execs and the end of init go together.

use anyhow::{Result, ensure};
use harness::leak;
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::Code;
use harness::shim::until;
use serde_json::json;

use super::exec::sleeping;
use crate::fixture::{
    Fixture, SOON, exit_status, finish, refused, unless_unimplemented, until_told,
};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "exec-after-exit",
            "Start of an exec after init's exit is FAILED_PRECONDITION",
            "§1.4, point 4",
            after_exit,
        ),
        row(
            "exec-missing-then-exit",
            "an exec that failed to start does not hold back init's exit",
            "point 4",
            missing_then_exit,
        ),
        row(
            "exec-outlived",
            "execs that outlive init end with it, before its exit is published",
            "point 4, §1.5",
            outlived,
        ),
        row(
            "exec-shared-pidns",
            "without a pid namespace of its own, init's exit ends the rest",
            "point 4",
            shared_pidns,
        ),
        row(
            "exec-shared-order",
            "without a pid namespace, too, init's exit is published last",
            "§1.5, point 4",
            shared_order,
        ),
        row(
            "exec-orphan",
            "orphans of execs are reaped, and no other process is affected",
            "pain 2",
            orphans,
        ),
    ]
}

fn after_exit(fixture: &Fixture) -> Result<()> {
    let life = fixture.run(&until_told(0))?;
    let request = life.task.exec_request("e1", &process(&shell("exit 0")));
    unless_unimplemented(life.task.exec(&request), "Exec")?;
    life.tell()?;
    life.exit_status()?;
    refused(
        life.task.start("e1"),
        Code::FAILED_PRECONDITION,
        "Start of an exec after init's exit",
    )?;
    let late = life.task.exec(&life.task.exec_request("e2", &process(&shell("exit 0"))));
    if late.is_ok() {
        ensure!(life.task.start("e2").is_err(), "an exec was started in an ended container");
    }
    life.end()
}

fn missing_then_exit(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    let spec = process(&["/no/such/command".to_owned()]);
    for exec in ["e1", "e2", "e3"] {
        unless_unimplemented(life.task.exec(&life.task.exec_request(exec, &spec)), "Exec")?;
        ensure!(life.task.start(exec).is_err(), "a missing command was started");
    }
    life.task.kill("", 9)?;
    ensure!(life.exit_status()? == 137);
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, life.task.id(), "exit"), "init's exit was never told");
    drop(events);
    life.end()
}

fn outlived(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    super::task::contained(&life)?;
    for exec in ["e1", "e2", "e3"] {
        life.exec(exec, "exec sleep 100")?;
    }
    life.task.kill("", 9)?;
    ensure!(life.exit_status()? == 137);
    let events = fixture.events.borrow();
    let id = life.task.id();
    for word in ["exit", "exit:e1", "exit:e2", "exit:e3"] {
        ensure!(events.wait_for(SOON, id, word), "no event {word}: {:?}", events.words(id));
    }
    let words = events.words(id);
    let exits: Vec<_> = words.iter().filter(|word| word.starts_with("exit")).collect();
    ensure!(exits.last().is_some_and(|last| *last == "exit"), "the order is {exits:?}");
    drop(events);
    for exec in ["e1", "e2", "e3"] {
        ensure!(exit_status(&life.task, exec)? == 137);
        life.task.delete(exec)?;
    }
    life.end()
}

fn shared_pidns(fixture: &Fixture) -> Result<()> {
    let script = format!("sleep 105 & setsid sleep 106 & {}", until_told(11));
    let bundle = fixture.shaped(&script, |spec| {
        spec["linux"]["namespaces"] =
            json!([{ "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }]);
    })?;
    let mut life = fixture.create(bundle)?;
    super::task::contained(&life)?;
    life.start()?;
    life.exec("e1", "exec sleep 107")?;
    let answer = life.task.pids()?;
    let pids: Vec<i32> =
        answer.processes.iter().filter_map(|process| i32::try_from(process.pid).ok()).collect();
    life.tell()?;
    ensure!(life.exit_status()? == 11);
    for pid in pids {
        let gone = until(SOON, || matches!(leak::state(pid), None | Some('Z' | 'X')).then_some(()));
        ensure!(gone.is_some(), "process {pid} ({}) lives on", leak::command_line(pid));
    }
    ensure!(exit_status(&life.task, "e1")? == 137);
    life.task.delete("e1")?;
    life.end()
}

fn shared_order(fixture: &Fixture) -> Result<()> {
    for _ in 0..3 {
        let bundle = fixture.shaped(&until_told(11), |spec| {
            spec["linux"]["namespaces"] =
                json!([{ "type": "ipc" }, { "type": "uts" }, { "type": "mount" }]);
        })?;
        let life = fixture.run_bundle(bundle)?;
        super::task::contained(&life)?;
        for exec in ["e1", "e2", "e3"] {
            life.exec(exec, "exec sleep 107")?;
        }
        life.tell()?;
        ensure!(life.exit_status()? == 11);
        let id = life.task.id().to_owned();
        let events = fixture.events.borrow();
        for word in ["exit", "exit:e1", "exit:e2", "exit:e3"] {
            ensure!(events.wait_for(SOON, &id, word), "no event {word}: {:?}", events.words(&id));
        }
        let words = events.words(&id);
        drop(events);
        let exits: Vec<_> = words.iter().filter(|word| word.starts_with("exit")).collect();
        ensure!(exits.last().is_some_and(|last| *last == "exit"), "the order is {exits:?}");
        life.end()?;
    }
    Ok(())
}

fn orphans(fixture: &Fixture) -> Result<()> {
    let life = sleeping(fixture)?;
    for number in 0..5 {
        let exec = format!("e{number}");
        life.exec(&exec, "for i in 1 2 3 4 5; do (sleep 0.2 &) ; done; exit 0")?;
        exit_status(&life.task, &exec)?;
        life.task.delete(&exec)?;
    }
    let clean = until(SOON, || (life.shim.zombies() == 0).then_some(()));
    ensure!(clean.is_some(), "the shim has {} zombies", life.shim.zombies());
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}
