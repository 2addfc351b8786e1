//! Whether an input ran code that none before it ran.

#[cfg(not(fuzz_coverage))]
mod counters {
    /// Without counters in the build, every input is like those before it.
    pub(super) fn counters<'a>() -> &'a mut [u64] {
        &mut []
    }
}
#[cfg(fuzz_coverage)]
use crate::sys as counters;

/// What has run so far.
pub(crate) struct Coverage {
    /// For each counter, which magnitudes it has had: a loop that runs ten times as often is news.
    seen: Vec<u8>,
}

impl Coverage {
    pub(crate) fn begin() -> Self {
        let counters = counters::counters();
        counters.fill(0);
        Self { seen: vec![0; counters.len()] }
    }

    /// Whether anything new has run since the last call; forgets what ran.
    pub(crate) fn is_new(&mut self) -> bool {
        let mut new = false;
        for (count, seen) in counters::counters().iter_mut().zip(&mut self.seen) {
            if *count > 0 {
                let magnitude = 1 << (count.ilog2().div_ceil(2)).min(7);
                new |= *seen & magnitude == 0;
                *seen |= magnitude;
                *count = 0;
            }
        }
        new
    }
}
