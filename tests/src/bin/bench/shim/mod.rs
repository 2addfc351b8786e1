//! `shim`: our shims against containerd's own, over raw ttrpc, with the same bundle.
//!
//! Everything is measured in turns on the same machine, each going first as often as the others.
//! What each metric counts:
//!
//! | metric | what |
//! |---|---|
//! | `start` | executing `start` to its end, with the address read |
//! | `total-*` | start, Create, Start, Wait and Delete of /bin/true, until the runtime's state, the cgroups and the mounts are gone |
//! | `overhead-runc` | what the shim adds to the raw runtime's commands: both columns less `runc create`, `start` and `delete` |
//! | `exec*` | Exec, Start, Wait and Delete of /bin/true in a running container |
//! | `state-p99` | State, asked every millisecond, while six Creates are under way in the same shim |
//! | `pss*`, `private` | kB of each of 20 idle shims with a running container, helpers included |
//! | `threads` | threads of such a shim |
//! | `*-grown` | threads and descriptors more after 2,000 execs |
//!
//! The peer is the Go shim on runc, but for `total-youki-crun`, whose peer is the raw commands of
//! crun. crun is measured without the v2 hierarchy of hybrid hosts, which it cannot use.

mod exec;
mod fixture;
mod growth;
mod life;
mod memory;
mod state;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::namespace;

use crate::build;
use crate::sample::{median, spread};
use fixture::{Contender, Fixture};

const METRICS: [&str; 16] = [
    "start",
    "total-runc",
    "total-crun",
    "overhead-runc",
    "exec",
    "exec-crun",
    "state-p99",
    "pss",
    "private",
    "threads",
    "threads-grown",
    "fds-grown",
    "total-youki",
    "total-youki-crun",
    "exec-youki",
    "pss-youki",
];

/// What was asked for.
struct Wanted {
    only: Vec<String>,
    samples: Option<usize>,
}

impl Wanted {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self { only: Vec::new(), samples: None };
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--only" => wanted.only.extend(value.split(',').map(str::to_owned)),
                "--samples" => wanted.samples = Some(value.parse().context("--samples")?),
                other => bail!("unknown option {other}"),
            }
        }
        for metric in &wanted.only {
            ensure!(
                METRICS.contains(&metric.as_str()),
                "no metric {metric}; there are {}",
                METRICS.join(", ")
            );
        }
        Ok(wanted)
    }

    fn any(&self, metrics: &[&str]) -> bool {
        metrics.iter().any(|metric| self.one(metric))
    }

    fn one(&self, metric: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == metric)
    }

    fn samples(&self, usual: usize) -> usize {
        self.samples.unwrap_or(usual)
    }
}

/// Measures and prints.
pub(crate) fn bench(words: impl Iterator<Item = String>) -> Result<()> {
    let wanted = Wanted::parse(words)?;
    // Before there is a thread: it would stay in the host's.
    namespace::private().context("make a private mount namespace")?;
    let binaries = build::shims()?;
    let fixture = Fixture::new()?;
    println!("# ours: {}", binaries.display());
    for contender in [Contender::Go, Contender::RawRunc, Contender::RawCrun] {
        println!("# peer: {}", contender.version()?);
    }
    println!("# kernel: {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    println!(
        "# bundles: on a tmpfs, as in /run; root file systems: in {}",
        fixture.path().display()
    );

    let measured = measure(&fixture, &wanted);
    if let Err(why) = &measured {
        // Told first: what a failure leaves in the middle is found below, and is not the fault.
        println!("# failed: {why:#}");
    }
    measured
}

fn measure(fixture: &Fixture, wanted: &Wanted) -> Result<()> {
    on_runc(fixture, wanted)?;
    if wanted.one("state-p99") {
        let samples = wanted.samples(600).max(100);
        let ours = state::p99(fixture, Contender::OursRunc, samples)?;
        let peer = state::p99(fixture, Contender::Go, samples)?;
        line("state-p99", ours, peer);
    }
    memory_metrics(fixture, wanted)?;
    if wanted.any(&["threads-grown", "fds-grown"]) {
        let execs = wanted.samples(2000);
        let ours = growth::after(fixture, Contender::OursRunc, execs)?;
        let peer = growth::after(fixture, Contender::Go, execs)?;
        println!("# grown: over {execs} execs");
        if wanted.one("threads-grown") {
            line("threads-grown", ours.threads, peer.threads);
        }
        if wanted.one("fds-grown") {
            line("fds-grown", ours.descriptors, peer.descriptors);
        }
    }
    on_crun(fixture, wanted)
}

fn on_runc(fixture: &Fixture, wanted: &Wanted) -> Result<()> {
    let mut contenders = Vec::new();
    if wanted.any(&["start", "total-runc", "overhead-runc"]) {
        contenders.extend([Contender::OursRunc, Contender::Go]);
    }
    if wanted.one("overhead-runc") {
        contenders.push(Contender::RawRunc);
    }
    if wanted.one("total-youki") {
        contenders.push(Contender::OursYouki);
        if !contenders.contains(&Contender::Go) {
            contenders.push(Contender::Go);
        }
    }
    let lives = life::interleaved(fixture, &contenders, wanted.samples(40))?;
    if wanted.one("start") {
        compare("start", &lives.start(Contender::OursRunc), &lives.start(Contender::Go));
    }
    if wanted.one("total-runc") {
        compare("total-runc", &lives.total(Contender::OursRunc), &lives.total(Contender::Go));
    }
    if wanted.one("overhead-runc") {
        let raw = lives.total(Contender::RawRunc);
        println!("# overhead-runc raw commands: {}", spread(&raw));
        let (raw, ours, peer) = (
            median(&raw),
            median(&lives.total(Contender::OursRunc)),
            median(&lives.total(Contender::Go)),
        );
        line("overhead-runc", ours - raw, peer - raw);
    }
    if wanted.one("total-youki") {
        compare("total-youki", &lives.total(Contender::OursYouki), &lives.total(Contender::Go));
    }
    let mut contenders = Vec::new();
    if wanted.one("exec") {
        contenders.push(Contender::OursRunc);
    }
    if wanted.one("exec-youki") {
        contenders.push(Contender::OursYouki);
    }
    if contenders.is_empty() {
        return Ok(());
    }
    contenders.push(Contender::Go);
    let execs = exec::interleaved(fixture, &contenders, wanted.samples(60))?;
    for (metric, contender) in [("exec", Contender::OursRunc), ("exec-youki", Contender::OursYouki)]
    {
        if wanted.one(metric) {
            compare(metric, execs.of(contender), execs.of(Contender::Go));
        }
    }
    Ok(())
}

fn memory_metrics(fixture: &Fixture, wanted: &Wanted) -> Result<()> {
    if !wanted.any(&["pss", "private", "threads", "pss-youki"]) {
        return Ok(());
    }
    // What was just built is private dirty until it is written back.
    nix::unistd::sync();
    let peer = memory::of_twenty(fixture, Contender::Go)?;
    println!("# memory of the peer: {peer}");
    if wanted.any(&["pss", "private", "threads"]) {
        let ours = memory::of_twenty(fixture, Contender::OursRunc)?;
        println!("# memory of ours: {ours}");
        for (metric, ours, peer) in [
            ("pss", ours.pss_kb, peer.pss_kb),
            ("private", ours.private_kb, peer.private_kb),
            ("threads", ours.threads, peer.threads),
        ] {
            if wanted.one(metric) {
                line(metric, ours, peer);
            }
        }
    }
    if wanted.one("pss-youki") {
        let ours = memory::of_twenty(fixture, Contender::OursYouki)?;
        println!("# memory of ours on libcontainer: {ours}");
        line("pss-youki", ours.pss_kb, peer.pss_kb);
    }
    Ok(())
}

fn on_crun(fixture: &Fixture, wanted: &Wanted) -> Result<()> {
    if !wanted.any(&["total-crun", "total-youki-crun", "exec-crun"]) {
        return Ok(());
    }
    let hidden = namespace::hide_unified().context("hide the v2 hierarchy")?;
    if hidden {
        println!("# from here on without /sys/fs/cgroup/unified, for crun");
    }
    let measured = crun_metrics(fixture, wanted);
    if hidden {
        // With what crun, which takes it for a hierarchy, has left there.
        namespace::forget_unified().context("unmount what hid it")?;
    }
    measured
}

fn crun_metrics(fixture: &Fixture, wanted: &Wanted) -> Result<()> {
    let mut contenders = Vec::new();
    if wanted.one("total-crun") {
        contenders.extend([Contender::OursCrun, Contender::Go]);
    }
    if wanted.one("total-youki-crun") {
        contenders.extend([Contender::OursYouki, Contender::RawCrun]);
    }
    let lives = life::interleaved(fixture, &contenders, wanted.samples(40))?;
    if wanted.one("total-crun") {
        compare("total-crun", &lives.total(Contender::OursCrun), &lives.total(Contender::Go));
    }
    if wanted.one("total-youki-crun") {
        let (ours, peer) = (lives.total(Contender::OursYouki), lives.total(Contender::RawCrun));
        compare("total-youki-crun", &ours, &peer);
    }
    if wanted.one("exec-crun") {
        let contenders = [Contender::OursCrun, Contender::Go];
        let execs = exec::interleaved(fixture, &contenders, wanted.samples(60))?;
        compare("exec-crun", execs.of(Contender::OursCrun), execs.of(Contender::Go));
    }
    Ok(())
}

/// A metric of times: its line, and its spread as comments.
fn compare(metric: &str, ours: &[Duration], peer: &[Duration]) {
    println!("# {metric} ours: {}", spread(ours));
    println!("# {metric} peer: {}", spread(peer));
    line(metric, median(ours), median(peer));
}

fn line(metric: &str, ours: f64, peer: f64) {
    // Nothing grown on either side is as good as equal to nothing.
    let ratio = if ours == 0.0 { 0.0 } else { ours / peer };
    println!("{metric}\t{ours:.2}\t{peer:.2}\t{ratio:.3}");
}
