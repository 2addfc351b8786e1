//! State while six Creates are under way in the same shim.
//!
//! Six runtimes and what they start keep every processor busy, and a client that has to wait for one
//! itself would count that as the shim's. So the asking and the reading of answers are done by threads
//! of real-time priority, for either peer, where the machine allows it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::shim::ttrpc::Pending;
use harness::shim::{Bundle, Task};
use protos::ttrpc::api::{StateRequest, StateResponse};

use super::fixture::{Contender, Fixture};
use crate::sample::{sorted, spread};

/// How often State is asked for. It is asked whether or not the last was answered, so that a slow
/// answer does not hide those that would have been slow as well.
const EVERY: Duration = Duration::from_millis(1);

/// How many Creates at a time.
const CREATES: usize = 6;

/// The 99th percentile, in ms, of at least `samples`.
pub(crate) fn p99(fixture: &Fixture, contender: Contender, samples: usize) -> Result<f64> {
    let group = format!("{}-{contender:?}", fixture.token());
    let host = fixture.grouped(contender, &["/bin/sleep", "10000"], &group)?;
    let (shim, _) = fixture.start(contender, &host)?;
    shim.run(&host)?;
    let (mut times, mut prompt) = (Vec::new(), true);
    while times.len() < samples {
        let bundles = (0..CREATES)
            .map(|_| fixture.grouped(contender, &["/bin/sleep", "10000"], &group))
            .collect::<Result<Vec<_>>>()?;
        let asked = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let prompt = become_prompt();
                    Ok((prompt, round(&shim.connected_anew()?, &bundles)?))
                })
                .join()
        });
        let asked: Result<_> = asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (was_prompt, took) = asked?;
        prompt &= was_prompt;
        times.extend(took);
        for bundle in &bundles {
            let task = shim.task.other(&bundle.id);
            task.kill("", 9).context("Kill")?;
            task.wait("").context("Wait")?;
            task.delete("").context("Delete")?;
            fixture.remove(bundle)?;
        }
    }
    shim.end()?;
    fixture.remove(&host)?;
    let client = if prompt { "real-time" } else { "ordinary: its own delays count" };
    println!("# state-p99 {contender:?}: {}; the client's priority is {client}", spread(&times));
    let times = sorted(&times);
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    Ok(times[at])
}

/// Gives the calling thread, and those it makes from now on, a real-time priority; whether it could.
fn become_prompt() -> bool {
    let thread = nix::unistd::gettid().to_string();
    let mut command = Command::new("chrt");
    let status = command.args(["--fifo", "--pid", "1", &thread]).status();
    status.is_ok_and(|status| status.success())
}

fn round(task: &Task, bundles: &[Bundle]) -> Result<Vec<Duration>> {
    let request = StateRequest { id: task.id().to_owned(), ..StateRequest::default() };
    let creating = bundles
        .iter()
        .map(|bundle| Ok(task.send("Create", &bundle.create_request())?))
        .collect::<Result<Vec<Pending>>>()?;
    let mut asked = Vec::new();
    let mut next = Instant::now();
    // As long as one of them is under way.
    for pending in &creating {
        while pending.is_silent_for(next.saturating_duration_since(Instant::now())) {
            asked.push(task.send("State", &request)?);
            next += EVERY;
        }
    }
    asked
        .iter()
        .map(|pending| {
            let answer = pending.wait_timed::<StateResponse>(Duration::from_secs(30));
            Ok(answer.context("State")?.1)
        })
        .collect()
}
