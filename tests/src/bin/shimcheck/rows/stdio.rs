//! Streams: fifos, files, loggers, terminals, none; and clients that come and go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::shim::stream::Stream;
use harness::shim::ttrpc::CallError;
use harness::wait::{self, QUIET};
use protos::ttrpc::api::Status;

use super::task::contained;
use crate::fixture::{Fixture, Life, Pipes, SOON, exit_status, finish, timed};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "stdio-fifo",
            "stdout and stderr arrive apart and end with the container",
            "§1.5",
            fifo,
        ),
        row("stdio-burst", "8 MiB written just before the exit arrive whole", "pain 8", burst),
        row(
            "stdio-exec-burst",
            "8 MiB written by an exec just before its exit arrive whole",
            "pain 8",
            exec_burst,
        ),
        row(
            "stdio-null",
            "without streams, what is written goes nowhere and reading ends at once",
            "point 12",
            null,
        ),
        row("stdio-some", "only the streams that are asked for are opened", "point 12", some),
        row(
            "stdio-file",
            "file:// is created with its parents, as 0644 in 0755",
            "§1.5, point 13",
            file,
        ),
        row("stdio-file-two", "stdout and stderr can be files of their own", "§1.5", file_two),
        row(
            "stdio-file-shared",
            "stdout and stderr in one file lose and tear nothing",
            "point 13",
            file_shared,
        ),
        row(
            "stdio-file-alone",
            "file:// for stdout without a stderr works",
            "point 13",
            file_alone,
        ),
        row(
            "stdio-unknown-scheme",
            "a stream of no known kind is refused, and nothing is left",
            "§1.5",
            scheme,
        ),
        row(
            "stdio-missing-fifo",
            "a fifo that is not there is refused or awaited, never hung on",
            "pain 5",
            missing,
        )
        .within(60),
        row(
            "stdio-unread-fifo",
            "a fifo without a reader hangs neither the shim nor its State",
            "pain 5",
            unread,
        )
        .within(60),
        row(
            "stdio-client-restart",
            "a client that leaves and comes back reads on without a byte lost",
            "§1.5",
            restart,
        ),
        row(
            "stdio-slow-reader",
            "a slow reader slows the container down and loses nothing",
            "pain 8",
            slow_reader,
        ),
        row(
            "stdio-never-read",
            "a container blocked on its output can be killed and deleted",
            "pain 7",
            never_read,
        )
        .within(60),
        row(
            "stdio-inherited",
            "an exec's background child that keeps the pipe holds Delete at most 10 s",
            "pain 7, point 17",
            inherited,
        )
        .within(60),
        row(
            "stdin",
            "what is written arrives whole; its end comes with CloseIO",
            "point 15",
            stdin,
        ),
        row(
            "stdin-client-restart",
            "a client that closes stdin and comes back goes on where it was",
            "§1.5, point 15",
            stdin_restart,
        ),
        row(
            "stdin-unread",
            "input that the container does not read blocks no other call",
            "point 15",
            stdin_unread,
        ),
        row("stdin-exec", "an exec has an input of its own", "point 15", stdin_exec),
        row(
            "stdio-io-owner",
            "IoGid owns the pipes (the uid is the runtime's to change)",
            "point 12",
            owner,
        ),
        row(
            "stdio-descriptors",
            "no descriptor of the shim reaches the container",
            "pain 14",
            descriptors,
        ),
        row(
            "stdio-surroundings",
            "no variable or ignored signal of the shim reaches the container",
            "point 8",
            surroundings,
        ),
    ]
}

fn with(fixture: &Fixture, script: &str, pipes: &Pipes) -> Result<()> {
    // What every row here wants at least: that it runs and can be ended.
    let life = begun(fixture, script, pipes)?;
    life.exit_status()?;
    life.end()
}

fn begun<'s>(fixture: &'s Fixture, script: &str, pipes: &Pipes) -> Result<Life<'s>> {
    let bundle = fixture.shell(script)?;
    let request = pipes.create(bundle.create_request());
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    Ok(life)
}

fn fifo(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    with(fixture, "echo to out; echo to err >&2; exit 0", &pipes)?;
    let (out, err) = (pipes.out()?, pipes.stderr.as_ref().context("stderr")?);
    ensure!(out.wait_end(SOON) && err.wait_end(SOON), "the streams did not end");
    ensure!(out.text() == "to out\n", "stdout is {:?}", out.text());
    ensure!(err.text() == "to err\n", "stderr is {:?}", err.text());
    Ok(())
}

const BURST: usize = 8 << 20;

fn burst(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = begun(fixture, &format!("head -c {BURST} /dev/zero; exit 0"), &pipes)?;
    life.exit_status()?;
    life.task.delete("")?;
    let out = pipes.out()?;
    ensure!(out.wait_end(SOON), "stdout did not end");
    ensure!(out.bytes().len() == BURST, "{} bytes of {BURST} arrived", out.bytes().len());
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn exec_burst(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    for round in 0..3 {
        let (exec, pipes) = (format!("e{round}"), fixture.pipes()?);
        life.exec_with(&exec, &format!("head -c {BURST} /dev/zero"), &pipes)?;
        exit_status(&life.task, &exec)?;
        life.task.delete(&exec)?;
        let out = pipes.out()?;
        ensure!(out.wait_end(SOON), "stdout did not end");
        ensure!(out.bytes().len() == BURST, "{} bytes of {BURST} arrived", out.bytes().len());
    }
    life.end()
}

fn null(fixture: &Fixture) -> Result<()> {
    let life = fixture.run(
        "echo out || exit 20; echo err >&2 || exit 21; cat; head -c 1000000 /dev/zero; exit 12",
    )?;
    let status = life.exit_status()?;
    ensure!(status == 12, "it ended with {status}, and 20 or 21 where it could not write");
    life.end()
}

fn some(fixture: &Fixture) -> Result<()> {
    let pipes = Pipes { stderr: None, ..fixture.pipes()? };
    with(fixture, "echo err >&2; echo out; exit 0", &pipes)?;
    let (ended, text) = (pipes.out()?.wait_end(SOON), pipes.out()?.text());
    ensure!(ended && text == "out\n", "stdout alone: {text:?}, ended: {ended}");
    let pipes = Pipes { stdout: None, ..fixture.pipes()? };
    with(fixture, "echo out; echo err >&2; exit 0", &pipes)?;
    let err = pipes.stderr.as_ref().context("stderr")?;
    let ended = err.wait_end(SOON);
    ensure!(ended && err.text() == "err\n", "stderr alone: {:?}, ended: {ended}", err.text());
    Ok(())
}

/// Runs a script with streams given as addresses; how it ended.
pub(crate) fn addressed(
    fixture: &Fixture,
    script: &str,
    stdout: &str,
    stderr: &str,
) -> Result<u32> {
    let bundle = fixture.shell(script)?;
    let mut request = bundle.create_request();
    (request.stdout, request.stderr) = (stdout.to_owned(), stderr.to_owned());
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    let status = life.exit_status()?;
    life.end()?;
    Ok(status)
}

fn file(fixture: &Fixture) -> Result<()> {
    let directory = fixture.dir.join("logs/deep");
    let path = directory.join("out");
    let address = format!("file://{}", path.display());
    addressed(fixture, "echo out", &address, &address)?;
    ensure!(fs::read_to_string(&path)? == "out\n", "it holds {:?}", fs::read_to_string(&path)?);
    for (path, expected) in [(&path, 0o644), (&directory, 0o755)] {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode == expected, "{} has mode {mode:o}", path.display());
    }
    Ok(())
}

fn file_two(fixture: &Fixture) -> Result<()> {
    let (out, err) = (fixture.path("out"), fixture.path("err"));
    let address = |path: &Path| format!("file://{}", path.display());
    addressed(fixture, "echo out; echo err >&2", &address(&out), &address(&err))?;
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    ensure!(
        read(&out) == "out\n" && read(&err) == "err\n",
        "they hold {:?} and {:?}",
        read(&out),
        read(&err)
    );
    Ok(())
}

fn file_shared(fixture: &Fixture) -> Result<()> {
    let path = fixture.path("both");
    fs::write(&path, "")?;
    let address = format!("file://{}", path.display());
    addressed(fixture, "seq 1 500; seq 501 1000 >&2", &address, &address)?;
    let mut lines: Vec<u32> = Vec::new();
    for line in fs::read_to_string(&path)?.lines() {
        lines.push(line.parse().with_context(|| format!("a line that was torn: {line:?}"))?);
    }
    lines.sort_unstable();
    ensure!(lines.iter().copied().eq(1..=1000), "{} lines of 1000 arrived", lines.len());
    Ok(())
}

fn file_alone(fixture: &Fixture) -> Result<()> {
    let path = fixture.path("alone");
    addressed(fixture, "echo out", &format!("file://{}", path.display()), "")?;
    ensure!(fs::read_to_string(&path)? == "out\n");
    Ok(())
}

fn scheme(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    for address in ["no-such-scheme:///x", "binary:///no/such/logger"] {
        let mut request = bundle.create_request();
        (request.stdout, request.stderr) = (address.to_owned(), address.to_owned());
        match task.create(&request) {
            Err(CallError::Refused { .. }) => {}
            other => anyhow::bail!("Create with {address} answered {other:?}"),
        }
    }
    task.create(&bundle.create_request()).context("a proper Create after it")?;
    finish(&task)?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn missing(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id).within(Duration::from_secs(12));
    let mut request = bundle.create_request();
    request.stdout = fixture.path("nowhere").display().to_string();
    let answer = task.create(&request);
    if let Err(CallError::Silent(limit)) = &answer {
        anyhow::bail!("Create with a fifo that is not there: no answer within {limit:?}");
    }
    if answer.is_ok() {
        task.start("")?;
        exit_status(&task, "")?;
        task.delete("")?;
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn unread(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("echo out; exit 5")?;
    let pipes = Pipes {
        stdin: None,
        stdout: Some(Stream::make(&fixture.path("stdout"))?),
        stderr: Some(Stream::make(&fixture.path("stderr"))?),
    };
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let creating = task.send("Create", &pipes.create(bundle.create_request()))?;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let (_, took) = timed(|| task.within(Duration::from_secs(3)).state(""));
        slowest = slowest.max(took);
        wait::pass(Duration::from_millis(50));
    }
    ensure!(slowest < Duration::from_secs(2), "State took {slowest:?}");
    let early = creating.wait::<protos::ttrpc::api::CreateTaskResponse>(Duration::from_secs(10));
    ensure!(!matches!(early, Err(CallError::Silent(_))), "Create waits for a reader");
    if early.is_ok() {
        for stream in [&pipes.stdout, &pipes.stderr].into_iter().flatten() {
            stream.resume()?;
        }
        task.start("")?;
        ensure!(exit_status(&task, "")? == 5);
        task.delete("")?;
        ensure!(pipes.out()?.wait_for(SOON, "out\n"), "what it wrote did not arrive");
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

/// Whether the bytes are the lines from 1 on, and how many.
fn lines_in_order(text: &str) -> Result<usize> {
    let mut count = 0;
    for (index, line) in text.lines().enumerate() {
        ensure!(line == (index + 1).to_string(), "line {} is {line:?}", index + 1);
        count = index + 1;
    }
    Ok(count)
}

fn restart(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = begun(
        fixture,
        "trap told=1 TERM; i=0; while [ -z $told ]; do i=$((i+1)); echo $i; sleep 0.003; done; echo end",
        &pipes,
    )?;
    let out = pipes.out()?;
    for _ in 0..4 {
        let seen = out.bytes().len();
        ensure!(out.wait(SOON, |bytes, _| bytes.len() > seen + 60), "nothing more arrives");
        out.leave();
        ensure!(runs_for(&life, QUIET), "the container died when its reader left");
        out.resume()?;
    }
    life.tell()?;
    ensure!(life.exit_status()? == 0, "the container failed");
    life.task.delete("")?;
    ensure!(out.wait_end(SOON), "stdout did not end");
    let text = out.text();
    let lines = text.strip_suffix("end\n").context("the last line is missing")?;
    let count = lines_in_order(lines)?;
    ensure!(count > 40, "{count} lines arrived");
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

/// Whether a container runs at every look during a time.
fn runs_for(life: &Life, time: Duration) -> bool {
    wait::holds(time, || life.status().is_ok_and(|status| status == Status::RUNNING))
}

fn slow_reader(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = begun(fixture, "seq 1 200000; exit 3", &pipes)?;
    let out = pipes.out()?;
    out.leave();
    ensure!(runs_for(&life, Duration::from_secs(2)), "1.3 MB went to a fifo without a reader");
    out.resume()?;
    ensure!(life.exit_status()? == 3);
    life.task.delete("")?;
    ensure!(out.wait_end(SOON), "stdout did not end");
    let count = lines_in_order(&out.text())?;
    ensure!(count == 200_000, "{count} of 200000 lines arrived");
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

/// In this time `yes` fills every pipe between it and a reader that does not read.
pub(super) const FULL: Duration = Duration::from_millis(300);

fn never_read(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = begun(fixture, "exec yes", &pipes)?;
    ensure!(pipes.out()?.wait_for(SOON, "y\n"), "nothing arrives");
    pipes.out()?.leave();
    wait::pass(FULL);
    life.task.kill("", 9)?;
    ensure!(life.exit_status()? == 137);
    let (deleted, took) = timed(|| life.task.within(Duration::from_secs(25)).delete(""));
    deleted.with_context(|| format!("Delete, after {took:?}"))?;
    ensure!(took < Duration::from_secs(15), "Delete took {took:?}");
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn inherited(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let pipes = fixture.pipes()?;
    life.exec_with("e1", "echo before; sleep 90 & exit 3", &pipes)?;
    ensure!(exit_status(&life.task, "e1")? == 3);
    let (deleted, took) = timed(|| life.task.within(Duration::from_secs(25)).delete("e1"));
    ensure!(deleted.with_context(|| format!("Delete, after {took:?}"))?.exit_status == 3);
    ensure!(took < Duration::from_secs(15), "Delete took {took:?}");
    ensure!(pipes.out()?.text() == "before\n", "stdout is {:?}", pipes.out()?.text());
    let (state, took) = timed(|| life.task.state(""));
    ensure!(state.is_ok() && took < Duration::from_secs(2), "State took {took:?}");
    if contained(&life).is_err() {
        // A daemon's process on the host is not the container's any more.
        finish(&life.task)?;
        return life.shim.leave(&life.bundle.id);
    }
    life.end()
}

fn stdin(fixture: &Fixture) -> Result<()> {
    let mut pipes = fixture.pipes_with_input()?;
    let life = begun(fixture, "wc -c; exit 9", &pipes)?;
    let input = pipes.input()?;
    input.open(SOON)?;
    input.write(&vec![b'x'; 1 << 20], SOON).context("write 1 MiB to stdin")?;
    life.task.close_stdin("")?;
    input.close();
    ensure!(life.exit_status()? == 9, "the end of stdin did not arrive");
    life.end()?;
    let out = pipes.out()?;
    ensure!(out.wait_end(SOON), "stdout did not end");
    ensure!(out.text().trim() == (1_u32 << 20).to_string(), "it read {:?} bytes", out.text());
    Ok(())
}

fn stdin_restart(fixture: &Fixture) -> Result<()> {
    let mut pipes = fixture.pipes_with_input()?;
    let life = begun(fixture, "cat; exit 9", &pipes)?;
    for word in ["one\n", "two\n", "three\n"] {
        let input = pipes.input()?;
        input.open(SOON)?;
        input.write(word.as_bytes(), SOON)?;
        input.close();
        ensure!(pipes.out()?.wait_for(SOON, word), "{word:?} did not come back");
        ensure!(runs_for(&life, QUIET), "a client's leaving ended the container's input");
    }
    life.task.close_stdin("")?;
    ensure!(life.exit_status()? == 9, "the end of stdin did not arrive");
    life.end()
}

fn stdin_unread(fixture: &Fixture) -> Result<()> {
    let mut pipes = fixture.pipes_with_input()?;
    let life = begun(fixture, "exec sleep 100", &pipes)?;
    pipes.input()?.open(SOON)?;
    // More than two pipes hold; that it does not fit is the point.
    let written = pipes.input()?.write(&vec![0; 1 << 20], Duration::from_secs(1));
    ensure!(written.is_err(), "1 MiB went to an input without a reader");
    let (state, took) = timed(|| life.task.state(""));
    ensure!(state.is_ok() && took < Duration::from_secs(2), "State took {took:?}");
    life.end()
}

fn stdin_exec(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let mut pipes = fixture.pipes_with_input()?;
    life.exec_with("e1", "cat; exit 9", &pipes)?;
    pipes.input()?.open(SOON)?;
    pipes.input()?.write(b"hello\n", SOON)?;
    ensure!(pipes.out()?.wait_for(SOON, "hello\n"), "it did not come back");
    life.task.close_stdin("e1")?;
    pipes.input()?.close();
    ensure!(exit_status(&life.task, "e1")? == 9, "the end of stdin did not arrive");
    life.task.delete("e1")?;
    life.end()
}

fn owner(fixture: &Fixture) -> Result<()> {
    if fixture.runtime_version().starts_with("crun") {
        return not_offered("crun gives the pipes to the container's own user and group");
    }
    let mut bundle = fixture.shell("stat -L -c '%u %g' /proc/self/fd/1; exit 0")?;
    let options = bundle.options.get_or_insert_default();
    (options.io_uid, options.io_gid) = (1234, 5678);
    let pipes = fixture.pipes()?;
    let request = pipes.create(bundle.create_request());
    let mut life = fixture.create_with(bundle, &request)?;
    contained(&life)?;
    life.start()?;
    life.exit_status()?;
    life.end()?;
    pipes.out()?.wait_end(SOON);
    // runc gives them to the container's user and keeps the group.
    ensure!(pipes.out()?.text().ends_with(" 5678\n"), "the owner is {:?}", pipes.out()?.text());
    Ok(())
}

fn descriptors(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let life = begun(fixture, "ls /proc/self/fd; exec sleep 100", &pipes)?;
    contained(&life)?;
    // ls itself has the directory open.
    ensure!(pipes.out()?.wait_for(SOON, "3\n"), "it wrote {:?}", pipes.out()?.text());
    let exec = fixture.pipes()?;
    life.exec_with("e1", "ls /proc/self/fd", &exec)?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    exec.out()?.wait_end(SOON);
    for (who, stream) in [("init", pipes.out()?), ("an exec", exec.out()?)] {
        let text = stream.text();
        ensure!(text == "0\n1\n2\n3\n", "{who} has the descriptors {text:?}");
    }
    life.end()
}

fn surroundings(fixture: &Fixture) -> Result<()> {
    let pipes = fixture.pipes()?;
    let script = "env; grep -E '^Sig(Blk|Ign):' /proc/self/status; exec sleep 100";
    let life = begun(fixture, script, &pipes)?;
    contained(&life)?;
    let whole = |bytes: &[u8], _| {
        String::from_utf8_lossy(bytes)
            .split_once("SigIgn:")
            .is_some_and(|(_, rest)| rest.contains('\n'))
    };
    ensure!(pipes.out()?.wait(SOON, whole), "it wrote {:?}", pipes.out()?.text());
    let exec = fixture.pipes()?;
    life.exec_with("e1", "env; grep -E '^Sig(Blk|Ign):' /proc/self/status; true", &exec)?;
    exit_status(&life.task, "e1")?;
    life.task.delete("e1")?;
    exec.out()?.wait_end(SOON);
    for (who, stream) in [("init", pipes.out()?), ("an exec", exec.out()?)] {
        let text = stream.text();
        for name in ["TTRPC_ADDRESS", "GOMAXPROCS", "TEST_ROOT", "NAMESPACE", "NOTIFY_SOCKET"] {
            ensure!(!text.contains(&format!("{name}=")), "{who} has {name}:\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with("Sig")) {
            let mask = line.split_whitespace().nth(1).unwrap_or_default();
            let mask = u64::from_str_radix(mask, 16).context("a mask of signals")?;
            // The two below the first real-time signal belong to the C library.
            ensure!(mask & !(0b11 << 31) == 0, "{who} has {line}");
        }
    }
    life.end()
}
