//! A run under our libcontainer engine, through its shim.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::programs;
use harness::shim::stream::Stream;
use harness::shim::{Bundle, CallError, Client, Dialect, Invocation, Task, bundle, until};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::observe::{self, Outcome};
use crate::runtimes::Run;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs one spec.
pub(crate) fn run(run: &Run<'_>) -> Result<Outcome> {
    let parent = run.bundle.parent().context("a bundle is in a directory")?;
    let mut bundle = Bundle::make(parent, &run.id, run.spec.clone()).context("make a bundle")?;
    bundle.rootfs = vec![bundle::overlay(&run.fixture.rootfs, &run.dir.join("snap"))?];
    if let Some(log) = &bundle.log {
        log.follow()?;
    }
    let fixture = run.fixture;
    let invocation = Invocation {
        binary: programs::ours("containerd-shim-youki-v1"),
        namespace: fixture.root.namespace().to_owned(),
        id: run.id.clone(),
        address: fixture.root.path().join("containerd.sock").display().to_string(),
        publish: "/usr/bin/containerd".to_owned(),
        debug: false,
        bundle: bundle.path.clone(),
        ttrpc: fixture.events.path().display().to_string(),
        dialect: Dialect::V1_6,
        options: None,
        socket_dir: None,
        environment: vec![(
            harness::root::MARKER.to_owned(),
            fixture.root.path().display().to_string(),
        )],
        limit: LIMIT,
    };
    let reply = match invocation.start() {
        Ok(reply) => reply,
        // A spec that even `start` cannot make sense of.
        Err(why) => return Ok(Outcome::NotCreated(format!("{why:#}"))),
    };
    let client = Client::connect(&reply.address).context("connect")?;
    let task = Task::new(&client, reply.service(), &run.id).within(LIMIT);
    let pid = i32::try_from(task.connect().context("Connect")?.shim_pid)?;
    let outcome = live(run, &task, &bundle);
    // What is not created, or deleted already, has nothing to be deleted.
    let _ = task.delete("");
    let _ = task.shutdown();
    until(LIMIT, || matches!(harness::leak::state(pid), None | Some('Z' | 'X')).then_some(()))
        .context("the shim does not leave")?;
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    let left = fs::read_to_string("/proc/self/mountinfo")?.contains(&run.id);
    ensure!(!left, "something is still mounted");
    Ok(match outcome? {
        Outcome::Ran(mut seen) => {
            seen["hooks"] = observe::hooks(&run.dir);
            Outcome::Ran(seen)
        }
        other => other,
    })
}

fn live(run: &Run<'_>, task: &Task, bundle: &Bundle) -> Result<Outcome> {
    let out = Stream::read(&run.dir.join("out"))?;
    let mut request = bundle.create_request();
    request.stdout = out.path();
    let pid = match task.create(&request) {
        Ok(pid) => i32::try_from(pid)?,
        Err(CallError::Refused { message, .. }) => return Ok(Outcome::NotCreated(message)),
        Err(why) => return Err(why).context("Create"),
    };
    let outside = observe::from_outside(pid, run.fixture.root.namespace());
    match task.start("") {
        Ok(_) => {}
        Err(CallError::Refused { message, .. }) => return Ok(Outcome::NotStarted(message)),
        Err(why) => return Err(why).context("Start"),
    }
    let mut exec = Value::Null;
    if let Some(process) = &run.process {
        out.wait(LIMIT, |bytes, ended| ended || bytes.contains(&b'\n'));
        exec = exec_in(run, task, process)?;
        // It may have ended by itself.
        let _ = task.kill("", 9);
    }
    let exit = task.wait("").context("Wait")?.exit_status;
    ensure!(out.wait(LIMIT, |_, ended| ended), "its output does not end");
    let mut seen = observe::line(&out.bytes());
    if !seen.is_object() {
        seen = json!({ "output": seen });
    }
    seen["exit"] = json!(exit);
    seen["outside"] = outside;
    seen["exec"] = exec;
    task.delete("").context("Delete")?;
    Ok(Outcome::Ran(seen))
}

fn exec_in(run: &Run<'_>, task: &Task, process: &Value) -> Result<Value> {
    let out = Stream::read(Path::new(&run.dir.join("exec")))?;
    let mut request = task.exec_request("e", process);
    request.stdout = out.path();
    match task.exec(&request).and_then(|()| task.start("e")) {
        Ok(_) => {}
        Err(CallError::Refused { .. }) => return Ok(json!({ "refused": true })),
        Err(why) => return Err(why).context("an exec"),
    }
    task.wait("e").context("wait for the exec")?;
    ensure!(out.wait(LIMIT, |_, ended| ended), "the exec's output does not end");
    let mut seen = observe::line(&out.bytes());
    if !seen.is_object() {
        seen = json!({ "refused": false });
    }
    task.delete("e").context("delete the exec")?;
    Ok(seen)
}
