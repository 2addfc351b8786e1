//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::Hierarchy;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many combinations, beside the single variations.
    pub(crate) combinations: usize,
    /// Only cases whose name contains one of these.
    pub(crate) only: Vec<String>,
    /// Where RUNC.md is.
    pub(crate) document: PathBuf,
    /// Whether it is written instead of compared.
    pub(crate) write: bool,
    /// Whether each case's observations are printed.
    pub(crate) verbose: bool,
}

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            combinations: Hierarchy::of_host().combinations(),
            only: Vec::new(),
            document: Path::new(env!("CARGO_MANIFEST_DIR")).join("../RUNC.md"),
            write: false,
            verbose: false,
        };
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
                "--document" => {
                    options.document = words.next().context("--document wants a path")?.into();
                }
                "--write" => options.write = true,
                "--verbose" => options.verbose = true,
                other => bail!(
                    "what is {other:?}? [--combinations N] [--only NAME]... [--document PATH] \
                     [--write] [--verbose]"
                ),
            }
        }
        Ok(options)
    }

    /// Whether everything is run, so that what did not show is not there.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.is_empty() && self.combinations == Hierarchy::of_host().combinations()
    }
}
