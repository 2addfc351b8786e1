//! What one transfer may cost, and what it has cost so far.
//!
//! # Terms
//!
//! - *transfer*: everything that one request does with outside bytes: an import with its unpacks,
//!   an installation, one layer applied.
//! - *charge*: to add a cost before it is paid. A charge over a limit is refused.
//!
//! Promise: whatever an archive or a document makes this program do is charged to the one budget of
//! its transfer: no cost is paid per entry, per layer or per document without an end to their sum.
//! A budget that is stopped refuses every further charge, so that a transfer whose client has gone
//! ends at its next step.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much one transfer may cost. The defaults are above everything that real images were seen to
/// need; each says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in archives. The largest images have about a million files.
    pub max_entries: u64,
    /// Bytes after decompression. The largest images have some hundred GiB.
    pub max_bytes: u64,
    /// Components in the name of an entry. 4,095 bytes of path hold about 2,000; real trees stay
    /// below 50.
    pub max_depth: usize,
    /// Bytes of headers, which are entries' names, owners and attributes: 1 KiB for each of
    /// `max_entries`.
    pub max_header_bytes: u64,
    /// Bytes of names, links and labels that are kept in memory until the end of the transfer.
    /// An archive of a thousand images with fifteen layers each needs half of it.
    pub max_kept_bytes: u64,
    /// Bytes of JSON documents that are read. 10,000 images need about 120 MiB.
    pub max_document_bytes: u64,
    /// Directories looked into on the way to entries, in this layer and those below. A directory
    /// that is there is found in one step; others, and links, take one for each component, and one
    /// for each layer below. The largest images need some millions.
    pub max_steps: u64,
    /// Bytes that need no input to make them: a small archive may expand to this much.
    pub free_expansion_bytes: u64,
    /// Bytes that each further byte of input may expand to. gzip reaches 1,032 at most, so the limit
    /// does not refuse what gzip has packed.
    pub max_expansion: u64,
    /// Time from begin to end. The lease of an import ends after a day, too.
    pub max_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 4_000_000,
            max_bytes: 1 << 40,
            max_depth: 512,
            max_header_bytes: 4 << 30,
            max_kept_bytes: 24 << 20,
            max_document_bytes: 512 << 20,
            max_steps: 1 << 27,
            free_expansion_bytes: 1 << 30,
            max_expansion: 1100,
            max_time: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Something that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Bytes as they come in.
    Input,
    /// Bytes after decompression, holes of sparse entries where they are written, and copies.
    Output,
    /// Bytes of headers.
    Headers,
    /// Entries of archives.
    Entries,
    /// Bytes kept in memory until the end of the transfer.
    Kept,
    /// Bytes of documents that are read.
    Documents,
    /// Directories looked into.
    Steps,
}

/// A charge was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// A limit is reached.
    #[error("the transfer exceeds the limit of {limit} {unit}")]
    Limit {
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A little input makes too much output.
    #[error(
        "{output} bytes came out of {input} bytes: a transfer may expand to {free} bytes and \
         {ratio} times its size"
    )]
    Expansion {
        /// Bytes in.
        input: u64,
        /// Bytes out.
        output: u64,
        /// Bytes out that need no input.
        free: u64,
        /// Bytes out for each byte in.
        ratio: u64,
    },
    /// It took too long.
    #[error("the transfer takes longer than {} seconds", .limit.as_secs())]
    Time {
        /// How long it may take.
        limit: Duration,
    },
    /// It is no longer wanted.
    #[error("the transfer was stopped: its client has gone")]
    Stopped,
}

impl Exhausted {
    /// Finds the refused charge in the error of a reader.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Exhausted> for io::Error {
    fn from(refused: Exhausted) -> Self {
        Self::other(refused)
    }
}

/// The budget of one transfer. Clones charge to the same one.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    began: Instant,
    stopped: AtomicBool,
    input: AtomicU64,
    output: AtomicU64,
    headers: AtomicU64,
    entries: AtomicU64,
    kept: AtomicU64,
    documents: AtomicU64,
    steps: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Budget {
    /// A budget whose time begins now.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            began: Instant::now(),
            stopped: AtomicBool::new(false),
            input: AtomicU64::new(0),
            output: AtomicU64::new(0),
            headers: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            documents: AtomicU64::new(0),
            steps: AtomicU64::new(0),
        }))
    }

    /// What is allowed.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Charges `amount` of `cost`.
    pub fn charge(&self, cost: Cost, amount: u64) -> Result<(), Exhausted> {
        self.check()?;
        let limits = &self.0.limits;
        let (count, limit, unit) = match cost {
            Cost::Input => (&self.0.input, u64::MAX, "bytes of input"),
            Cost::Output => (&self.0.output, limits.max_bytes, "bytes, decompressed"),
            Cost::Headers => (&self.0.headers, limits.max_header_bytes, "bytes of headers"),
            Cost::Entries => (&self.0.entries, limits.max_entries, "entries"),
            Cost::Kept => (&self.0.kept, limits.max_kept_bytes, "bytes of names kept in memory"),
            Cost::Documents => (&self.0.documents, limits.max_document_bytes, "bytes of documents"),
            Cost::Steps => (&self.0.steps, limits.max_steps, "directories looked into"),
        };
        let now = count.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if now > limit {
            return Err(Exhausted::Limit { limit, unit });
        }
        if cost == Cost::Output {
            self.check_expansion(now)?;
        }
        Ok(())
    }

    /// Gives back what was kept and is no longer.
    pub fn release(&self, amount: u64) {
        // More is never given back than was charged.
        self.0.kept.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Refuses what comes when the time is over or the budget was stopped.
    pub fn check(&self) -> Result<(), Exhausted> {
        if self.0.stopped.load(Ordering::Relaxed) {
            return Err(Exhausted::Stopped);
        }
        let limit = self.0.limits.max_time;
        if self.0.began.elapsed() > limit {
            return Err(Exhausted::Time { limit });
        }
        Ok(())
    }

    /// Refuses every further charge.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Charges what is read from `reader` as `cost`.
    pub fn meter<R: Read>(&self, reader: R, cost: Cost) -> Metered<R> {
        Metered { reader, cost, budget: self.clone() }
    }

    fn check_expansion(&self, output: u64) -> Result<(), Exhausted> {
        let (free, ratio) = (self.0.limits.free_expansion_bytes, self.0.limits.max_expansion);
        if output <= free {
            return Ok(());
        }
        let input = self.0.input.load(Ordering::Relaxed);
        if output - free <= input.saturating_mul(ratio) {
            return Ok(());
        }
        Err(Exhausted::Expansion { input, output, free, ratio })
    }
}

/// A reader that charges what is read.
#[derive(Debug)]
pub struct Metered<R> {
    reader: R,
    cost: Cost,
    budget: Budget,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(into)?;
        self.budget.charge(self.cost, count as u64)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_charges_of_all_threads_is_bounded() {
        let budget = Budget::new(Limits { max_entries: 3, ..Limits::default() });
        let other = budget.clone();
        budget.charge(Cost::Entries, 2).unwrap();
        other.charge(Cost::Entries, 1).unwrap();
        let refused = budget.charge(Cost::Entries, 1).unwrap_err();
        assert!(refused.to_string().contains("3 entries"), "{refused}");
        budget.charge(Cost::Headers, 1).unwrap();
        budget.charge(Cost::Headers, u64::MAX - 1).unwrap_err();
    }

    #[test]
    fn output_needs_input() {
        let limits = Limits { free_expansion_bytes: 100, max_expansion: 10, ..Limits::default() };
        let budget = Budget::new(limits);
        budget.charge(Cost::Output, 100).unwrap();
        budget.charge(Cost::Input, 5).unwrap();
        budget.charge(Cost::Output, 50).unwrap();
        let refused = budget.charge(Cost::Output, 1).unwrap_err();
        assert_eq!(refused, Exhausted::Expansion { input: 5, output: 151, free: 100, ratio: 10 });
    }

    #[test]
    fn a_stopped_budget_ends_a_reader() {
        let budget = Budget::default();
        let mut reader = budget.meter(io::repeat(0), Cost::Input);
        let mut bytes = [0; 10];
        reader.read_exact(&mut bytes).unwrap();
        budget.stop();
        let error = reader.read(&mut bytes).unwrap_err();
        assert_eq!(Exhausted::within(&error), Some(&Exhausted::Stopped));
    }

    #[test]
    fn time_is_bounded() {
        let budget = Budget::new(Limits { max_time: Duration::ZERO, ..Limits::default() });
        std::thread::sleep(Duration::from_millis(2));
        assert!(matches!(budget.charge(Cost::Input, 1), Err(Exhausted::Time { .. })));
    }
}
