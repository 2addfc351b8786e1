//! Waiting for something to become true, for a bounded time.

use std::time::{Duration, Instant};

/// How long a test waits for what should happen promptly; generous, since machines are shared.
pub const SOON: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
///
/// # Panics
///
/// When there is none within `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < limit, "waited {:.1} s in vain: {what}", limit.as_secs_f32());
        std::thread::sleep(Duration::from_millis(20));
    }
}
