//! A run under a command-line runtime, executed as a shim executes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::shim::until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::observe::{self, Outcome};
use crate::runtimes::Run;

/// How long a runtime's command, or a probe, may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs one spec.
pub(crate) fn run(runtime: &Path, run: &Run<'_>) -> Result<Outcome> {
    let target = run.bundle.join("rootfs");
    fs::create_dir_all(&target)?;
    fs::write(run.bundle.join("config.json"), run.spec.to_string())?;
    let overlay = harness::shim::bundle::overlay(&run.fixture.rootfs, &run.dir.join("snap"))?;
    let options = overlay.options.join(",");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount the root file system")?;
    let tool = Tool { runtime, run, root: run.dir.join("state") };
    let outcome = tool.live();
    let _ = tool.command(&["delete", "--force"], &[&run.id]);
    let outcome = outcome?;
    umount2(&target, MntFlags::MNT_DETACH).context("unmount the root file system")?;
    Ok(match outcome {
        Outcome::Ran(mut seen) => {
            seen["hooks"] = observe::hooks(&run.dir);
            Outcome::Ran(seen)
        }
        other => other,
    })
}

struct Tool<'a> {
    runtime: &'a Path,
    run: &'a Run<'a>,
    root: PathBuf,
}

impl Tool<'_> {
    fn live(&self) -> Result<Outcome> {
        let run = self.run;
        let pid_file = run.dir.join("pid");
        let (bundle, pid_path) = (run.bundle.display().to_string(), pid_file.display().to_string());
        if let Err(why) =
            self.command(&["create", "--bundle", &bundle, "--pid-file", &pid_path], &[&run.id])?
        {
            return Ok(Outcome::NotCreated(why));
        }
        let pid = fs::read_to_string(&pid_file)?.trim().parse().context("read the pid")?;
        let outside = observe::from_outside(pid, run.fixture.root.namespace());
        if let Err(why) = self.command(&["start"], &[&run.id])? {
            return Ok(Outcome::NotStarted(why));
        }
        let mut exec = Value::Null;
        if let Some(process) = &run.process {
            self.until_seen(pid)?;
            exec = self.exec(process)?;
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let exit = exit_of(pid)?;
        let mut seen = observe::line(&fs::read(run.dir.join("create.out"))?);
        if !seen.is_object() {
            seen = json!({ "output": seen });
        }
        seen["exit"] = json!(exit);
        seen["outside"] = outside;
        seen["exec"] = exec;
        Ok(Outcome::Ran(seen))
    }

    fn exec(&self, process: &Value) -> Result<Value> {
        let path = self.run.dir.join("process.json");
        fs::write(&path, process.to_string())?;
        let path = path.display().to_string();
        let done = self.command(&["exec", "--process", &path], &[&self.run.id])?;
        let mut seen = observe::line(&fs::read(self.run.dir.join("exec.out"))?);
        if !seen.is_object() {
            seen = json!({ "refused": done.is_err() });
        }
        Ok(seen)
    }

    fn until_seen(&self, pid: i32) -> Result<()> {
        let out = self.run.dir.join("create.out");
        let seen = || {
            let written = fs::read(&out).is_ok_and(|bytes| bytes.contains(&b'\n'));
            (written || matches!(harness::leak::state(pid), None | Some('Z' | 'X'))).then_some(())
        };
        until(LIMIT, seen).context("the probe says nothing")
    }

    /// Executes one of its commands; what it complained of, if it failed.
    fn command(&self, words: &[&str], more: &[&str]) -> Result<Result<(), String>> {
        let verb = words.first().copied().unwrap_or_default();
        let out = self.run.dir.join(format!("{verb}.out"));
        let err = self.run.dir.join(format!("{verb}.err"));
        let log = self.run.dir.join(format!("{verb}.log"));
        // At its end from the beginning. Not the null device: crun 1.8 gives the one that it finds
        // among its streams, which is the host's, to the user of the container.
        let (stdin, _) = std::io::pipe()?;
        let mut command = Command::new(self.runtime);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(&log)
            .args(words)
            .args(more)
            .env(harness::root::MARKER, self.run.fixture.root.path())
            .stdin(stdin)
            .stdout(File::create(out)?)
            .stderr(File::create(&err)?);
        let mut child = command.spawn().context("execute the runtime")?;
        let Some(status) = until(LIMIT, || child.try_wait().transpose()) else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{verb} does not end");
        };
        let status = status?;
        if status.success() {
            return Ok(Ok(()));
        }
        let text = fs::read_to_string(&err).unwrap_or_default();
        let text = if text.trim().is_empty() { fs::read_to_string(&log)? } else { text };
        Ok(Err(text.lines().last().unwrap_or_default().chars().take(300).collect()))
    }
}

/// Waits for a process that has become this one's child, and reaps it.
fn exit_of(pid: i32) -> Result<i32> {
    let ended = || match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(Ok(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ok(128 + signal as i32)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    Ok(until(LIMIT, ended).context("init does not end")??)
}
