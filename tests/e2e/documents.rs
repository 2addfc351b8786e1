//! The documents of the repository: what is cited is there, and what is linked is there.
//!
//! Reads sources and documents as text; needs neither root nor a built program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::repository;

const CONTRACT: &str = "shim-sdk/CONTRACT.md";
const ROWS: &str = "tests/src/bin/shimcheck/rows";

/// The folders of the crates: a path in a document that begins so is one of the repository.
const CRATES: [&str; 7] =
    ["examples", "installer", "protos", "shim-runc", "shim-sdk", "supervisor", "tests"];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|cause| panic!("read {}: {cause}", path.display()))
}

/// The files below a directory whose names end so; what was built is left out.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("read a directory") {
        let entry = entry.expect("read a directory");
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().expect("stat").is_dir() {
            if name != "target" && name != ".git" {
                found.extend(files(&path, ending));
            }
        } else if name.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What the contract has under a citable name: `section 1.4` by its headings, `pain 6` and
/// `point 12` by the anchors in its tables.
fn citable() -> BTreeSet<String> {
    let contract = read(&repository().join(CONTRACT));
    let headings = contract.lines().filter_map(|line| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').trim_start();
        let number = title.split(' ').next()?.trim_end_matches('.');
        number
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| format!("section {number}"))
    });
    let anchors = ids(&contract).into_iter().map(|id| id.replacen('-', " ", 1));
    headings.chain(anchors).collect()
}

/// The anchors that a document sets itself.
fn ids(document: &str) -> Vec<String> {
    let after = document.split("id=\"").skip(1);
    after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// A text in quotes at the beginning of Rust source, and what follows it.
fn literal(source: &str) -> Option<(String, &str)> {
    let inner = source.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    })?;
    Some((inner[..end].to_owned(), &inner[end + 1..]))
}

/// The sources of a file's rows, with their names: `row(NAME, PROMISE, SOURCE, ...)`.
fn sources(text: &str) -> Vec<(String, String)> {
    let calls = text.match_indices("row(").filter(|(at, _)| {
        !text[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    });
    calls
        .filter_map(|(at, call)| {
            let (name, rest) = literal(&text[at + call.len()..])?;
            let (_promise, rest) = literal(rest.strip_prefix(',')?)?;
            let (source, _) = literal(rest.strip_prefix(',')?)?;
            Some((name, source))
        })
        .collect()
}

/// What a source cites: `§1.4, section 3, pain 6, points 1-2` and `points 3, 28`. `None` if a part
/// of it is none of these.
fn cited(source: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut kind = "";
    for part in source.split(", ") {
        let number = match part.strip_prefix('§') {
            Some(number) => {
                kind = "section";
                number
            }
            None => match part.split_once(' ') {
                Some((word, number)) => {
                    kind = word.strip_suffix('s').unwrap_or(word);
                    number
                }
                None => part,
            },
        };
        if !["section", "pain", "point"].contains(&kind) {
            return None;
        }
        match number.split_once('-') {
            Some((first, last)) => {
                let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
                all.extend((first..=last).map(|number| format!("{kind} {number}")));
            }
            None => {
                number.split('.').try_for_each(|digits| digits.parse::<u32>().map(drop)).ok()?;
                all.push(format!("{kind} {number}"));
            }
        }
    }
    Some(all)
}

#[test]
fn the_source_of_every_shimcheck_row_is_in_the_contract() {
    let citable = citable();
    let mut wrong = Vec::new();
    for file in files(&repository().join(ROWS), ".rs") {
        if file.ends_with("mod.rs") {
            continue;
        }
        let rows = sources(&read(&file));
        assert!(!rows.is_empty(), "no row was found in {}", file.display());
        for (row, source) in rows {
            match cited(&source) {
                Some(cited) => wrong.extend(
                    cited
                        .into_iter()
                        .filter(|one| !citable.contains(one))
                        .map(|one| format!("{row} cites {one}")),
                ),
                None => wrong.push(format!("{row} cites {source:?}, which has no known form")),
            }
        }
    }
    assert!(wrong.is_empty(), "not in {CONTRACT}: {wrong:#?}");
}

#[test]
fn every_section_that_a_comment_cites_is_in_the_contract() {
    let citable = citable();
    let mut wrong = Vec::new();
    for file in files(&repository(), ".rs") {
        let text = read(&file);
        for rest in text.split('§').skip(1) {
            let digits = |char: char| char.is_ascii_digit() || char == '.';
            let number = rest.split(|char| !digits(char)).next().unwrap_or_default();
            let number = number.trim_end_matches('.');
            if !number.is_empty() && !citable.contains(&format!("section {number}")) {
                wrong.push(format!("{} cites §{number}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not in {CONTRACT}: {wrong:#?}");
}

/// A document's text without its blocks of code.
fn prose(document: &str) -> String {
    let mut code = false;
    let lines = document.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a document: those of its headings, as GitHub makes them, and its own.
fn anchors(document: &str) -> BTreeSet<String> {
    let prose = prose(document);
    let headings = prose.lines().filter_map(|line| line.strip_prefix('#')).map(|heading| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
        kept.collect::<String>().replace(' ', "-")
    });
    headings.chain(ids(&prose)).collect()
}

#[test]
fn every_relative_link_leads_to_something_that_is_there() {
    let mut wrong = Vec::new();
    let mut links = 0;
    for file in files(&repository(), ".md") {
        let document = read(&file);
        let prose = prose(&document);
        // What stands between backticks is no link, and goes.
        let plain: String = prose.split('`').step_by(2).collect();
        for link in plain.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().expect("it has a name").join(path),
            };
            let there =
                target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !there {
                wrong.push(format!("{} links to {link}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not there: {wrong:#?}");
    assert!(links > 0, "no link was found");
}

#[test]
fn every_path_of_the_repository_that_a_document_names_is_there() {
    let root = repository();
    let mut wrong = Vec::new();
    for file in files(&root, ".md") {
        let prose = prose(&read(&file));
        for code in prose.split('`').skip(1).step_by(2) {
            let path = code.split_whitespace().next().unwrap_or_default();
            let target = match path.split_once('/') {
                // Of the crate whose page this is.
                Some(("src", _)) => file.parent().expect("it has a name").join(path),
                Some((first, _)) if CRATES.contains(&first) => root.join(path),
                _ => continue,
            };
            // A pattern names no single file, nor does a word that stands for a name.
            let pattern = path.contains(['{', '*', '…', '<']) || path.contains("NAME");
            if !pattern && !target.exists() {
                wrong.push(format!("{} names {path}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not there: {wrong:#?}");
}
