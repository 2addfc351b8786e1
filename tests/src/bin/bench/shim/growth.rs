//! What a long-lived shim holds more of after many execs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::shim::until;
use harness::wait;

use super::exec;
use super::fixture::{Contender, Fixture};
use super::memory;

/// How much more there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) threads: f64,
    pub(crate) descriptors: f64,
}

/// Makes so many execs, one after the other.
pub(crate) fn after(fixture: &Fixture, contender: Contender, execs: usize) -> Result<Growth> {
    let bundle = fixture.bundle(contender, &["/bin/sleep", "10000"])?;
    let (shim, _) = fixture.start(contender, &bundle)?;
    shim.run(&bundle)?;
    let pid = shim.pid()?;
    let held = || -> (usize, usize) {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count).unwrap_or(0)
        };
        (count("task"), count("fd"))
    };
    // The first few make what is made once.
    for number in 0..20 {
        exec::one(&shim.task, &format!("w{number}"))?;
    }
    // The shim gives memory back after half a second without work.
    wait::pass(Duration::from_secs(1));
    let before = held();
    // Half way as well: what an allocator keeps is had early, what is lost is lost all the time.
    let (first, mut half) = (memory::private_kb(pid)?, 0.0);
    for number in 0..execs {
        if number == execs / 2 {
            half = memory::private_kb(pid)?;
        }
        exec::one(&shim.task, &format!("e{number}")).with_context(|| format!("exec {number}"))?;
    }
    // What is being closed gets the time for it.
    until(Duration::from_secs(5), || {
        let now = held();
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
    let now = held();
    let last = memory::private_kb(pid)?;
    shim.end()?;
    fixture.remove(&bundle)?;
    println!(
        "# grown {contender:?}: threads {} to {}, descriptors {} to {}, private {first:.0} kB, half \
         way {half:.0}, at the end {last:.0}",
        before.0, now.0, before.1, now.1
    );
    let more = |now: usize, before: usize| now.saturating_sub(before) as f64;
    Ok(Growth { threads: more(now.0, before.0), descriptors: more(now.1, before.1) })
}
