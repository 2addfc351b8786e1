//! Containers and execs, several at a time, each with an exit status of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use harness::shim::bundle;

use crate::host::Host;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// The number of the first, so that no two execs bear the same name.
    pub(crate) first: usize,
    pub(crate) containers: usize,
    pub(crate) execs: usize,
}

/// Does all of it, or says what went wrong first.
pub(crate) fn run(host: &Host, work: Work, parallel: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let wrong: Mutex<Option<anyhow::Error>> = Mutex::default();
    let all = work.containers + work.execs;
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= all {
                        return;
                    }
                    // In turns, until there is no more of the one.
                    let both = 2 * work.containers.min(work.execs);
                    let is_exec =
                        if number < both { number % 2 == 1 } else { work.execs > work.containers };
                    let number = work.first + number;
                    let done = if is_exec { exec(host, number) } else { container(host, number) };
                    if let Err(why) = done {
                        // The first error is kept; the other threads stop for it.
                        next.store(all, Ordering::Relaxed);
                        if let Ok(mut wrong) = wrong.lock() {
                            wrong.get_or_insert(why.context(format!("number {number}")));
                        }
                    }
                }
            });
        }
    });
    match wrong.into_inner().map_err(|_| anyhow!("a worker panicked"))? {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

fn container(host: &Host, number: usize) -> Result<()> {
    let status = u32::try_from(number % 200)?;
    let bundle = host.bundle(&format!("exit {status}"))?;
    let task = host.task(&bundle.id);
    task.create(&bundle.create_request()).context("Create")?;
    task.start("").context("Start")?;
    let exit = task.wait("").context("Wait")?.exit_status;
    let deleted = task.delete("").context("Delete")?.exit_status;
    ensure!((exit, deleted) == (status, status), "exit {exit}, deleted {deleted}, of {status}");
    host.remove(&bundle)
}

fn exec(host: &Host, number: usize) -> Result<()> {
    let status = u32::try_from(number % 200)?;
    let task = host.anchor();
    let name = format!("e{number}");
    let process = bundle::process(&bundle::shell(&format!("exit {status}")));
    task.exec(&task.exec_request(&name, &process)).context("Exec")?;
    task.start(&name).context("Start of an exec")?;
    let exit = task.wait(&name).context("Wait for an exec")?.exit_status;
    let deleted = task.delete(&name).context("Delete of an exec")?.exit_status;
    ensure!((exit, deleted) == (status, status), "exit {exit}, deleted {deleted}, of {status}");
    Ok(())
}
