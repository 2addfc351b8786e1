//! Whole lives of /bin/true.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::shim::Bundle;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::fixture::{Contender, Fixture};
use crate::sample::median;

/// Rounds that do not count: caches are filled in them.
const WARM_UP: usize = 3;

/// What a life consists of.
const STEPS: [&str; 6] = ["start", "Create", "Start", "Wait", "Delete", "gone"];

/// One life: how long each of [`STEPS`] took, and all of them.
type Life = ([Duration; STEPS.len()], Duration);

/// Times of everybody.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    taken: Vec<(Contender, Vec<Life>)>,
}

impl Lives {
    /// How long `start` took.
    pub(crate) fn start(&self, of: Contender) -> Vec<Duration> {
        self.of(of).iter().map(|(steps, _)| steps[0]).collect()
    }

    /// How long everything took.
    pub(crate) fn total(&self, of: Contender) -> Vec<Duration> {
        self.of(of).iter().map(|(_, total)| *total).collect()
    }

    /// The median of each step, in ms.
    pub(crate) fn steps(&self, of: Contender) -> String {
        let medians = STEPS.iter().enumerate().map(|(index, step)| {
            let times: Vec<_> = self.of(of).iter().map(|(steps, _)| steps[index]).collect();
            format!("{step} {:.2}", median(&times))
        });
        medians.collect::<Vec<_>>().join(", ")
    }

    fn of(&self, of: Contender) -> &[Life] {
        let found = self.taken.iter().find(|(contender, _)| *contender == of);
        found.map_or(&[], |(_, lives)| lives)
    }
}

/// Measures `rounds` lives of each, in turns.
pub(crate) fn interleaved(fixture: &Fixture, of: &[Contender], rounds: usize) -> Result<Lives> {
    let mut lives = Lives { taken: of.iter().map(|&one| (one, Vec::new())).collect() };
    if of.is_empty() {
        return Ok(lives);
    }
    for round in 0..rounds + WARM_UP {
        for turn in 0..of.len() {
            let index = (round + turn) % of.len();
            let contender = of[index];
            let life = life(fixture, contender);
            let life = life.with_context(|| format!("a life of {contender:?}"))?;
            if round >= WARM_UP {
                lives.taken[index].1.push(life);
            }
        }
    }
    for &contender in of.iter().filter(|contender| contender.has_shim()) {
        println!("# steps of {contender:?}: {} ms", lives.steps(contender));
    }
    Ok(lives)
}

fn life(fixture: &Fixture, contender: Contender) -> Result<Life> {
    let bundle = fixture.bundle(contender, &["/bin/true"])?;
    let times = if contender.has_shim() {
        shim(fixture, contender, &bundle)
    } else {
        raw(fixture, &contender.program(), &bundle).map(|total| (Default::default(), total))
    }?;
    fixture.remove(&bundle)?;
    Ok(times)
}

fn shim(fixture: &Fixture, contender: Contender, bundle: &Bundle) -> Result<Life> {
    let began = Instant::now();
    let mut steps = [Duration::ZERO; STEPS.len()];
    let mut last = began;
    let mut step = |index: usize| {
        let now = Instant::now();
        steps[index] = now - last;
        last = now;
    };
    let (shim, start) = fixture.start(contender, bundle)?;
    step(0);
    shim.task.create(&bundle.create_request()).context("Create")?;
    step(1);
    shim.task.start("").context("Start")?;
    step(2);
    let exit = shim.task.wait("").context("Wait")?;
    step(3);
    shim.task.delete("").context("Delete")?;
    step(4);
    fixture.until_gone(&bundle.id)?;
    step(5);
    // Without the connecting, which is not the shim's.
    steps[0] = start;
    ensure!(exit.exit_status == 0, "/bin/true ended with {}", exit.exit_status);
    shim.leave()?;
    Ok((steps, last - began))
}

/// The runtime's own commands; its root file system is mounted before and unmounted after.
fn raw(fixture: &Fixture, runtime: &Path, bundle: &Bundle) -> Result<Duration> {
    let target = bundle.path.join("rootfs");
    let overlay = bundle.rootfs.first().context("a bundle has a root")?;
    let options = overlay.options.join(",");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount the root file system")?;
    let root = fixture.path().join("raw");
    let pid_file = bundle.path.join("pid");
    let runtime = |verb: &[&str]| -> Result<()> {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(&root).args(verb).arg(&bundle.id);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("execute the runtime")?;
        ensure!(status.success(), "{} {verb:?}: {status}", command.get_program().display());
        Ok(())
    };
    let (path, pid_path) = (bundle.path.display().to_string(), pid_file.display().to_string());
    let began = Instant::now();
    runtime(&["create", "--bundle", &path, "--pid-file", &pid_path])?;
    let pid = fs::read_to_string(&pid_file)?.trim().parse().ok().and_then(Pid::from_raw);
    let process = pidfd_open(pid.context("read the process id")?, PidfdFlags::empty())?;
    runtime(&["start"])?;
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut ended, PollTimeout::from(10_000_u16))?;
    runtime(&["delete"])?;
    let total = began.elapsed();
    umount2(&target, MntFlags::empty()).context("unmount the root file system")?;
    Ok(total)
}
