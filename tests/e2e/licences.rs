//! The licences and the sources of our dependencies, against `.deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::image;
use serde_json::Value;

use crate::workspace::{list, metadata, repository};

/// What `.deny.toml` says, in cargo-deny's own terms.
struct Policy {
    accepted: BTreeSet<String>,
    /// Crates that may carry a licence which others may not.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    /// Crates whose manifest names a file: the expression it stands for, and the file with its sum.
    clarified: BTreeMap<String, (String, String, String)>,
}

impl Policy {
    fn read() -> Self {
        let text =
            std::fs::read_to_string(repository().join(".deny.toml")).expect("read .deny.toml");
        let deny: toml::Table = toml::from_str(&text).expect("a TOML file");
        let licenses = &deny["licenses"];
        let text = |value: &toml::Value| value.as_str().expect("a text").to_owned();
        let names = |value: &toml::Value| -> BTreeSet<String> {
            value.as_array().expect("a list").iter().map(text).collect()
        };
        let each = |key: &str| {
            licenses
                .get(key)
                .map(|list| list.as_array().expect("a list").clone())
                .unwrap_or_default()
        };
        Self {
            accepted: names(&licenses["allow"]),
            exceptions: each("exceptions")
                .iter()
                .map(|entry| (text(&entry["crate"]), names(&entry["allow"])))
                .collect(),
            clarified: each("clarify")
                .iter()
                .map(|entry| {
                    let file = &entry["license-files"][0];
                    let said =
                        (text(&entry["expression"]), text(&file["path"]), text(&file["sha256"]));
                    (text(&entry["crate"]), said)
                })
                .collect(),
        }
    }

    fn accepts(&self, package: &Value) -> bool {
        let name = package["name"].as_str().expect("a name");
        let expression = match (package["license"].as_str(), self.clarified.get(name)) {
            (Some(expression), _) => expression,
            (None, Some((expression, file, sum))) => {
                let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
                let text =
                    std::fs::read(manifest.with_file_name(file)).expect("the licence's text");
                if image::hex(&text) != *sum {
                    return false;
                }
                expression
            }
            (None, None) => return false,
        };
        let mut accepted = self.accepted.clone();
        accepted.extend(self.exceptions.get(name).into_iter().flatten().cloned());
        satisfied(expression, &accepted)
    }
}

/// Whether an SPDX expression can be satisfied with accepted licences alone; what cannot be read as
/// one is not.
///
/// `OR` needs one side, `AND` both; `/` is how old manifests wrote `OR`.
fn satisfied(expression: &str, accepted: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Words = spaced.split_whitespace().peekable();
    any(&mut words, accepted).unwrap_or(false) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words, accepted: &BTreeSet<String>) -> Option<bool> {
    let mut answer = all(words, accepted)?;
    while words.next_if_eq(&"OR").is_some() {
        answer |= all(words, accepted)?;
    }
    Some(answer)
}

fn all(words: &mut Words, accepted: &BTreeSet<String>) -> Option<bool> {
    let mut answer = one(words, accepted)?;
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words, accepted)?;
    }
    Some(answer)
}

fn one(words: &mut Words, accepted: &BTreeSet<String>) -> Option<bool> {
    let name = words.next()?;
    if name == "(" {
        let answer = any(words, accepted)?;
        return (words.next()? == ")").then_some(answer);
    }
    if words.next_if_eq(&"WITH").is_some() {
        return Some(accepted.contains(&format!("{name} WITH {}", words.next()?)));
    }
    Some(accepted.contains(name))
}

#[test]
fn every_dependency_has_an_accepted_licence() {
    let policy = Policy::read();
    let metadata = metadata();
    let packages = list(&metadata["packages"]);
    assert!(packages.len() > 50, "the whole graph is looked at");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !policy.accepts(package))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(refused.is_empty(), "not accepted by .deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn a_licence_expression_is_read_as_spdx_means_it() {
    let accepted: BTreeSet<String> =
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert!(satisfied(good, &accepted), "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "",
        "MIT OR",
        "GPL-2.0 WITH Classpath-exception-2.0",
        "MIT MIT",
    ] {
        assert!(!satisfied(bad, &accepted), "{bad}");
    }
}

#[test]
fn every_dependency_comes_from_the_registry_at_a_locked_version() {
    let metadata = metadata();
    let odd: Vec<String> = list(&metadata["packages"])
        .iter()
        .filter(|package| {
            // Our own crates have no source.
            package["source"].as_str().is_some_and(|source| !source.starts_with("registry+"))
        })
        .map(|package| package["id"].to_string())
        .collect();
    assert!(odd.is_empty(), "not from the registry: {odd:?}");
}
