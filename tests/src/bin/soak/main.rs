//! Many containers and execs through one shim, 16 at a time; and the same while its libcontainer
//! helper is killed and stopped at random.
//!
//! `cargo run --release -p tests --bin soak -- --containers 5000 --execs 5000` asserts that every
//! exit is the right one and told once, that the shim has no thread, descriptor, child or memory
//! more than before, and that nothing is left on the host. With `--kill-helper SECONDS` the helper gets
//! SIGKILL or SIGSTOP every few milliseconds for so long: calls may then fail, but each is answered
//! in time, whatever was made is told to have ended and can be deleted, and containers that ran
//! before run on.

mod host;
mod kill_helper;
mod load;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use host::Host;
use load::Work;

/// What to do.
#[derive(Debug)]
struct Options {
    containers: usize,
    execs: usize,
    parallel: usize,
    kill_helper: Option<Duration>,
}

/// How much more memory of its own the shim may have: what an allocator keeps, not what is lost.
const GROWTH_KB: u64 = 512;

fn main() -> ExitCode {
    harness::root::sweep_before_abort();
    match options(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "soak: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { containers: 5000, execs: 5000, parallel: 16, kill_helper: None };
    while let Some(word) = words.next() {
        let mut number = || -> Result<usize> {
            words
                .next()
                .with_context(|| format!("{word} wants a number"))?
                .parse()
                .context("a number")
        };
        match word.as_str() {
            "--containers" => options.containers = number()?,
            "--execs" => options.execs = number()?,
            "--parallel" => options.parallel = number()?,
            "--kill-helper" => options.kill_helper = Some(Duration::from_secs(number()? as u64)),
            other => bail!(
                "what is {other:?}? [--containers N] [--execs N] [--parallel N] [--kill-helper SECONDS]"
            ),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    let host = Host::start()?;
    let done = match options.kill_helper {
        Some(time) => kill_helper::run(&host, options.parallel, time),
        None => soak(&host, options),
    };
    if let Err(why) = done {
        // Before the host goes, which may find that something is left and abort.
        writeln!(std::io::stdout(), "failed: {why:#}")?;
        bail!(
            "{why:#}; {}",
            host.end().err().map_or("nothing is left".into(), |left| format!("{left:#}"))
        );
    }
    host.end()
}

fn soak(host: &Host, options: &Options) -> Result<()> {
    // What is made once is made now.
    let warm_up = Work { first: 0, containers: 48, execs: 48 };
    load::run(host, warm_up, options.parallel)?;
    let before = host.settled(None)?;
    let began = Instant::now();
    let work = Work { first: 96, containers: options.containers, execs: options.execs };
    load::run(host, work, options.parallel)?;
    let took = began.elapsed();
    let after = host.settled(Some(&before))?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} containers and {} execs, {} at a time, in {:.1} s",
        options.containers,
        options.execs,
        options.parallel,
        took.as_secs_f32()
    )?;
    writeln!(out, "before {before:?}\nafter  {after:?}")?;
    ensure!(after.threads <= before.threads, "threads grew");
    ensure!(after.descriptors <= before.descriptors, "descriptors grew");
    ensure!(after.children <= before.children, "children grew");
    ensure!(after.private_kb <= before.private_kb + GROWTH_KB, "memory grew");
    host.exits_are_told_once(48 + options.containers, 48 + options.execs)
}
