//! The Task service's calls on a container that was made, one by one.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::until;
use harness::wait;
use harness::{leak, proc};
use protos::ttrpc::api::{Status, WaitResponse};

use crate::fixture::{Fixture, Life, SOON, refused, unless_unimplemented, until_told};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "start-life",
            "Start runs the command, and a second Start is refused",
            "§1.4",
            start_twice_task,
        ),
        row(
            "start-after-exit",
            "a container that has ended is not started again",
            "§1.4",
            start_after_exit,
        ),
        row(
            "state-fields",
            "State tells id, bundle, process, streams and status as they are",
            "§1.4",
            state_fields,
        ),
        row(
            "state-exited-at",
            "State of a live process has no exit time, or Go's zero time",
            "§1.4",
            exited_at,
        ),
        row("state-unknown", "State of an unknown id is NOT_FOUND", "§1.4", state_unknown),
        row(
            "exit-codes",
            "exit codes come through, deaths by signal as 128 and the signal",
            "point 23",
            exit_codes,
        ),
        row(
            "wait-many",
            "many waiters get the same exit, and a late one gets it at once",
            "§1.4",
            wait_many,
        ),
        row(
            "wait-unknown",
            "Wait for an unknown container or exec is NOT_FOUND",
            "§1.4",
            wait_unknown,
        ),
        row("kill-unknown", "Kill of what is not there is NOT_FOUND", "§1.4", kill_unknown),
        row(
            "kill-finished",
            "Kill of what has ended is NOT_FOUND",
            "§1.4, point 10",
            kill_finished,
        ),
        row("kill-all", "Kill with `all` reaches every process", "§1.4", kill_all),
        row(
            "kill-created",
            "a created container can be killed and then deleted",
            "§1.4",
            kill_created,
        ),
        row(
            "kill-bad-signal",
            "a signal that does not exist is refused, and nothing dies",
            "§1.4",
            bad_signal,
        ),
        row(
            "delete-running",
            "Delete of a running container is refused in Go's words",
            "§1.4, §2",
            delete_running,
        ),
        row("delete-created", "Delete of a created container removes it", "§1.4", delete_created),
        row("delete-unknown", "Delete of an unknown id is NOT_FOUND", "§1.4", delete_unknown),
        row(
            "delete-answer",
            "Delete tells the process, the status and the time",
            "§1.4",
            delete_answer,
        ),
        row(
            "delete-again",
            "a repeated Delete gets the same answer or NOT_FOUND",
            "pain 1",
            delete_again,
        ),
        row(
            "delete-is-done",
            "when Delete answers, runtime state, cgroup and mounts are gone",
            "pain 1",
            delete_is_done,
        ),
        row("pids", "Pids lists init and execs, with the exec id of execs", "point 24", pids),
        row(
            "pids-all",
            "Pids lists every process of the container, also those that no exec started",
            "§1.4, point 24",
            pids_all,
        ),
        row(
            "pids-stopped",
            "Pids of a container that has ended is not mistaken for a leak",
            "§1.4, §2",
            pids_stopped,
        ),
        row(
            "connect",
            "Connect tells the task's process, and succeeds for an unknown id",
            "§1.4",
            connect,
        ),
        row("shutdown-busy", "Shutdown does nothing while a task remains", "§1.4", shutdown_busy),
        row(
            "resize-without-terminal",
            "ResizePty without a terminal succeeds",
            "§1.4",
            resize_plain,
        ),
        row(
            "niceness",
            "init and execs have the niceness that the shim was started with",
            "§1.1",
            niceness,
        ),
        row("close-again", "CloseIO is idempotent, with stdin or without", "§1.4", close_again),
    ]
}

/// Whether the container has a root of its own; a plain host process has not.
pub(crate) fn contained(life: &Life<'_>) -> Result<()> {
    if life.pid == 0 {
        return not_offered("a created container of this shim has no process yet");
    }
    let own = fs::read_link(format!("/proc/{}/ns/mnt", std::process::id()))?;
    let its = fs::read_link(format!("/proc/{}/ns/mnt", life.pid));
    if its.as_ref().is_ok_and(|its| *its == own) {
        return not_offered("a container of this shim is no container: it shares our mounts");
    }
    Ok(())
}

fn start_twice_task(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    ensure!(life.status()? == Status::RUNNING, "the status is {:?}", life.status()?);
    match life.task.start("") {
        Err(CallError::Refused { .. }) => {}
        other => bail!("a second Start answered {other:?}"),
    }
    ensure!(life.status()? == Status::RUNNING, "after it, the status is {:?}", life.status()?);
    life.end()
}

fn start_after_exit(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    life.exit_status()?;
    match life.task.start("") {
        Err(CallError::Refused { .. }) => {}
        other => bail!("Start after the exit answered {other:?}"),
    }
    ensure!(life.status()? == Status::STOPPED);
    life.end()
}

fn state_fields(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 3")?;
    let pipes = fixture.pipes_with_input()?;
    let request = pipes.create(bundle.create_request());
    let mut life = fixture.create_with(bundle, &request)?;
    let check = |life: &Life<'_>, status: Status| -> Result<()> {
        let state = life.task.state("")?;
        ensure!(state.id == life.bundle.id, "id {:?}", state.id);
        ensure!(
            state.bundle == life.bundle.path.display().to_string(),
            "bundle {:?}",
            state.bundle
        );
        ensure!(state.pid == life.pid, "pid {}, not {}", state.pid, life.pid);
        ensure!(state.status == status.into(), "status {:?}, not {status:?}", state.status);
        ensure!(state.stdin == request.stdin, "stdin {:?}", state.stdin);
        ensure!(state.stdout == request.stdout, "stdout {:?}", state.stdout);
        ensure!(state.stderr == request.stderr, "stderr {:?}", state.stderr);
        ensure!(!state.terminal, "terminal");
        Ok(())
    };
    check(&life, Status::CREATED).context("created")?;
    life.start()?;
    ensure!(life.exit_status()? == 3);
    check(&life, Status::STOPPED).context("stopped")?;
    let state = life.task.state("")?;
    ensure!(state.exit_status == 3, "stopped: exit_status {}", state.exit_status);
    ensure!(state.exited_at.seconds > 1_600_000_000, "stopped: exited_at {:?}", state.exited_at);
    life.end()
}

fn exited_at(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let state = life.task.state("")?;
    // 0001-01-01T00:00:00Z.
    let zero = -62_135_596_800_i64;
    let fine = match state.exited_at.as_ref() {
        None => true,
        Some(at) => at.nanos == 0 && (at.seconds == zero || at.seconds == 0),
    };
    ensure!(fine, "exited_at is {:?}", state.exited_at);
    ensure!(state.exit_status == 0, "exit_status is {}", state.exit_status);
    life.end()
}

fn state_unknown(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    refused(life.task.other("nobody").state(""), Code::NOT_FOUND, "State of another id")?;
    refused(life.task.state("nobody"), Code::NOT_FOUND, "State of an unknown exec")?;
    refused(life.task.other("nobody").start(""), Code::NOT_FOUND, "Start of another id")?;
    refused(life.task.start("nobody"), Code::NOT_FOUND, "Start of an unknown exec")?;
    life.end()
}

fn exit_codes(fixture: &Fixture) -> Result<()> {
    for (script, expected) in [("exit 0", 0), ("exit 1", 1), ("exit 42", 42), ("exit 255", 255)] {
        let life = fixture.run(script)?;
        let got = life.exit_status()?;
        ensure!(got == expected, "{script}: {got}");
        life.end()?;
    }
    for (signal, expected) in [(9, 137), (15, 143)] {
        // The first process of a pid namespace ignores what it has no handler for.
        let life = fixture.run(&until_told(143))?;
        life.listens()?;
        life.task.kill("", signal)?;
        let got = life.exit_status()?;
        ensure!(got == expected, "signal {signal}: {got}");
        life.end()?;
    }
    Ok(())
}

fn wait_many(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("sleep 0.5; exit 17")?;
    let request = life.task.wait_request("");
    let waiting: Result<Vec<_>, _> = (0..40).map(|_| life.task.send("Wait", &request)).collect();
    let answers: Result<Vec<WaitResponse>, _> =
        waiting?.iter().map(|pending| pending.wait(SOON)).collect();
    let answers = answers?;
    for answer in &answers {
        ensure!(answer.exit_status == 17, "a waiter got {}", answer.exit_status);
        ensure!(answer == &answers[0], "two waiters got {answer} and {}", answers[0]);
    }
    // There is nothing left to wait for: it is answered at once, or never.
    let late = life.task.within(SOON).wait("").context("a late Wait")?;
    ensure!(late == answers[0], "a late waiter got something else");
    life.end()
}

fn wait_unknown(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    refused(life.task.within(SOON).wait("nobody"), Code::NOT_FOUND, "Wait for an unknown exec")?;
    refused(
        life.task.other("nobody").within(SOON).wait(""),
        Code::NOT_FOUND,
        "Wait for an unknown container",
    )?;
    life.end()
}

fn kill_unknown(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    refused(life.task.other("nobody").kill("", 9), Code::NOT_FOUND, "Kill of an unknown id")?;
    refused(life.task.kill("nobody", 9), Code::NOT_FOUND, "Kill of an unknown exec")?;
    ensure!(life.status()? == Status::RUNNING);
    life.end()
}

fn kill_finished(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    life.exit_status()?;
    refused(life.task.kill("", 9), Code::NOT_FOUND, "Kill of an ended container")?;
    refused(life.task.kill_all(9), Code::NOT_FOUND, "Kill of all of an ended container").or_else(
        |why| match life.task.kill_all(9) {
            // With nothing left to signal, success is true as well.
            Ok(()) => Ok(String::new()),
            Err(_) => Err(why),
        },
    )?;
    life.end()
}

fn kill_all(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("sleep 101 & sleep 102 & exec sleep 103")?;
    contained(&life)?;
    let found = until(SOON, || {
        let pids = life.task.pids().ok()?;
        (pids.processes.len() >= 3).then_some(pids)
    });
    let pids = found.context("Pids never told three processes")?;
    life.task.kill_all(9)?;
    ensure!(life.exit_status()? == 137);
    for process in &pids.processes {
        let pid = i32::try_from(process.pid)?;
        let gone = until(SOON, || matches!(leak::state(pid), None | Some('Z' | 'X')).then_some(()));
        ensure!(gone.is_some(), "process {pid} ({}) lives", leak::command_line(pid));
    }
    life.end()
}

fn kill_created(fixture: &Fixture) -> Result<()> {
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    life.task.kill("", 9)?;
    let exit = life.task.within(SOON).wait("").context("Wait")?;
    ensure!(exit.exit_status == 137, "the exit status is {}", exit.exit_status);
    ensure!(life.status()? == Status::STOPPED, "the status is {:?}", life.status()?);
    life.end()
}

fn bad_signal(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    match life.task.kill("", 99) {
        Err(CallError::Refused { .. }) => {}
        other => bail!("Kill with signal 99 answered {other:?}"),
    }
    ensure!(life.status()? == Status::RUNNING);
    life.end()
}

fn delete_running(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    match life.task.delete("") {
        Err(CallError::Refused { code, message }) => {
            ensure!(code != Code::NOT_FOUND, "Delete: {code:?}: {message}");
            ensure!(message.contains("cannot delete a running process"), "Delete: {message}");
        }
        other => bail!("Delete of a running container answered {other:?}"),
    }
    ensure!(life.status()? == Status::RUNNING, "after it, the status is {:?}", life.status()?);
    let alive = leak::state(i32::try_from(life.pid)?);
    ensure!(alive.is_some_and(|state| state != 'Z'), "init is gone");
    life.end()
}

fn delete_created(fixture: &Fixture) -> Result<()> {
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    life.task.delete("").context("Delete of a created container")?;
    refused(life.task.state(""), Code::NOT_FOUND, "State after Delete")?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn delete_unknown(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    refused(life.task.other("nobody").delete(""), Code::NOT_FOUND, "Delete of an unknown id")?;
    refused(life.task.delete("nobody"), Code::NOT_FOUND, "Delete of an unknown exec")?;
    life.end()
}

fn delete_answer(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 23")?;
    let exit = life.task.within(SOON).wait("")?;
    let answer = life.task.delete("")?;
    ensure!(answer.pid == life.pid, "pid {}, not {}", answer.pid, life.pid);
    ensure!(answer.exit_status == 23, "exit_status {}", answer.exit_status);
    ensure!(answer.exited_at == exit.exited_at, "{:?} and {:?}", answer.exited_at, exit.exited_at);
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn delete_again(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 23")?;
    life.exit_status()?;
    let first = life.task.delete("")?;
    match life.task.delete("") {
        Ok(second) => ensure!(second == first, "first {first}, then {second}"),
        Err(why) if why.code() == Some(Code::NOT_FOUND) => {}
        Err(why) => bail!("the second Delete: {why}"),
    }
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn delete_is_done(fixture: &Fixture) -> Result<()> {
    for _ in 0..5 {
        let life = fixture.run("exit 0")?;
        life.exit_status()?;
        life.task.delete("")?;
        let id = life.bundle.id.clone();
        let left: Vec<_> = leak::look(&fixture.scope())
            .into_iter()
            .filter(|trace| match trace {
                leak::Trace::Mount(path) => path.to_string_lossy().contains(&id),
                leak::Trace::Cgroup(path) => {
                    path.to_string_lossy().contains(&id) && !leak::on_tmpfs(path)
                }
                leak::Trace::Entry(path) => {
                    path.starts_with("/run") && path.to_string_lossy().contains(&id)
                }
                _ => false,
            })
            .collect();
        ensure!(left.is_empty(), "when Delete had answered:\n{}", leak::list(&left).trim_end());
        life.shim.leave(&id)?;
    }
    fixture.nothing_left()
}

fn pids(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 102")?;
    let exec = life.exec("e1", "exec sleep 103")?;
    let mut last = Vec::new();
    let complete = until(SOON, || {
        let answer = life.task.pids().ok()?;
        last = answer.processes.iter().map(|process| process.pid).collect();
        (last.len() == 2).then_some(answer)
    });
    if let Err(CallError::Refused { code: Code::UNIMPLEMENTED, message }) = life.task.pids() {
        return not_offered(message);
    }
    let answer = complete.with_context(|| format!("Pids told {last:?}, expected two"))?;
    ensure!(last.contains(&life.pid), "init ({}) is not among {last:?}", life.pid);
    let marked: Vec<_> = answer.processes.iter().filter(|process| process.info.is_some()).collect();
    ensure!(marked.len() == 1, "{} processes carry details", marked.len());
    ensure!(marked[0].pid == exec, "the details are on {}, the exec is {exec}", marked[0].pid);
    let details = marked[0].info.get_or_default();
    ensure!(details.type_url.ends_with("ProcessDetails"), "their type is {}", details.type_url);
    // field 1, the exec id.
    ensure!(details.value == b"\x0a\x02e1", "they are {:?}", details.value);
    life.end()
}

fn pids_all(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("sleep 101 & exec sleep 102")?;
    contained(&life)?;
    life.exec("e1", "sleep 103 & exec sleep 104")?;
    let mut last = Vec::new();
    let complete = until(SOON, || {
        let answer = life.task.pids().ok()?;
        last = answer.processes.iter().map(|process| process.pid).collect();
        (last.len() == 4).then_some(())
    });
    unless_unimplemented(life.task.pids(), "Pids")?;
    ensure!(complete.is_some(), "Pids told {last:?}, expected four");
    ensure!(last.contains(&life.pid), "init ({}) is not among {last:?}", life.pid);
    life.end()
}

fn pids_stopped(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    life.exit_status()?;
    match unless_unimplemented(life.task.pids(), "Pids") {
        Ok(answer) => ensure!(answer.processes.len() <= 1, "{answer}"),
        Err(why) => {
            if why.downcast_ref::<crate::verdict::NotOffered>().is_some() {
                return Err(why);
            }
            let code = life.task.pids().err().and_then(|why| why.code());
            ensure!(code != Some(Code::NOT_FOUND), "Pids: {why}: containerd would delete the shim");
        }
    }
    life.end()
}

fn connect(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let known = life.task.connect()?;
    ensure!(i32::try_from(known.shim_pid)? == life.shim.pid);
    ensure!(known.task_pid == life.pid, "task_pid {}, not {}", known.task_pid, life.pid);
    let unknown = life.task.other("nobody").connect().context("Connect for an unknown id")?;
    ensure!(unknown.shim_pid == known.shim_pid && unknown.task_pid == 0, "{unknown}");
    life.end()
}

fn shutdown_busy(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    life.exit_status()?;
    life.task.shutdown()?;
    let stays = wait::holds(Duration::from_millis(500), || life.shim.alive());
    ensure!(stays, "the shim left with a task that was not deleted");
    ensure!(life.status()? == Status::STOPPED);
    life.end()
}

fn resize_plain(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    life.task.resize("", 80, 24).context("ResizePty")?;
    life.exec("e1", "exec sleep 100")?;
    life.task.resize("e1", 80, 24).context("ResizePty of an exec")?;
    life.end()
}

fn close_again(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("cat >/dev/null; exit 6")?;
    let mut pipes = fixture.pipes_with_input()?;
    let request = pipes.create(bundle.create_request());
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    pipes.input()?.open(SOON)?;
    for round in 0..3 {
        life.task.close_stdin("").with_context(|| format!("CloseIO {round}"))?;
    }
    pipes.input()?.close();
    ensure!(life.exit_status()? == 6, "the end of stdin did not arrive");
    life.end()?;
    let plain = fixture.run("exec sleep 100")?;
    plain.task.close_stdin("").context("CloseIO without stdin")?;
    plain.end()
}

fn niceness(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let exec = life.exec("e1", "exec sleep 100")?;
    let own = nice(std::process::id())?;
    for (what, pid) in [("init", life.pid), ("an exec", exec)] {
        let its = nice(pid)?;
        ensure!(its == own, "{what} has niceness {its}, the shim was started with {own}");
    }
    life.end()
}

/// The niceness of a process.
fn nice(pid: u32) -> Result<i32> {
    proc::stat(i32::try_from(pid)?, 19).with_context(|| format!("process {pid} is not there"))
}
