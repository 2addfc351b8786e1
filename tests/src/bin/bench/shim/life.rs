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

use super::place::{Contender, Place};

/// Rounds that do not count: caches are filled in them.
const WARM_UP: usize = 3;

/// Times of everybody.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    taken: Vec<(Contender, Vec<Duration>, Vec<Duration>)>,
}

impl Lives {
    /// How long `start` took.
    pub(crate) fn start(&self, of: Contender) -> &[Duration] {
        self.find(of).map_or(&[], |(_, start, _)| start.as_slice())
    }

    /// How long everything took.
    pub(crate) fn total(&self, of: Contender) -> &[Duration] {
        self.find(of).map_or(&[], |(_, _, total)| total.as_slice())
    }

    fn find(&self, of: Contender) -> Option<&(Contender, Vec<Duration>, Vec<Duration>)> {
        self.taken.iter().find(|(contender, ..)| *contender == of)
    }
}

/// Measures `rounds` lives of each, in turns.
pub(crate) fn interleaved(place: &Place, of: &[Contender], rounds: usize) -> Result<Lives> {
    let mut lives =
        Lives { taken: of.iter().map(|&contender| (contender, Vec::new(), Vec::new())).collect() };
    if of.is_empty() {
        return Ok(lives);
    }
    for round in 0..rounds + WARM_UP {
        for turn in 0..of.len() {
            let index = (round + turn) % of.len();
            let contender = of[index];
            let (start, total) =
                life(place, contender).with_context(|| format!("a life of {contender:?}"))?;
            if round >= WARM_UP {
                lives.taken[index].1.push(start);
                lives.taken[index].2.push(total);
            }
        }
    }
    Ok(lives)
}

fn life(place: &Place, contender: Contender) -> Result<(Duration, Duration)> {
    let bundle = place.bundle(contender, &["/bin/true"])?;
    let times = if contender.has_shim() {
        shim(place, contender, &bundle)
    } else {
        raw(place, &contender.program(), &bundle).map(|total| (Duration::ZERO, total))
    }?;
    place.remove(&bundle)?;
    Ok(times)
}

fn shim(place: &Place, contender: Contender, bundle: &Bundle) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    let (shim, start) = place.start(contender, bundle)?;
    shim.run(bundle)?;
    let exit = shim.task.wait("").context("Wait")?;
    shim.task.delete("").context("Delete")?;
    place.until_gone(&bundle.id)?;
    let total = began.elapsed();
    ensure!(exit.exit_status == 0, "/bin/true ended with {}", exit.exit_status);
    shim.leave()?;
    Ok((start, total))
}

/// The runtime's own commands; its root file system is mounted before and unmounted after.
fn raw(place: &Place, runtime: &Path, bundle: &Bundle) -> Result<Duration> {
    let target = bundle.path.join("rootfs");
    let overlay = bundle.rootfs.first().context("a bundle has a root")?;
    let options = overlay.options.join(",");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount the root file system")?;
    let root = place.path().join("raw");
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
