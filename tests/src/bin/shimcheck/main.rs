//! Checks a shim against the runtime-v2 contract (`shim-sdk/CONTRACT.md`), row by row, without a
//! daemon.
//!
//! `cargo run --release -p tests --bin shimcheck -- /path/to/any-shim` plays the daemon: it executes
//! the shim as each release of containerd does, calls its Task service, receives its events, reads
//! its streams, and takes each of them away when a row is about just that. Every row ends as
//! `held`, `broken` with what was seen, `known` when it is broken on the shim that containerd itself
//! ships and that is on record, or `not offered`. It exits with 0 only when no row is broken.
//!
//! Each row runs in a process of its own, in a directory and a namespace of its own, for a bounded
//! time; what it leaves is found by its token and swept.

mod fake_runtime;
mod fixture;
mod job;
mod known;
mod metrics_v2;
mod options;
mod report;
mod row;
mod rows;
mod run;
mod verdict;

use std::process::ExitCode;

use options::{Command, Options};

fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(|command| match command {
        Command::Help => {
            report::line(options::USAGE);
            Ok(true)
        }
        Command::List => {
            report::list();
            Ok(true)
        }
        Command::Check(options) => run::all(&options),
        Command::Row(options, row) => run::one(&options, &row),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            report::complain(&format!("shimcheck: {why:#}"));
            ExitCode::from(2)
        }
    }
}
