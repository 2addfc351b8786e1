//! Waiting: for a condition with a deadline, or for a time that the test itself is about.
//!
//! No other file of the tests sleeps, except programs that run in a container.

use std::time::{Duration, Instant};

/// How long a test waits for what should happen promptly; generous, since machines are shared.
pub const SOON: Duration = Duration::from_secs(20);

/// How long something is watched that must not change: many times what the change would take.
pub const QUIET: Duration = Duration::from_millis(300);

/// Asks until there is an answer.
///
/// # Panics
///
/// When there is none within `limit`.
pub fn eventually<T>(limit: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until(limit, ask)
        .unwrap_or_else(|| panic!("waited {:.1} s in vain: {what}", limit.as_secs_f32()))
}

/// Asks until there is an answer, or `limit` is over.
pub fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if began.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Whether something is true at every look for the whole of `time`; ends at the first look at which it is not.
///
/// For what must not happen, where nothing that happens later tells that it did not.
pub fn holds(time: Duration, mut ask: impl FnMut() -> bool) -> bool {
    until(time, || (!ask()).then_some(())).is_none()
}

/// What is counted once it has not changed for [`QUIET`]; the last count if that takes longer than [`SOON`].
pub fn steady<T: PartialEq>(mut count: impl FnMut() -> T) -> T {
    let mut last = count();
    until(SOON, || {
        let mut next = None;
        let same = holds(QUIET, || {
            let now = count();
            let same = now == last;
            next = Some(now);
            same
        });
        last = next.take()?;
        same.then_some(())
    });
    last
}

/// Lets a time pass that is a part of the scenario: the moment at which a call is cut off, how long a
/// peer is away or does not read, the interval of a sampler.
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}
