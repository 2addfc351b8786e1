//! What is printed.

use std::io::Write;
use std::time::Duration;

use crate::row::Row;
use crate::rows;
use crate::verdict::Verdict;

/// Counts of verdicts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) held: usize,
    pub(crate) broken: usize,
    pub(crate) known: usize,
    pub(crate) not_offered: usize,
}

impl Counts {
    /// Takes one more into account.
    pub(crate) fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Held => self.held += 1,
            Verdict::Broken(_) => self.broken += 1,
            Verdict::Known(..) => self.known += 1,
            Verdict::NotOffered(_) => self.not_offered += 1,
        }
    }
}

/// One line on standard output, at once.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone must not end the program: the rows still have to clean up.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The rows there are.
pub(crate) fn list() {
    for row in rows::all() {
        line(&format!("{:<28} {} [{}]", row.id, row.promise, row.source));
    }
}

/// That a row was broken, and is checked once more before that counts.
pub(crate) fn doubt(row: &Row, seen: &str) {
    line(&format!("# {} was broken, and is checked once more, alone: {seen}", row.id));
}

/// How one row ended.
pub(crate) fn verdict(row: &Row, verdict: &Verdict, took: Duration, swept: usize) {
    let (word, seen) = match verdict {
        Verdict::Held => ("held", None),
        Verdict::Broken(seen) => ("BROKEN", Some(("seen", seen.as_str()))),
        Verdict::Known(seen, _) => ("known", Some(("seen", seen.as_str()))),
        Verdict::NotOffered(why) => ("not offered", Some(("why", why.as_str()))),
    };
    line(&format!(
        "{word:<11} {:<28} {} [{}] {:.2} s",
        row.id,
        row.promise,
        row.source,
        took.as_secs_f32()
    ));
    if let Some((name, text)) = seen {
        for (index, part) in text.lines().enumerate() {
            let name = if index == 0 { name } else { "" };
            line(&format!("{:<11} {name:>5} {part}", ""));
        }
    }
    if let Verdict::Known(_, record) = verdict {
        line(&format!("{:<11} known {record}", ""));
    }
    if swept > 0 && matches!(verdict, Verdict::Broken(_)) {
        line(&format!("# swept {swept} leftovers of {}", row.id));
    }
}

/// How one row ended, as a test program says it. The caller that chose the rows knows that the machine can
/// show them, so one that is not offered has failed.
pub(crate) fn test(name: &str, row: &Row, verdict: &Verdict, took: Duration) {
    let said = match verdict {
        Verdict::Held => None,
        Verdict::Broken(seen) | Verdict::Known(seen, _) => Some(seen.clone()),
        Verdict::NotOffered(why) => Some(format!("not offered: {why}")),
    };
    let word = if said.is_none() { "ok" } else { "FAILED" };
    line(&format!("test {name}::{} ... {word}", row.id));
    if let Some(said) = said {
        line(&format!("    {} [{}] {:.2} s", row.promise, row.source, took.as_secs_f32()));
        for part in said.lines() {
            line(&format!("    {part}"));
        }
    }
}

/// The last line of a test program.
pub(crate) fn tests(counts: Counts, took: Duration) {
    let failed = counts.broken + counts.known + counts.not_offered;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    line(&format!(
        "test result: {word}. {} passed; {failed} failed; finished in {:.2}s",
        counts.held,
        took.as_secs_f32()
    ));
}

/// The last line.
pub(crate) fn counts(counts: Counts, rows: usize, took: Duration) {
    line(&format!(
        "{rows} rows in {:.0} s: {} held, {} broken, {} known, {} not offered",
        took.as_secs_f32(),
        counts.held,
        counts.broken,
        counts.known,
        counts.not_offered
    ));
}
