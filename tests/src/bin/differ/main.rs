//! Runs the same generated specs under runc, crun and our libcontainer engine, and compares what
//! a probe inside each container sees.
//!
//! `cargo run -p tests --bin differ` runs every variation of the base spec, valid, edge and invalid,
//! and a number of combinations of them (`--combinations N`, or `DIFFER_COMBINATIONS`), always the
//! same ones for the same number. runc is the measure. A difference is a failure unless `known` has
//! a reason for it, a reason without a difference is a failure too, and so is a line of the coverage
//! table in RUNC.md that is not what came out (`--write` puts it right). What is tried, and which
//! lines are checked, goes by the control groups that the host has (see [`host`]).
//!
//! runc and crun are executed as a shim executes them; ours is driven through its shim, over raw
//! ttrpc. The probe is this very program, which is linked statically, in the container.
//! See the OCI runtime specification, config.md.

mod case;
mod cases;
mod compare;
mod fixture;
mod host;
mod known;
mod observe;
mod options;
mod probe;
mod raw;
mod run;
mod runtimes;
mod shim;
mod table;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("probe") => return probe::run(words),
        Some("hook") => return probe::hook(words),
        _ => {}
    }
    harness::root::sweep_before_abort();
    match options::Options::parse(std::env::args().skip(1)).and_then(|options| run::all(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "differ: {why:#}");
            ExitCode::from(2)
        }
    }
}
