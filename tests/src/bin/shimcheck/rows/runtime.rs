//! A runtime binary that hangs, crashes, floods or lies; and how it is called when it does not.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};

use crate::fake_runtime::{CRASH, FakeRuntime};
use crate::fixture::{Fixture, Life, SOON, exit_status, finish, refused};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "runtime-called",
            "the runtime is called with containerd's root, a log, and no NOTIFY_SOCKET",
            "point 8",
            called,
        ),
        row("runtime-root", "the option Root is honoured", "point 8", root),
        row("runtime-systemd", "the option SystemdCgroup reaches the runtime", "point 8", systemd),
        row("runtime-not-forced", "Delete calls the runtime without force", "point 11", not_forced),
        row(
            "runtime-missing",
            "a runtime that is not there fails Create with its name",
            "section 3",
            missing,
        ),
        row(
            "runtime-create-crash",
            "a runtime that crashes in create fails it, and leaves nothing",
            "section 3",
            |fixture| create_fault(fixture, CRASH),
        ),
        row(
            "runtime-create-silent",
            "one that fails without a word fails Create, and leaves nothing",
            "point 9",
            |fixture| create_fault(fixture, "exit 1"),
        ),
        row(
            "runtime-create-garbage",
            "one that writes garbage for a log fails Create, and leaves nothing",
            "point 9",
            |fixture| {
                create_fault(
                    fixture,
                    "head -c 100000 /dev/urandom >\"$log\"; head -c 1000 /dev/urandom; exit 1",
                )
            },
        ),
        row(
            "runtime-create-flood",
            "one that floods its log and output gives a short error",
            "pain 6, point 9",
            flood,
        )
        .within(60),
        row(
            "runtime-create-lies",
            "one that succeeds without a process id fails Create, and leaves nothing",
            "section 3",
            |fixture| create_fault(fixture, "echo nonsense >\"$pidfile\"; exit 0"),
        ),
        row(
            "runtime-message",
            "the last error in the runtime's log is what Create answers",
            "point 9",
            message,
        ),
        row(
            "runtime-stale-message",
            "an error of an earlier call does not pass for a later one's",
            "point 9",
            stale,
        ),
        row(
            "runtime-exec-crash",
            "one that crashes in exec fails that exec alone",
            "pain 3",
            exec_crash,
        ),
        row(
            "runtime-kill-words",
            "its words for a process that is gone make Kill NOT_FOUND",
            "point 10",
            kill_words,
        ),
        row(
            "runtime-delete-fails",
            "one that fails in delete fails Delete, which can be repeated",
            "pain 1",
            delete_fails,
        ),
        row(
            "runtime-delete-gone",
            "one that finds nothing to delete is taken as success",
            "point 11",
            delete_gone,
        ),
        row(
            "runtime-exits-early",
            "a container that ends before create returns is published once, in order",
            "pain 2, points 1-2",
            early,
        ),
    ]
}

/// A container run by the fake; not offered when the shim needs no runtime binary.
pub(super) fn run<'s>(fixture: &'s Fixture, fake: &FakeRuntime, script: &str) -> Result<Life<'s>> {
    let bundle = fake.bundle(fixture, script)?;
    let mut life = fixture.create(bundle)?;
    fake.must_be_used("create")?;
    life.start()?;
    Ok(life)
}

fn called(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exit 0")?;
    let log = bundle.log.as_ref().context("the bundle has a log")?;
    log.follow()?;
    let mut invocation = fixture.invocation(&bundle);
    invocation.environment.push(("NOTIFY_SOCKET".to_owned(), "/run/nobody".to_owned()));
    let shim = fixture.start_with(&invocation)?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request())?;
    fake.must_be_used("create")?;
    task.start("")?;
    exit_status(&task, "")?;
    task.delete("")?;
    shim.leave(&bundle.id)?;
    let calls = fake.calls();
    let create = calls.iter().find(|call| call.starts_with("create:")).context("create")?;
    let root = format!("--root /run/containerd/runc/{}", fixture.token);
    ensure!(create.contains(&root), "it has no {root}: {create}");
    ensure!(create.contains("--log "), "it has no --log: {create}");
    ensure!(create.contains("--log-format json"), "its log is not JSON: {create}");
    ensure!(create.contains(&format!("--bundle {}", bundle.path.display())), "{create}");
    ensure!(create.trim_end().contains(&bundle.id), "{create}");
    for call in &calls {
        ensure!(call.ends_with("NOTIFY_SOCKET=unset"), "the runtime got {call}");
    }
    fixture.nothing_left()
}

fn root(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let mut bundle = fake.bundle(fixture, "exit 0")?;
    let place = fixture.dir.join("root");
    bundle.options.get_or_insert_default().root = place.display().to_string();
    let life = fixture.run_bundle(bundle)?;
    fake.must_be_used("create")?;
    let expected = format!("--root {}/{}", place.display(), fixture.token);
    let calls = fake.calls();
    for call in calls.iter().filter(|call| !call.starts_with(": ") && !call.starts_with("features"))
    {
        ensure!(call.contains(&expected), "it has no {expected}: {call}");
    }
    life.exit_status()?;
    life.end()
}

fn systemd(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let mut bundle = fake.bundle(fixture, "exit 0")?;
    bundle.options.get_or_insert_default().systemd_cgroup = true;
    // There is no systemd here to carry it out: the call is what counts.
    fake.fault("create", "exit 1")?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let _ = task.create(&bundle.create_request());
    fake.must_be_used("create")?;
    let calls = fake.calls();
    let create = calls.iter().find(|call| call.starts_with("create:")).context("create")?;
    ensure!(create.contains("--systemd-cgroup"), "{create}");
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn not_forced(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exit 0")?;
    life.exit_status()?;
    life.task.delete("")?;
    life.shim.leave(&life.bundle.id)?;
    fake.must_be_used("delete")?;
    let calls = fake.calls();
    let delete = calls.iter().find(|call| call.starts_with("delete:")).context("delete")?;
    ensure!(!delete.contains("--force") && !delete.contains(" -f "), "{delete}");
    fixture.nothing_left()
}

fn missing(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let probe = fixture.create(fake.bundle(fixture, "exec sleep 100")?)?;
    fake.must_be_used("create")?;
    probe.end()?;
    let mut bundle = fixture.shell("exit 0")?;
    bundle.options.get_or_insert_default().binary_name = "/no/such/runtime-of-mine".to_owned();
    let Ok(shim) = fixture.start(&bundle) else { return fixture.nothing_left() };
    let task = shim.task(&bundle.id);
    match task.create(&bundle.create_request()) {
        Err(CallError::Refused { message, .. }) => {
            ensure!(message.contains("runtime-of-mine"), "the message is {message}");
        }
        other => bail!("Create answered {other:?}"),
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

/// Create with a fault is refused, nothing is left, and the next one works.
fn create_fault(fixture: &Fixture, fault: &str) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exit 3")?;
    fake.fault("create", fault)?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let answer = task.create(&bundle.create_request());
    fake.must_be_used("create")?;
    match answer {
        Err(CallError::Refused { message, .. }) => {
            ensure!(message.len() < 16 << 10, "the message has {} bytes", message.len());
            ensure!(!message.trim().is_empty(), "the message is empty");
        }
        other => bail!("Create answered {other:?}"),
    }
    refused(task.state(""), Code::NOT_FOUND, "State after it")?;
    fake.mend("create");
    task.create(&bundle.create_request()).context("Create by a runtime that works")?;
    task.start("")?;
    ensure!(exit_status(&task, "")? == 3);
    task.delete("")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn flood(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exit 3")?;
    fake.fault(
        "create",
        "head -c 33554432 /dev/zero | tr '\\0' x >\"$log\"; head -c 33554432 /dev/zero | tr '\\0' y >&2; exit 1",
    )?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let before = shim.resident_kb();
    let answer = task.within(Duration::from_secs(25)).create(&bundle.create_request());
    fake.must_be_used("create")?;
    match answer {
        Err(CallError::Refused { message, .. }) => {
            ensure!(message.len() < 64 << 10, "the message has {} bytes", message.len());
        }
        other => bail!("Create answered {other:?}"),
    }
    let grown = shim.resident_kb().saturating_sub(before);
    ensure!(grown < 24 << 10, "the shim grew by {grown} kB");
    task.state("").err().context("State knows a container that was never created")?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn message(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exit 3")?;
    fake.fault(
        "create",
        "echo '{\"level\":\"error\",\"msg\":\"the first\"}' >>\"$log\"\n\
         echo '{\"level\":\"error\",\"msg\":\"a thing of beauty\"}' >>\"$log\"\n\
         echo '{\"level\":\"warning\",\"msg\":\"not this\"}' >>\"$log\"; exit 1",
    )?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let answer = task.create(&bundle.create_request());
    fake.must_be_used("create")?;
    let Err(CallError::Refused { message, .. }) = answer else {
        bail!("Create answered {answer:?}")
    };
    ensure!(message.contains("a thing of beauty"), "the message is {message:?}");
    ensure!(message.starts_with("OCI runtime create failed: "), "the message is {message:?}");
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn stale(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exec sleep 100")?;
    let exec = |id: &str| -> Result<String> {
        life.task.exec(&life.task.exec_request(id, &process(&shell("exit 0"))))?;
        match life.task.start(id) {
            Err(CallError::Refused { message, .. }) => Ok(message),
            other => bail!("Start answered {other:?}"),
        }
    };
    fake.fault("exec", "echo '{\"level\":\"error\",\"msg\":\"an old story\"}' >>\"$log\"; exit 1")?;
    let first = exec("e1")?;
    ensure!(first.contains("an old story"), "the first message is {first:?}");
    fake.fault("exec", "exit 1")?;
    let second = exec("e2")?;
    ensure!(!second.contains("an old story"), "the second message is {second:?}");
    fake.mend("exec");
    life.end()
}

fn exec_crash(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exec sleep 100")?;
    fake.fault("exec", CRASH)?;
    life.task.exec(&life.task.exec_request("e1", &process(&shell("exit 0"))))?;
    let answer = life.task.start("e1");
    fake.must_be_used("exec")?;
    ensure!(matches!(answer, Err(CallError::Refused { .. })), "Start answered {answer:?}");
    life.task.delete("e1").context("Delete of it")?;
    fake.mend("exec");
    life.exec("e1", "exit 5")?;
    ensure!(exit_status(&life.task, "e1")? == 5);
    life.task.delete("e1")?;
    life.end()
}

fn kill_words(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exec sleep 100")?;
    for words in [
        "os: process already finished",
        "container not running",
        "no such process",
        "does not exist",
    ] {
        fake.fault(
            "kill",
            &format!("echo '{{\"level\":\"error\",\"msg\":\"it says: {words}\"}}' >>\"$log\"; echo 'it says: {words}' >&2; exit 1"),
        )?;
        let answer = life.task.kill("", 1);
        fake.must_be_used("kill")?;
        refused(answer, Code::NOT_FOUND, words)?;
    }
    fake.fault("kill", "echo '{\"level\":\"error\",\"msg\":\"on strike\"}' >>\"$log\"; exit 1")?;
    match life.task.kill("", 1) {
        Err(CallError::Refused { code, .. }) => ensure!(code != Code::NOT_FOUND),
        other => bail!("Kill by a runtime on strike answered {other:?}"),
    }
    fake.mend("kill");
    life.end()
}

fn delete_fails(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exit 6")?;
    life.exit_status()?;
    fake.fault("delete", "echo '{\"level\":\"error\",\"msg\":\"not today\"}' >>\"$log\"; exit 1")?;
    let first = life.task.delete("");
    fake.must_be_used("delete")?;
    fake.mend("delete");
    match first {
        Err(CallError::Refused { message, code }) => {
            ensure!(code != Code::NOT_FOUND && message.contains("not today"), "{code:?} {message}");
            ensure!(life.task.delete("").context("the second Delete")?.exit_status == 6);
        }
        Ok(_) => {}
        Err(why) => bail!("Delete: {why}"),
    }
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn delete_gone(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = run(fixture, &fake, "exit 6")?;
    life.exit_status()?;
    fake.fault(
        "delete",
        "\"$real\" \"$@\"\necho '{\"level\":\"error\",\"msg\":\"container does not exist\"}' >>\"$log\"\n\
         echo 'container does not exist' >&2; exit 1",
    )?;
    let answer = life.task.delete("");
    fake.must_be_used("delete")?;
    ensure!(answer.context("Delete")?.exit_status == 6);
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn early(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exit 8")?;
    // Started by the runtime before it returns, the container is over when Start answers.
    fake.fault("start", "\"$real\" \"$@\"; code=$?; sleep 0.5; exit $code")?;
    let life = fixture.create(bundle)?;
    fake.must_be_used("create")?;
    let answer = life.task.start("");
    fake.must_be_used("start")?;
    ensure!(answer.context("Start")? == life.pid);
    ensure!(life.exit_status()? == 8);
    let id = life.task.id().to_owned();
    life.exec("late", "exit 0").err().context("an exec was started after the exit")?;
    finish(&life.task)?;
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, &id, "delete"), "no delete");
    let mut words = events.words(&id);
    words.retain(|word| !word.starts_with("exec-added"));
    ensure!(words == ["create", "start", "exit", "delete"], "the events are {words:?}");
    drop(events);
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}
