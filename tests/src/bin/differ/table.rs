//! The coverage table in RUNC.md: which features each runtime supports, from what it did.

use std::io::Write;

use anyhow::{Context, Result};

use crate::case::{Fate, Variation};
use crate::cases;
use crate::compare;
use crate::known::KNOWN;
use crate::observe::Outcome;
use crate::options::Options;
use crate::runtimes::{RUNTIMES, Results};

const BEGIN: &str = "<!-- coverage: written by `differ --write`, checked by `differ` -->\n";
const END: &str = "<!-- end of coverage -->\n";

/// Compares the table in RUNC.md with what came out, or writes it.
pub(crate) fn check(
    results: &Results,
    variations: &[Variation],
    options: &Options,
    out: &mut impl Write,
) -> Result<bool> {
    let path = &options.document;
    let text = std::fs::read_to_string(path).context("read RUNC.md")?;
    let (before, rest) = text.split_once(BEGIN).context("RUNC.md has no coverage table")?;
    let (there, after) = rest.split_once(END).context("RUNC.md's coverage table has no end")?;
    let table = render(results, variations, there);
    if there == table {
        return Ok(true);
    }
    if options.write {
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}"))?;
        writeln!(out, "# wrote {}", path.display())?;
        return Ok(true);
    }
    for line in table.lines().filter(|line| !there.lines().any(|known| known == *line)) {
        writeln!(out, "STALE in RUNC.md, now: {line}")?;
    }
    for line in there.lines().filter(|line| !table.lines().any(|known| known == *line)) {
        writeln!(out, "STALE in RUNC.md, was: {line}")?;
    }
    Ok(false)
}

/// How an outcome falls short of what the specification says of a variation.
pub(crate) fn shortfall(variation: &Variation, outcome: &Outcome) -> Option<String> {
    match (variation.fate, outcome) {
        (Fate::Open, _) => None,
        (Fate::Refused, Outcome::Ran(_)) => Some("ran".to_owned()),
        (Fate::Refused, _) => None,
        (Fate::Runs, Outcome::Ran(seen)) => {
            let wrong = variation.claims.iter().find(|(at, want)| seen.pointer(at) != Some(want));
            wrong.map(|(at, want)| {
                let got = seen.pointer(at).map_or("nothing".to_owned(), ToString::to_string);
                format!("{at} is {got}, not {want}")
            })
        }
        (Fate::Runs, other) => Some(compare::brief(other)),
    }
}

/// The table of everything: the lines of what was tried, and those that are there of what another
/// host tries.
fn render(results: &Results, variations: &[Variation], there: &str) -> String {
    let mut features: Vec<&str> = Vec::new();
    for variation in &cases::all() {
        if !features.contains(&variation.feature) {
            features.push(variation.feature);
        }
    }
    let mut text =
        "| Feature | Specs | runc | crun | libcontainer |\n|---|---|---|---|---|\n".to_owned();
    for feature in features {
        let singles: Vec<_> = results
            .cases
            .iter()
            .zip(&results.outcomes)
            .filter_map(|(case, row)| match case.parts.as_slice() {
                &[part] if variations[part].feature == feature => Some((&variations[part], row)),
                _ => None,
            })
            .collect();
        if singles.is_empty() {
            let line = there.lines().find(|line| line.starts_with(&format!("| {feature} |")));
            text.extend(line.into_iter().flat_map(|line| [line, "\n"]));
            continue;
        }
        let cells: Vec<_> = (0..RUNTIMES.len()).map(|column| cell(&singles, column)).collect();
        text.push_str(&format!("| {feature} | {} | {} |\n", singles.len(), cells.join(" | ")));
    }
    text.push_str(
        "\nWhere libcontainer under our shim is not as runc, known and checked to be still so:\n\n",
    );
    text.push_str("| Specs | Seen in | Difference |\n|---|---|---|\n");
    for known in KNOWN {
        let plain = |text: &str| text.replace('|', "\\|");
        text.push_str(&format!(
            "| {} | `{}` | {} |\n",
            plain(&known.specs()),
            plain(if known.place.is_empty() { "everywhere" } else { known.place }),
            plain(known.why)
        ));
    }
    text
}

fn cell(singles: &[(&Variation, &[Outcome; 3])], column: usize) -> String {
    let short: Vec<_> = singles
        .iter()
        .filter(|(variation, row)| shortfall(variation, &row[column]).is_some())
        .map(|(variation, row)| {
            let how = match (&row[column], variation.fate) {
                (Outcome::Ran(_), Fate::Refused) => "not refused",
                (Outcome::Ran(_), _) => "not done",
                _ => "refused",
            };
            format!("{} ({how})", variation.name)
        })
        .collect();
    match short.len() {
        0 => "yes".to_owned(),
        some if some == singles.len() => "no".to_owned(),
        _ => format!("but for {}", short.join(", ")),
    }
}
