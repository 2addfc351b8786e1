//! Execs of /bin/true in containers that run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::shim::{Bundle, Task, bundle};

use super::fixture::{Contender, Fixture, Started};

/// Execs that do not count.
const WARM_UP: usize = 3;

/// Times of everybody.
#[derive(Debug)]
pub(crate) struct Execs(Vec<(Contender, Vec<Duration>)>);

impl Execs {
    /// How long they took.
    pub(crate) fn of(&self, of: Contender) -> &[Duration] {
        self.0
            .iter()
            .find(|(contender, _)| *contender == of)
            .map_or(&[], |(_, times)| times.as_slice())
    }
}

/// Measures `rounds` execs of each, in turns, each in a container of its own.
pub(crate) fn interleaved(fixture: &Fixture, of: &[Contender], rounds: usize) -> Result<Execs> {
    let mut hosts: Vec<(Started, Bundle)> = Vec::new();
    for &contender in of {
        let bundle = fixture.bundle(contender, &["/bin/sleep", "10000"])?;
        let (shim, _) = fixture.start(contender, &bundle)?;
        shim.run(&bundle)?;
        hosts.push((shim, bundle));
    }
    let mut execs = Execs(of.iter().map(|&contender| (contender, Vec::new())).collect());
    for round in 0..rounds + WARM_UP {
        for turn in 0..of.len() {
            let index = (round + turn) % of.len();
            let took = one(&hosts[index].0.task, &format!("e{round}"))
                .with_context(|| format!("an exec of {:?}", of[index]))?;
            if round >= WARM_UP {
                execs.0[index].1.push(took);
            }
        }
    }
    for (shim, bundle) in &hosts {
        shim.end()?;
        fixture.remove(bundle)?;
    }
    Ok(execs)
}

/// One exec: Exec, Start, Wait, Delete.
pub(crate) fn one(task: &Task, exec: &str) -> Result<Duration> {
    let process = bundle::process(&["/bin/true".to_owned()]);
    let request = task.exec_request(exec, &process);
    let began = Instant::now();
    task.exec(&request).context("Exec")?;
    task.start(exec).context("Start")?;
    let exit = task.wait(exec).context("Wait")?;
    task.delete(exec).context("Delete")?;
    let took = began.elapsed();
    ensure!(exit.exit_status == 0, "/bin/true ended with {}", exit.exit_status);
    Ok(took)
}
