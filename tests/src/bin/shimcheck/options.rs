//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::shim::Dialect;

/// How to call it.
pub(crate) const USAGE: &str = "\
usage: shimcheck SHIM [--runtime-binary PATH] [--only ROW]... [--dialect 1.6|1.7|2.0|2.3]
                      [--jobs N] [--execs N] [--limit SECONDS] [--keep] [--confirm]
                      [--as-tests NAME]
       shimcheck --list

  SHIM              the shim to check, under the name it is to have
  --runtime-binary  the runtime it is told to use (its own default otherwise)
  --only ROW        this row alone, or those that begin so; may be given more than once
  --dialect         how most rows start it (the newest that it answers otherwise)
  --jobs N          how many rows run side by side (default twice the processors, at most 8)
  --execs N         how many execs the row on growth makes (default 200)
  --limit SECONDS   for everything (default 600)
  --keep            leave the files of broken rows for a look (processes and mounts still go)
  --confirm         check a broken row once more, alone, and count what is seen then: for a shim
                    that is not yours to mend, and that has races
  --as-tests NAME   report each row as a test, NAME::ROW; one that is not offered is one that failed";

/// What to do.
pub(crate) enum Command {
    /// Say how to call it.
    Help,
    /// Name the rows.
    List,
    /// Check them.
    Check(Options),
    /// Check one, in this process.
    Row(Options, String),
}

/// What is checked, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The shim.
    pub(crate) shim: PathBuf,
    /// The runtime that the options name.
    pub(crate) runtime: Option<PathBuf>,
    /// Rows, or what they begin with; all if empty.
    pub(crate) only: Vec<String>,
    /// How most rows start it.
    pub(crate) dialect: Option<Dialect>,
    /// How many rows run side by side.
    pub(crate) jobs: usize,
    /// How many execs the row on growth makes.
    pub(crate) execs: usize,
    /// The bound on everything.
    pub(crate) limit: Duration,
    /// Whether files stay.
    pub(crate) keep: bool,
    /// Whether a broken row is checked once more, and counts as it ends then.
    pub(crate) confirm: bool,
    /// What the rows are called as tests, if they are to be reported as such.
    pub(crate) tests: Option<String>,
    /// The row's own directory, when this process checks one.
    pub(crate) place: PathBuf,
    /// The root file system that containers share.
    pub(crate) rootfs: PathBuf,
}

impl Options {
    /// Reads the words after the program's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Command> {
        let mut options = Self {
            shim: PathBuf::new(),
            runtime: None,
            only: Vec::new(),
            dialect: None,
            jobs: std::thread::available_parallelism().map_or(2, |n| 2 * n.get()).min(8),
            execs: 200,
            limit: Duration::from_secs(600),
            keep: false,
            confirm: false,
            tests: None,
            place: PathBuf::new(),
            rootfs: PathBuf::new(),
        };
        let mut row = None;
        while let Some(word) = words.next() {
            let word = word.to_string_lossy().into_owned();
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            let text = |value: OsString| value.to_string_lossy().into_owned();
            match word.as_str() {
                "--help" | "-h" => return Ok(Command::Help),
                "--list" => return Ok(Command::List),
                "--runtime-binary" => options.runtime = Some(found(&text(value()?))?),
                "--only" => {
                    options.only.extend(text(value()?).split(',').map(str::to_owned));
                }
                "--dialect" => options.dialect = Some(dialect(&text(value()?))?),
                "--jobs" => {
                    options.jobs = text(value()?).parse::<usize>().context("--jobs")?.max(1)
                }
                "--execs" => options.execs = text(value()?).parse().context("--execs")?,
                "--limit" => {
                    options.limit = Duration::from_secs(text(value()?).parse().context("--limit")?);
                }
                "--keep" => options.keep = true,
                "--confirm" => options.confirm = true,
                "--as-tests" => options.tests = Some(text(value()?)),
                // Between this program and its own copies.
                "--row" => row = Some(text(value()?)),
                "--place" => options.place = value()?.into(),
                "--rootfs" => options.rootfs = value()?.into(),
                other if other.starts_with('-') => bail!("unknown option {other}\n{USAGE}"),
                path if options.shim.as_os_str().is_empty() => options.shim = found(path)?,
                other => bail!("one shim at a time: what is {other}?\n{USAGE}"),
            }
        }
        if options.shim.as_os_str().is_empty() {
            bail!("which shim?\n{USAGE}");
        }
        Ok(match row {
            Some(row) => Command::Row(options, row),
            None => Command::Check(options),
        })
    }
}

/// The absolute path, since shims run in other directories; its last name is left as it is, because
/// a shim may go by the name it is called by.
fn found(path: &str) -> Result<PathBuf> {
    let given = PathBuf::from(path);
    let path = if given.components().count() == 1 && !given.exists() {
        harness::programs::find(path).with_context(|| format!("{path} is not on PATH"))?
    } else {
        given
    };
    let path = std::path::absolute(&path).with_context(|| format!("find {}", path.display()))?;
    if !path.is_file() {
        bail!("{} is not a file", path.display());
    }
    Ok(path)
}

fn dialect(text: &str) -> Result<Dialect> {
    Ok(match text {
        "1.6" => Dialect::V1_6,
        "1.7" => Dialect::V1_7,
        "2.0" | "2.1" | "2.2" => Dialect::V2_0,
        "2.3" | "2.4" => Dialect::V2_3,
        other => bail!("no dialect of containerd {other}: 1.6, 1.7, 2.0 or 2.3"),
    })
}

/// The word of a dialect on the command line.
pub(crate) fn word(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::V1_6 => "1.6",
        Dialect::V1_7 => "1.7",
        Dialect::V2_0 => "2.0",
        Dialect::V2_3 => "2.3",
    }
}
