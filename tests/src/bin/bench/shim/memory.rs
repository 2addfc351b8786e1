//! What idle shims hold: each with one running container, twenty of them.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::proc;
use harness::wait;

use super::fixture::{Contender, Fixture};

const SHIMS: usize = 20;

/// Means over all shims.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Memory {
    /// Proportional set size.
    pub(crate) pss_kb: f64,
    /// Private pages, clean and dirty.
    pub(crate) private_kb: f64,
    /// Threads.
    pub(crate) threads: f64,
    /// Processes: the shim and its helpers.
    pub(crate) processes: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "each of {SHIMS}: PSS {:.0} kB, private {:.0} kB, {:.1} threads, {:.1} processes",
            self.pss_kb, self.private_kb, self.threads, self.processes
        )
    }
}

/// Starts twenty, lets them settle, and looks.
pub(crate) fn of_twenty(fixture: &Fixture, contender: Contender) -> Result<Memory> {
    let mut shims = Vec::new();
    for _ in 0..SHIMS {
        let bundle = fixture.bundle(contender, &["/bin/sleep", "10000"])?;
        let (shim, _) = fixture.start(contender, &bundle)?;
        shim.run(&bundle)?;
        shims.push((shim, bundle));
    }
    // Idle: helpers that leave when nothing happens have left, and pages are written back.
    wait::pass(Duration::from_secs(4));
    nix::unistd::sync();
    let mut sum = Memory::default();
    for (shim, _) in &shims {
        let pid = shim.pid()?;
        for process in std::iter::once(pid).chain(helpers(pid, fixture.token())) {
            let rollup = rollup(process)?;
            sum.pss_kb += field(&rollup, "Pss:");
            sum.private_kb += private(&rollup);
            sum.processes += 1.0;
        }
        sum.threads += fs::read_dir(format!("/proc/{pid}/task"))?.count() as f64;
    }
    for (shim, bundle) in &shims {
        shim.end()?;
        fixture.remove(bundle)?;
    }
    let count = SHIMS as f64;
    Ok(Memory {
        pss_kb: sum.pss_kb / count,
        private_kb: sum.private_kb / count,
        threads: sum.threads / count,
        processes: sum.processes / count,
    })
}

/// The children of a shim that are not in a container's cgroup.
fn helpers(shim: i32, token: &str) -> Vec<i32> {
    let is_outside = |pid: &i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        groups.is_ok_and(|groups| !groups.contains(token))
    };
    proc::children(shim).into_iter().filter(is_outside).collect()
}

/// The private pages of one process, clean and dirty, in kB.
pub(crate) fn private_kb(process: i32) -> Result<f64> {
    Ok(private(&rollup(process)?))
}

fn private(rollup: &str) -> f64 {
    field(rollup, "Private_Clean:") + field(rollup, "Private_Dirty:")
}

fn rollup(process: i32) -> Result<String> {
    fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .with_context(|| format!("read the memory of {process}"))
}

fn field(rollup: &str, name: &str) -> f64 {
    rollup
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}
