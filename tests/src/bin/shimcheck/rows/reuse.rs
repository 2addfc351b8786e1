//! Process ids that come back, as they do on a busy host, only sooner.
//!
//! The shim runs in a process id namespace whose counter is set back before each exec, so that
//! every exec's process gets a number that another's had before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::proc::children;
use harness::shim::bundle::{process, shell};
use harness::shim::until;

use crate::fixture::{Fixture, SOON, exit_status, finish, unless_unimplemented};
use crate::row::{Row, row};

/// How many execs there are.
const EXECS: u32 = 60;

/// Where the numbers begin again: beyond those of the shim and of its container.
const AGAIN: u32 = 500;

pub(crate) fn rows() -> Vec<Row> {
    vec![row(
        "exec-pid-reuse",
        "execs whose process ids come back each tell their own exit, once",
        "points 3, 28",
        reuse,
    )]
}

fn reuse(fixture: &Fixture) -> Result<()> {
    let numbers = Numbers::new(fixture)?;
    let bundle = fixture.shell("exec sleep 100")?;
    if let Some(log) = &bundle.log {
        log.follow().context("read the shim's log")?;
    }
    let mut invocation = fixture.invocation(&bundle);
    invocation.binary = numbers.wrap(fixture)?;
    let shim = fixture.start_with(&invocation)?;
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request()).context("Create")?;
    task.start("").context("Start")?;

    let mut pids: BTreeMap<u32, u32> = BTreeMap::new();
    for number in 0..EXECS {
        let exec = format!("e{number}");
        let spec = process(&shell(&format!("exit {}", number + 1)));
        let added = task.exec(&task.exec_request(&exec, &spec));
        unless_unimplemented(added, "Exec")?;
        numbers.set_back()?;
        let pid = task.start(&exec).with_context(|| format!("Start of {exec}"))?;
        *pids.entry(pid).or_default() += 1;
        // The last one is deleted only now, when its number may be another's.
        if let Some(last) = number.checked_sub(1) {
            let deleted = task.delete(&format!("e{last}"))?;
            ensure!(deleted.exit_status == last + 1, "Delete of e{last} answered {deleted}");
        }
        let status = exit_status(&task, &exec)?;
        ensure!(status == number + 1, "{exec}, process {pid}, exited with {status}");
    }
    let again: u32 = pids.values().map(|count| count - 1).sum();
    ensure!(again > EXECS / 2, "only {again} of {EXECS} numbers came back: {pids:?}");

    let events = fixture.events.borrow();
    let exits = || {
        let mut exits = events.words(&bundle.id);
        exits.retain(|word| word.starts_with("exit:"));
        exits
    };
    until(SOON, || (exits().len() >= EXECS as usize).then_some(()));
    let expected: Vec<String> = (0..EXECS).map(|number| format!("exit:e{number}")).collect();
    ensure!(exits() == expected, "the exits are {:?}", exits());
    finish(&task)?;
    // It may be gone before it has answered. Its number is not one of ours: its socket tells.
    let _ = task.shutdown();
    until(SOON, || (!shim.socket().exists()).then_some(())).context("its socket stays")?;
    drop(numbers);
    fixture.nothing_left()
}

/// A process id namespace, there until it is dropped, and all that runs in it.
struct Numbers {
    holder: Child,
    init: i32,
}

impl Numbers {
    fn new(fixture: &Fixture) -> Result<Self> {
        let holder = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "while :; do sleep 1; done"])
            .env(harness::root::MARKER, &fixture.dir)
            .stdin(Stdio::null())
            .spawn()
            .context("run unshare")?;
        let parent = i32::try_from(holder.id())?;
        let mut numbers = Self { holder, init: 0 };
        let proc = |init: &i32| {
            // Its /proc is mounted when the shell runs.
            let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
            name.trim() == "sh"
        };
        let init = until(SOON, || children(parent).into_iter().find(proc));
        numbers.init = init.context("unshare started no shell")?;
        Ok(numbers)
    }

    /// A program that runs the shim in it.
    fn wrap(&self, fixture: &Fixture) -> Result<PathBuf> {
        let name = fixture.options.shim.file_name().context("the shim has a name")?;
        let directory = fixture.path("wrapped");
        fs::create_dir(&directory)?;
        let path = directory.join(name);
        // A working directory from outside would be in another mount namespace, and a shim looks for
        // its parent, which is to be inside.
        let inside = r#"cd "$1" && shift && "$@"; exit $?"#;
        let text = format!(
            "#!/bin/sh\nexec nsenter -t {} -p -m sh -c '{inside}' sh \"$PWD\" '{}' \"$@\"\n",
            self.init,
            fixture.options.shim.display()
        );
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Lets the next process be one of a number that was there before.
    fn set_back(&self) -> Result<()> {
        let status = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "-p", "-m", "sh", "-c"])
            .arg(format!("echo {AGAIN} >/proc/sys/kernel/ns_last_pid"))
            .status()
            .context("run nsenter")?;
        ensure!(status.success(), "write ns_last_pid: {status}");
        Ok(())
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        // Its init dies with it, and everything else with its init.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
