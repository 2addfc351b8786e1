//! Attacks our engines, archives and daemon from outside, and prints which attacks failed.
//!
//! `cargo run --release -p tests --bin attack` plays a hostile image, archive, container, client and
//! local user against release binaries, on this machine and as root. Each attack prints one line:
//! `held NAME`, or `BROKEN NAME: what was seen`. The exit code is 0 only when all hold.
//!
//! An attack asserts what must be true after it was tried, so a panic is its failure. Each runs in a
//! process and a directory of its own, for a bounded time; what it leaves is found by its token,
//! counts against it, and is swept. What runs inside a container is this same program ([`container`]).

mod attack;
mod attacks;
mod container;
mod engine;
mod fixture;
mod job;
mod sys;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use harness::programs;

use attack::Attack;
use engine::Engine;

const USAGE: &str = "\
usage: attack [--only NAME]... [--jobs N]
       attack --list

  --only NAME  this attack alone, or those that begin so; may be given more than once
  --jobs N     how many attacks run side by side (default 3)

The binaries are those of TEST_BIN_DIR, or else are built for release first.";

/// What to do.
enum Do {
    Help,
    List,
    Attack { only: Vec<String>, jobs: usize },
    One { name: String, root: PathBuf },
    Inside(Vec<String>),
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(perform) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            complain(&format!("attack: {why:#}"));
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Do> {
    let (mut only, mut jobs) = (Vec::new(), 3);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--help" | "-h" => return Ok(Do::Help),
            "--list" => return Ok(Do::List),
            "--only" => only.push(value()?),
            "--jobs" => jobs = value()?.parse().context("--jobs takes a number")?,
            "--one" => return Ok(Do::One { name: value()?, root: value()?.into() }),
            "--in-container" => return Ok(Do::Inside(words.collect())),
            _ => bail!("{word:?} is not understood\n{USAGE}"),
        }
    }
    Ok(Do::Attack { only, jobs: jobs.max(1) })
}

fn perform(what: Do) -> Result<bool> {
    match what {
        Do::Help => say(USAGE),
        Do::List => {
            for attack in attacks::all() {
                say(&format!("{:30} {:5} {}", attack.name(), attack.point, attack.promise));
            }
        }
        Do::Attack { only, jobs } => {
            ensure!(nix::unistd::geteuid().is_root(), "attacks make containers: run this as root");
            binaries()?;
            return job::all(chosen(&only)?, jobs);
        }
        Do::One { name, root } => {
            let attack = attacks::all().into_iter().find(|attack| attack.name() == name);
            let attack = attack.with_context(|| format!("no attack is called {name}"))?;
            (attack.attempt)(&fixture::Fixture::new(&root, attack.engine));
        }
        Do::Inside(words) => container::run(&words),
    }
    Ok(true)
}

fn chosen(only: &[String]) -> Result<Vec<Attack>> {
    let mut attacks = attacks::all();
    attacks.retain(|attack| {
        only.is_empty() || only.iter().any(|begin| attack.name().starts_with(begin.as_str()))
    });
    ensure!(!attacks.is_empty(), "no attack is called {}", only.join(", "));
    Ok(attacks)
}

/// Takes the binaries of `TEST_BIN_DIR`, or builds them for release.
fn binaries() -> Result<()> {
    if std::env::var_os(programs::BINARIES).is_none() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for package in ["supervisor", "shim-runc"] {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--locked", "--release", "-p", package]);
            let built = build.current_dir(&tree).status().context("run cargo")?;
            ensure!(built.success(), "cargo build --release -p {package}: {built}");
        }
        let release = tree.join("target/x86_64-unknown-linux-gnu/release");
        programs::choose(&release.canonicalize().context("find the release binaries")?);
    }
    let directory = programs::directory();
    let youki = directory.join(Engine::Youki.shim());
    if !youki.exists() {
        std::fs::hard_link(directory.join(Engine::Runc.shim()), &youki)
            .with_context(|| format!("link {}", youki.display()))?;
    }
    Ok(())
}

#[allow(clippy::print_stdout)] // the results
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)] // errors go to standard error
fn complain(text: &str) {
    eprintln!("{text}");
}
