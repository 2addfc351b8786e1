//! A shim that is killed, and the `delete` that follows; and a `delete` at any other time.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::leak;
use harness::shim::ttrpc::CallError;
use harness::shim::{Bundle, until};
use harness::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protos::ttrpc::api::DeleteResponse;
use protos::ttrpc::protobuf::Message;

use super::runtime_hangs::hangs;
use super::task::contained;
use crate::fake_runtime::FakeRuntime;
use crate::fixture::{Fixture, Life, SOON, Shim, finish, timed, unless_unimplemented};
use crate::row::{Row, row};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "crash-started",
            "killed before any Create, delete succeeds and leaves nothing",
            "§1.5",
            started,
        ),
        row(
            "crash-created",
            "killed with a created container, delete removes it",
            "§1.5",
            |fixture| {
                let life = fixture.create(fixture.shell("exec sleep 100")?)?;
                killed(&life, 137)
            },
        ),
        row(
            "crash-running",
            "killed with a running container, delete ends and removes it: 137",
            "§1.5, pain 18",
            |fixture| {
                let life = fixture.run("exec sleep 100")?;
                killed(&life, 137)
            },
        ),
        row("crash-exec", "killed with execs running, delete ends them all", "§1.5", |fixture| {
            let life = fixture.run("exec sleep 100")?;
            life.exec("e1", "exec sleep 101")?;
            life.exec("e2", "exec sleep 102")?;
            killed(&life, 137)
        }),
        row(
            "crash-descendants",
            "killed with what init and execs have started, delete ends that too",
            "§1.5",
            |fixture| {
                let life = fixture.run("sleep 101 & exec sleep 100")?;
                contained(&life)?;
                life.exec("e1", "setsid sleep 102")?;
                killed(&life, 137)
            },
        ),
        row(
            "crash-paused",
            "killed with a paused container, delete ends it all the same",
            "§1.5, point 18",
            |fixture| {
                let life = fixture.run("exec sleep 100")?;
                unless_unimplemented(life.task.pause(), "Pause")?;
                killed(&life, 137)
            },
        ),
        row(
            "crash-stopped",
            "killed after the exit, delete removes what is left",
            "§1.5",
            |fixture| {
                let life = fixture.run("exit 42")?;
                life.exit_status()?;
                let answer = crashed(&life.shim, &life.bundle)?;
                ensure!(matches!(answer.exit_status, 42 | 137), "{answer}");
                fixture.nothing_but_sockets_left()
            },
        ),
        row(
            "crash-exit-kept",
            "an exit that was told before the crash is what delete answers",
            "pain 9, §1.1",
            exit_kept,
        ),
        row(
            "crash-deleted",
            "killed between Delete and Shutdown, delete has nothing to do and says so",
            "§1.5",
            deleted,
        ),
        row("crash-socket", "delete removes the dead shim's socket", "point 26", socket),
        row(
            "crash-start-again",
            "after a crash and delete, the same id starts and runs again",
            "§1.5",
            again,
        ),
        row(
            "crash-mid-create",
            "killed at any moment of Create, delete leaves nothing",
            "§1.5, pain 16",
            mid_create,
        )
        .within(90),
        row(
            "crash-mid-start",
            "killed at any moment of Start, delete leaves nothing",
            "§1.5",
            mid_start,
        )
        .within(90),
        row(
            "crash-mid-exec",
            "killed at any moment of an exec's Start, delete leaves nothing",
            "§1.5",
            mid_exec,
        )
        .within(90),
        row(
            "crash-mid-delete",
            "killed at any moment of Delete, delete leaves nothing",
            "§1.5",
            mid_delete,
        )
        .within(90),
        row(
            "crash-runtime-dies",
            "a runtime that runs when its shim is killed dies with it",
            "point 8",
            runtime_dies,
        )
        .within(60),
        row(
            "crash-group",
            "killed with two containers, each delete removes its own",
            "§1.2",
            group,
        ),
        row("delete-quiet", "delete writes its response and nothing else to stdout", "§1.5", quiet),
        row("delete-repeated", "delete can be repeated", "pain 1", repeated),
        row(
            "delete-never-started",
            "delete without a shim or a container ends soon",
            "§1.5",
            never_started,
        ),
        row(
            "delete-beside-shim",
            "delete while the shim lives ends the container, and the shim notices",
            "§1.5, pain 11",
            beside,
        ),
        row(
            "delete-sigterm",
            "SIGTERM and SIGINT do not keep delete from finishing",
            "§1.5",
            delete_sigterm,
        ),
        row(
            "delete-no-bundle",
            "delete finds what it needs when only the directory is left",
            "point 26",
            emptied,
        ),
    ]
}

/// Kills the shim, and has it cleaned up as a daemon does.
fn crashed(shim: &Shim<'_>, bundle: &Bundle) -> Result<DeleteResponse> {
    shim.signal(Signal::SIGKILL)?;
    shim.gone(SOON)?;
    let (answer, took) = timed(|| shim.fixture.invocation(bundle).delete());
    let answer = answer?;
    ensure!(took < Duration::from_secs(5), "delete took {took:?}");
    Ok(answer)
}

fn killed(life: &Life<'_>, status: u32) -> Result<()> {
    let answer = crashed(&life.shim, &life.bundle)?;
    ensure!(answer.exit_status == status, "delete answered {answer}");
    ensure!(answer.exited_at.seconds > 1_600_000_000, "delete tells no time: {answer}");
    life.shim.fixture.nothing_but_sockets_left()
}

fn started(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    crashed(&shim, &bundle)?;
    fixture.nothing_but_sockets_left()
}

fn exit_kept(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 42")?;
    let told = life.task.within(SOON).wait("")?;
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, life.task.id(), "exit"), "the exit was not published");
    drop(events);
    let answer = crashed(&life.shim, &life.bundle)?;
    ensure!(answer.exit_status == 42, "Wait said 42, delete says {}", answer.exit_status);
    ensure!(answer.pid == life.pid, "the process was {}, delete says {}", life.pid, answer.pid);
    let apart = answer.exited_at.seconds.abs_diff(told.exited_at.seconds);
    ensure!(apart <= 1, "Wait said {:?}, delete {:?}", told.exited_at, answer.exited_at);
    fixture.nothing_but_sockets_left()
}

fn deleted(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    finish(&life.task)?;
    crashed(&life.shim, &life.bundle)?;
    fixture.nothing_but_sockets_left()
}

fn socket(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    crashed(&life.shim, &life.bundle)?;
    let socket = life.shim.socket();
    ensure!(!socket.exists(), "{} is still there", socket.display());
    fixture.nothing_left()
}

fn again(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    crashed(&life.shim, &life.bundle)?;
    let shim = fixture.start(&life.bundle).context("start again")?;
    let task = shim.task(&life.bundle.id);
    task.create(&life.bundle.create_request()).context("Create again")?;
    task.start("")?;
    finish(&task)?;
    shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

/// The moments at which a call is cut short.
const MOMENTS: [u64; 8] = [0, 2, 5, 10, 18, 28, 40, 60];

fn mid_create(fixture: &Fixture) -> Result<()> {
    for moment in MOMENTS {
        let bundle = fixture.shell("exec sleep 100")?;
        let shim = fixture.start(&bundle)?;
        let task = shim.task(&bundle.id);
        let _creating = task.send("Create", &bundle.create_request())?;
        wait::pass(Duration::from_millis(moment));
        crashed(&shim, &bundle).with_context(|| format!("{moment} ms into Create"))?;
        fixture.nothing_but_sockets_left().with_context(|| format!("{moment} ms into Create"))?;
    }
    Ok(())
}

fn mid_start(fixture: &Fixture) -> Result<()> {
    for moment in MOMENTS {
        let life = fixture.create(fixture.shell("exec sleep 100")?)?;
        let request = protos::ttrpc::api::StartRequest {
            id: life.task.id().to_owned(),
            ..Default::default()
        };
        let _starting = life.task.send("Start", &request)?;
        wait::pass(Duration::from_millis(moment / 3));
        crashed(&life.shim, &life.bundle)?;
        fixture
            .nothing_but_sockets_left()
            .with_context(|| format!("{} ms into Start", moment / 3))?;
    }
    Ok(())
}

fn mid_exec(fixture: &Fixture) -> Result<()> {
    for moment in MOMENTS {
        let life = fixture.run("exec sleep 100")?;
        let process = harness::shim::bundle::process(&harness::shim::bundle::shell("exec sleep 9"));
        unless_unimplemented(life.task.exec(&life.task.exec_request("e1", &process)), "Exec")?;
        let request = protos::ttrpc::api::StartRequest {
            id: life.task.id().to_owned(),
            exec_id: "e1".to_owned(),
            ..Default::default()
        };
        let _starting = life.task.send("Start", &request)?;
        wait::pass(Duration::from_millis(moment));
        crashed(&life.shim, &life.bundle)?;
        fixture.nothing_but_sockets_left().with_context(|| format!("{moment} ms into an exec"))?;
    }
    Ok(())
}

fn mid_delete(fixture: &Fixture) -> Result<()> {
    for moment in MOMENTS {
        let life = fixture.run("exit 0")?;
        life.exit_status()?;
        let _deleting = life.task.send("Delete", &life.task.delete_request(""))?;
        wait::pass(Duration::from_millis(moment / 3));
        crashed(&life.shim, &life.bundle)?;
        fixture
            .nothing_but_sockets_left()
            .with_context(|| format!("{} ms into Delete", moment / 3))?;
    }
    Ok(())
}

fn runtime_dies(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let bundle = fake.bundle(fixture, "exec sleep 100")?;
    fake.fault("create", crate::fake_runtime::HANG)?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let creating = task.send("Create", &bundle.create_request())?;
    if !hangs(&creating, || fake.must_be_used("create").is_ok()) {
        let _: Result<protos::ttrpc::api::CreateTaskResponse, CallError> = creating.wait(SOON);
        finish(&task)?;
        shim.leave(&bundle.id)?;
        return fake.must_be_used("create");
    }
    wait::pass(Duration::from_millis(100));
    crashed(&shim, &bundle)?;
    let mut left = Vec::new();
    // It has been killed, and may not have been given the time to die.
    until(SOON, || {
        left = leak::processes(&fixture.scope());
        left.retain(|trace| matches!(trace, leak::Trace::Process { what, .. } if what.contains("fake/sleep")));
        left.is_empty().then_some(())
    });
    ensure!(left.is_empty(), "the runtime lives on:\n{}", leak::list(&left));
    fixture.nothing_but_sockets_left()
}

fn group(fixture: &Fixture) -> Result<()> {
    let labelled = || {
        fixture.shaped("exec sleep 100", |spec| {
            spec["annotations"] =
                serde_json::json!({ "io.containerd.runc.v2.group": fixture.token });
        })
    };
    let (first, second) = (labelled()?, labelled()?);
    let shim = fixture.start(&first)?;
    if fixture.start(&second)?.reply.address != shim.reply.address {
        return crate::verdict::not_offered("the shim does not group");
    }
    for bundle in [&first, &second] {
        let task = shim.task(&bundle.id);
        task.create(&bundle.create_request())?;
        task.start("")?;
    }
    shim.signal(Signal::SIGKILL)?;
    shim.gone(SOON)?;
    for bundle in [&second, &first] {
        let answer = fixture.invocation(bundle).delete()?;
        ensure!(answer.exit_status == 137, "{answer}");
    }
    fixture.nothing_but_sockets_left()
}

fn quiet(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    life.shim.signal(Signal::SIGKILL)?;
    life.shim.gone(SOON)?;
    let mut invocation = fixture.invocation(&life.bundle);
    invocation.debug = true;
    let output = invocation.delete_raw()?;
    ensure!(output.status.success(), "delete: {}: {}", output.status, output.complaint());
    let answer = DeleteResponse::parse_from_bytes(&output.out).context("read the response")?;
    let exact = answer.write_to_bytes()?;
    ensure!(
        answer.special_fields.unknown_fields().iter().next().is_none() && exact == output.out,
        "stdout is {:?}",
        String::from_utf8_lossy(&output.out)
    );
    fixture.nothing_but_sockets_left()
}

fn repeated(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let first = crashed(&life.shim, &life.bundle)?;
    let second = fixture.invocation(&life.bundle).delete().context("the second delete")?;
    ensure!(second.exit_status == first.exit_status, "first {first}, then {second}");
    fixture.nothing_but_sockets_left()
}

fn never_started(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let (output, took) = timed(|| fixture.invocation(&bundle).delete_raw());
    let output = output?;
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    ensure!(output.status.success() || !output.combined().is_empty(), "it failed without a word");
    fixture.nothing_left()
}

fn beside(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let waiting = life.task.send("Wait", &life.task.wait_request(""))?;
    let answer = fixture.invocation(&life.bundle).delete()?;
    ensure!(answer.exit_status == 137, "{answer}");
    let exit: Result<protos::ttrpc::api::WaitResponse, CallError> = waiting.wait(SOON);
    match exit {
        Ok(exit) => ensure!(exit.exit_status == 137, "Wait answered {exit}"),
        Err(CallError::Closed) => {}
        Err(why) => bail!("Wait: {why}"),
    }
    if life.shim.alive() {
        life.task.delete("").context("Delete, after delete")?;
        life.shim.leave(&life.bundle.id)?;
    }
    fixture.nothing_but_sockets_left()
}

fn delete_sigterm(fixture: &Fixture) -> Result<()> {
    let fake = FakeRuntime::new(fixture)?;
    let life = fixture.run_bundle(fake.bundle(fixture, "exec sleep 100")?)?;
    life.shim.signal(Signal::SIGKILL)?;
    life.shim.gone(SOON)?;
    fake.fault("delete", "until [ -e \"$d/go\" ]; do \"$d/sleep\" 0.05; done")?;
    let invocation = fixture.invocation(&life.bundle);
    let binary = invocation.binary.display().to_string();
    let deleting = std::thread::spawn(move || invocation.delete());
    let called = until(SOON, || {
        (fake.must_be_used("delete").is_ok() || deleting.is_finished()).then_some(())
    });
    ensure!(called.is_some(), "delete does nothing");
    let mut reached = 0;
    for trace in leak::processes(&fixture.scope()) {
        if let leak::Trace::Process { pid, .. } = trace
            && leak::command_line(pid).starts_with(&binary)
        {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                // It may have ended; that is the same result.
                reached += i32::from(kill(Pid::from_raw(pid), signal).is_ok());
            }
        }
    }
    std::fs::write(fake.path.with_file_name("go"), "")?;
    let answer = match deleting.join() {
        Ok(answer) => answer?,
        Err(_) => bail!("delete was not waited for"),
    };
    fake.must_be_used("delete")?;
    ensure!(reached > 0, "delete ended before it was signalled");
    ensure!(answer.exit_status == 137, "{answer}");
    fixture.nothing_but_sockets_left()
}

fn emptied(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    life.shim.signal(Signal::SIGKILL)?;
    life.shim.gone(SOON)?;
    for name in ["config.json", "address", "log.json", "bootstrap.json"] {
        // It may be absent; that is the same result.
        let _ = std::fs::remove_file(life.bundle.path.join(name));
    }
    let output = fixture.invocation(&life.bundle).delete_raw()?;
    ensure!(output.status.success(), "delete: {}: {}", output.status, output.complaint());
    let pid = i32::try_from(life.pid)?;
    let gone = until(SOON, || matches!(leak::state(pid), None | Some('Z' | 'X')).then_some(()));
    ensure!(gone.is_some(), "the container runs on");
    fixture.nothing_but_sockets_left()
}
