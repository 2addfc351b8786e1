//! Measures two things in turns, and sums up the figures.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Times of two things, taken in turns so that other load of the machine hits both.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    ours: Vec<Duration>,
    peer: Vec<Duration>,
}

impl Pair {
    /// Measures both `rounds` times, after a few rounds that do not count.
    pub(crate) fn interleaved(
        rounds: usize,
        mut ours: impl FnMut() -> Result<Duration>,
        mut peer: impl FnMut() -> Result<Duration>,
    ) -> Result<Self> {
        let mut pair = Self::default();
        for round in 0..rounds + 3 {
            // Each goes first as often as the other.
            let (a, b) = if round % 2 == 0 {
                let a = ours()?;
                (a, peer()?)
            } else {
                let b = peer()?;
                (ours()?, b)
            };
            if round >= 3 {
                pair.ours.push(a);
                pair.peer.push(b);
            }
        }
        Ok(pair)
    }

    /// Prints the metric's line, and its spread as a comment.
    pub(crate) fn print(&self, metric: &str) {
        let (ours, peer) = (median(&self.ours), median(&self.peer));
        println!("# {metric} ours: {}", spread(&self.ours));
        println!("# {metric} peer: {}", spread(&self.peer));
        println!("{metric}\t{ours:.2}\t{peer:.2}\t{:.3}", ours / peer);
    }
}

/// In ms, shortest first.
pub(crate) fn sorted(times: &[Duration]) -> Vec<f64> {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The middle, in ms.
pub(crate) fn median(times: &[Duration]) -> f64 {
    let times = sorted(times);
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 }
}

/// Count, quartiles and extremes.
pub(crate) fn spread(times: &[Duration]) -> String {
    let times = sorted(times);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    format!(
        "n {}, min {:.2}, p25 {:.2}, median {:.2}, p75 {:.2}, max {:.2} ms",
        times.len(),
        at(0.0),
        at(0.25),
        at(0.5),
        at(0.75),
        at(1.0)
    )
}

/// How long a command takes from start to exit; it must succeed.
pub(crate) fn time(mut command: Command) -> Result<Duration> {
    let line = harness::command::line(&command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let began = Instant::now();
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    let took = began.elapsed();
    ensure!(status.success(), "`{line}` {status}");
    Ok(took)
}
