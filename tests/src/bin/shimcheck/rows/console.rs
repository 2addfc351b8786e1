//! Terminals.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};

use crate::fixture::{
    Fixture, Life, Pipes, SOON, exit_status, finish, timed, unless_unimplemented,
};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("console", "a terminal is one: size, echo, and the exit", "§1.4", console),
        row(
            "console-resize",
            "a resize reaches the terminal; after the exit it does no harm",
            "§1.4, section 3",
            console_resize,
        ),
        row("console-exec", "an exec has a terminal of its own", "§1.4", console_exec),
        row(
            "console-socket-gone",
            "the socket that passed the terminal is gone",
            "point 16",
            console_tidy,
        ),
    ]
}

fn terminal<'s>(fixture: &'s Fixture, script: &str, pipes: &Pipes) -> Result<Life<'s>> {
    let bundle = fixture.shaped(script, |spec| spec["process"]["terminal"] = true.into())?;
    let request = pipes.create(bundle.create_request());
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let pid = match task.create(&request) {
        Ok(pid) => pid,
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, message }) => {
            return not_offered(format!("a terminal is UNIMPLEMENTED: {message}"));
        }
        Err(why) => return Err(why).context("Create with a terminal"),
    };
    Ok(Life { shim, bundle, task, pid, created_pid: pid })
}

fn console(fixture: &Fixture) -> Result<()> {
    let mut pipes = fixture.terminal()?;
    let mut life = terminal(
        fixture,
        "test -t 0 && test -t 1 && test -t 2 && echo tty; read line; echo got $line; exit 3",
        &pipes,
    )?;
    life.start()?;
    let Pipes { stdin: Some(input), stdout: Some(out), .. } = &mut pipes else {
        bail!("a terminal has two streams");
    };
    ensure!(out.wait_for(SOON, "tty\r\n"), "it has no terminal: {:?}", out.text());
    input.open(SOON)?;
    input.write(b"hello\n", SOON)?;
    ensure!(out.wait_for(SOON, "hello\r\n"), "no echo: {:?}", out.text());
    ensure!(out.wait_for(SOON, "got hello\r\n"), "no answer: {:?}", out.text());
    ensure!(life.exit_status()? == 3);
    ensure!(life.task.state("")?.terminal, "State does not know of the terminal");
    input.close();
    life.end()
}

fn console_resize(fixture: &Fixture) -> Result<()> {
    let mut pipes = fixture.terminal()?;
    let mut life = terminal(
        fixture,
        "while read line; do stty size; test $line = end && exit 3; done",
        &pipes,
    )?;
    life.task.resize("", 99, 33).context("ResizePty before the start")?;
    life.start()?;
    let Pipes { stdin: Some(input), stdout: Some(out), .. } = &mut pipes else {
        bail!("a terminal has two streams");
    };
    input.open(SOON)?;
    life.task.resize("", 132, 43).context("ResizePty")?;
    input.write(b"go\n", SOON)?;
    ensure!(out.wait_for(SOON, "43 132"), "the size is {:?}", out.text());
    input.write(b"end\n", SOON)?;
    ensure!(life.exit_status()? == 3);
    let (answer, took) = timed(|| life.task.within(SOON).resize("", 80, 24));
    ensure!(!matches!(answer, Err(CallError::Silent(_))), "ResizePty after the exit: {took:?}");
    input.close();
    life.end()
}

fn console_exec(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let mut pipes = fixture.terminal()?;
    let mut spec = process(&shell("test -t 0 && echo tty; read line; stty size; exit 3"));
    spec["terminal"] = true.into();
    let added = life.task.exec(&pipes.exec(life.task.exec_request("e1", &spec)));
    unless_unimplemented(added, "Exec with a terminal")?;
    life.task.start("e1")?;
    let Pipes { stdin: Some(input), stdout: Some(out), .. } = &mut pipes else {
        bail!("a terminal has two streams");
    };
    ensure!(out.wait_for(SOON, "tty\r\n"), "it has no terminal: {:?}", out.text());
    life.task.resize("e1", 70, 20)?;
    input.open(SOON)?;
    input.write(b"go\n", SOON)?;
    ensure!(out.wait_for(SOON, "20 70"), "the size is {:?}", out.text());
    ensure!(exit_status(&life.task, "e1")? == 3);
    input.close();
    life.task.delete("e1")?;
    life.end()
}

fn console_tidy(fixture: &Fixture) -> Result<()> {
    let temporary = fixture.dir.join("tmp");
    fs::create_dir(&temporary)?;
    let pipes = fixture.terminal()?;
    let bundle =
        fixture.shaped("exec sleep 100", |spec| spec["process"]["terminal"] = true.into())?;
    if let Some(log) = &bundle.log {
        log.follow()?;
    }
    let mut invocation = fixture.invocation(&bundle);
    for name in ["TMPDIR", "XDG_RUNTIME_DIR"] {
        invocation.environment.push((name.to_owned(), temporary.display().to_string()));
    }
    let shim = fixture.start_with(&invocation)?;
    let task = shim.task(&bundle.id);
    unless_unimplemented(task.create(&pipes.create(bundle.create_request())), "a terminal")?;
    let left: Vec<PathBuf> =
        fs::read_dir(&temporary)?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "when Create has answered, there is {left:?}");
    finish(&task)?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}
