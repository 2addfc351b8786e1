//! A runtime that hangs: the calls that wait for it end, and no other call waits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code, Pending};
use harness::shim::until;
use protos::ttrpc::api::{CreateTaskResponse, Empty, StartRequest, StartResponse, Status};

use super::runtime::run;
use crate::fake_runtime::{FakeRuntime, HANG};
use crate::fixture::{Fixture, Life, SOON, exit_status, finish, timed};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "runtime-create-hang",
            "one that hangs in create hangs neither State nor others, and can be cleaned up",
            "pain 4, pain 11",
            create_hang,
        )
        .within(60),
        row(
            "runtime-start-hang",
            "one that hangs in start hangs no other call",
            "pain 4",
            start_hang,
        )
        .within(60),
        row(
            "runtime-exec-hang",
            "one that hangs in exec hangs neither State nor other execs",
            "pain 3, pain 4",
            exec_hang,
        )
        .within(60),
        row("runtime-kill-hang", "one that hangs in kill hangs no other call", "pain 4", kill_hang)
            .within(60),
        row(
            "runtime-delete-hang",
            "one that hangs in delete hangs no other call, and Delete can be repeated",
            "pain 1, pain 4",
            delete_hang,
        )
        .within(60),
    ]
}

/// Two containers in one shim, the second not created yet.
fn pair<'s>(fixture: &'s Fixture, fake: &FakeRuntime) -> Result<(Life<'s>, harness::shim::Bundle)> {
    let labelled = || -> Result<harness::shim::Bundle> {
        let mut bundle = fixture.shaped("exec sleep 100", |spec| {
            spec["annotations"] =
                serde_json::json!({ "io.containerd.runc.v2.group": fixture.token });
        })?;
        bundle.options.get_or_insert_default().binary_name = fake.path.display().to_string();
        Ok(bundle)
    };
    let (first, second) = (labelled()?, labelled()?);
    let life = fixture.create(first)?;
    fake.must_be_used("create")?;
    life.task.start("")?;
    if fixture.start(&second)?.reply.address != life.shim.reply.address {
        return not_offered("the shim does not group");
    }
    Ok((life, second))
}

fn create_hang(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let (life, second) = pair(fixture, &fake)?;
    fake.fault("create", HANG)?;
    let other = life.task.other(&second.id);
    let hanging = other.send("Create", &second.create_request())?;
    let creates = || fake.calls().iter().filter(|call| call.starts_with("create:")).count();
    ensure!(hangs(&hanging, || creates() > 1), "the runtime was not called again");
    answers(&life)?;
    let (unknown, took) = timed(|| other.within(Duration::from_secs(2)).state(""));
    ensure!(
        !matches!(unknown, Err(CallError::Silent(_))),
        "State of the one being created: no answer in {took:?}"
    );
    ensure!(hanging.is_silent_for(Duration::from_millis(1)), "Create answered while it hung");
    // As a daemon whose Create has timed out.
    fake.mend("create");
    end_hung(fixture, &fake)?;
    let _: Result<CreateTaskResponse, CallError> = hanging.wait(SOON);
    fixture.invocation(&second).delete()?;
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

/// Ends the runtime that hangs. It has said that it was called, and may not hang quite yet.
fn end_hung(fixture: &Fixture, fake: &FakeRuntime) -> Result<()> {
    let sleep = fake.path.with_file_name("sleep").display().to_string();
    until(SOON, || {
        let hung = harness::leak::processes(&fixture.scope()).into_iter().filter_map(|trace| {
            let harness::leak::Trace::Process { pid, what } = trace else { return None };
            what.contains(&sleep).then(|| nix::unistd::Pid::from_raw(pid))
        });
        let ended = hung.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL));
        // All of them, so not by `any`.
        (ended.filter(Result::is_ok).count() > 0).then_some(())
    })
    .context("no runtime hangs")
}

/// Waits until the runtime was called, with which a call hangs, or until the call was answered without
/// it; whether it was called.
pub(super) fn hangs(call: &Pending, called: impl Fn() -> bool) -> bool {
    until(SOON, || (called() || !call.is_silent_for(Duration::ZERO)).then_some(()));
    called()
}

/// Calls that must be answered while another one hangs.
fn answers(life: &Life<'_>) -> Result<()> {
    for _ in 0..5 {
        let brief = life.task.within(Duration::from_secs(2));
        ensure!(brief.state("").context("State of another")?.status == Status::RUNNING.into());
        brief.connect().context("Connect of another")?;
        brief.other("nobody").connect().context("Connect of an unknown one")?;
    }
    Ok(())
}

fn start_hang(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let (life, second) = pair(fixture, &fake)?;
    let other = life.task.other(&second.id);
    other.create(&second.create_request())?;
    fake.fault("start", HANG)?;
    let request = StartRequest { id: second.id.clone(), ..Default::default() };
    let hanging = other.send("Start", &request)?;
    let called = || fake.calls().iter().filter(|call| call.starts_with("start:")).count() > 1;
    if !hangs(&hanging, called) {
        let _: Result<StartResponse, CallError> = hanging.wait(SOON);
        finish(&other)?;
        finish(&life.task)?;
        life.shim.leave(&life.bundle.id)?;
        return not_offered("the shim runs no runtime binary for start");
    }
    answers(&life)?;
    let (state, took) = timed(|| other.within(Duration::from_secs(2)).state(""));
    let verdict =
        state.map(|_| ()).with_context(|| format!("State of the one that hangs, {took:?}"));
    fake.mend("start");
    end_hung(fixture, &fake)?;
    let _: Result<StartResponse, CallError> = hanging.wait(SOON);
    finish(&other)?;
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()?;
    verdict
}

fn exec_hang(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exec sleep 100")?;
    fake.fault("exec", HANG)?;
    life.task.exec(&life.task.exec_request("e1", &process(&shell("exit 0"))))?;
    let request = StartRequest {
        id: life.task.id().to_owned(),
        exec_id: "e1".to_owned(),
        ..Default::default()
    };
    let hanging = life.task.send("Start", &request)?;
    if !hangs(&hanging, || fake.must_be_used("exec").is_ok()) {
        return fake.must_be_used("exec");
    }
    answers(&life)?;
    fake.mend("exec");
    life.task.exec(&life.task.exec_request("e2", &process(&shell("exit 5"))))?;
    life.task.within(SOON).start("e2").context("Start of another exec meanwhile")?;
    ensure!(exit_status(&life.task, "e2")? == 5);
    end_hung(fixture, &fake)?;
    let answer: Result<StartResponse, CallError> = hanging.wait(SOON);
    ensure!(
        matches!(answer, Err(CallError::Refused { .. })),
        "when the runtime was killed, Start answered {answer:?}"
    );
    life.end()
}

fn kill_hang(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let (life, second) = pair(fixture, &fake)?;
    let other = life.task.other(&second.id);
    other.create(&second.create_request())?;
    other.start("")?;
    fake.fault("kill", HANG)?;
    let hanging = other.send("Kill", &other.kill_request("", 9))?;
    if hangs(&hanging, || fake.must_be_used("kill").is_ok()) {
        answers(&life)?;
        fake.mend("kill");
        end_hung(fixture, &fake)?;
    }
    let _: Result<Empty, CallError> = hanging.wait(SOON);
    fake.mend("kill");
    finish(&other)?;
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()?;
    fake.must_be_used("kill")
}

fn delete_hang(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let (life, second) = pair(fixture, &fake)?;
    let other = life.task.other(&second.id);
    other.create(&second.create_request())?;
    other.start("")?;
    other.kill("", 9)?;
    exit_status(&other, "")?;
    fake.fault("delete", HANG)?;
    let hanging = other.send("Delete", &other.delete_request(""))?;
    if !hangs(&hanging, || fake.must_be_used("delete").is_ok()) {
        return fake.must_be_used("delete");
    }
    answers(&life)?;
    fake.mend("delete");
    end_hung(fixture, &fake)?;
    let _: Result<protos::ttrpc::api::DeleteResponse, CallError> = hanging.wait(SOON);
    match other.within(SOON).delete("") {
        Ok(answer) => ensure!(answer.exit_status == 137, "{answer}"),
        Err(why) => ensure!(why.code() == Some(Code::NOT_FOUND), "the second Delete: {why}"),
    }
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}
