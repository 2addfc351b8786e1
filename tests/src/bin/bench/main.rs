//! Measures our shims and supervisor against containerd's and runc's, in turns on the same machine.
//!
//! `cargo run --release -p tests --bin bench -- run` prints one line per metric, tab-separated:
//! `metric ours peer ratio`, medians in ms or kB. Lines that begin with `#` carry versions, what was
//! made sure of beforehand, and the spread.
//!
//! Run by hand, to check a claim of speed; `tests/run.sh` does not run it.

mod build;
mod run;
mod sample;
mod shim;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    harness::root::sweep_before_abort();
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("bench: {why:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("run") => {
            let rounds = words.next().map(|text| text.parse()).transpose()?;
            run::bench(rounds.unwrap_or(40))
        }
        Some("shim") => shim::bench(words),
        other => bail!(
            "unknown bench {other:?}; there are: run [ROUNDS], shim [--only METRIC] [--samples N]"
        ),
    }
}
