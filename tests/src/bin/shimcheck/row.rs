//! A row of the contract.

use std::time::Duration;

use anyhow::Result;

use crate::fixture::Fixture;

/// One promise and the check of it.
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) id: &'static str,
    /// What is promised.
    pub(crate) promise: &'static str,
    /// Where from, in `shim-sdk/CONTRACT.md`: a section (`§1.4`, `section 3`), a pain of section 3
    /// (`pain 6`), or a point of section 4 (`point 13`).
    pub(crate) source: &'static str,
    /// How long the check may take. Those that may take long begin first.
    pub(crate) limit: Duration,
    /// Whether the check measures so finely that no other may run beside it.
    pub(crate) alone: bool,
    /// The check.
    pub(crate) check: fn(&Fixture) -> Result<()>,
}

/// A row that takes no longer than most.
pub(crate) const fn row(
    id: &'static str,
    promise: &'static str,
    source: &'static str,
    check: fn(&Fixture) -> Result<()>,
) -> Row {
    Row { id, promise, source, limit: Duration::from_secs(40), alone: false, check }
}

impl Row {
    /// The same with another limit.
    pub(crate) const fn within(self, seconds: u64) -> Self {
        Self { limit: Duration::from_secs(seconds), ..self }
    }

    /// The same, and nothing beside it.
    pub(crate) const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}
