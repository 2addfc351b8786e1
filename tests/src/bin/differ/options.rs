//! The command line.

use anyhow::{Context, Result, bail};

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many combinations, beside the single variations.
    pub(crate) combinations: usize,
    /// Only cases whose name contains one of these.
    pub(crate) only: Vec<String>,
    /// Whether RUNC.md is written instead of compared.
    pub(crate) write: bool,
    /// Whether each case's observations are printed.
    pub(crate) verbose: bool,
}

/// Enough for each pair of features to meet a few times.
const COMBINATIONS: usize = 80;

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options =
            Self { combinations: COMBINATIONS, only: Vec::new(), write: false, verbose: false };
        if let Ok(text) = std::env::var("DIFFER_COMBINATIONS") {
            options.combinations = text.parse().context("DIFFER_COMBINATIONS is not a number")?;
        }
        while let Some(word) = words.next() {
            match word.as_str() {
                "--combinations" => {
                    let number = words.next().context("--combinations wants a number")?;
                    options.combinations = number.parse().context("--combinations")?;
                }
                "--only" => options.only.push(words.next().context("--only wants a name")?),
                "--write" => options.write = true,
                "--verbose" => options.verbose = true,
                other => bail!(
                    "what is {other:?}? [--combinations N] [--only NAME]... [--write] [--verbose]"
                ),
            }
        }
        Ok(options)
    }

    /// Whether everything is run, so that what did not show is not there.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.is_empty() && self.combinations == COMBINATIONS
    }
}
