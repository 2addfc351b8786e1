//! The crates that the lock file has in more than one version, against the list in `.deny.toml`.
//!
//! cargo-deny reads the same list. The test needs no program but cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::workspace::{list, metadata, repository, text};

/// The versions of each crate.
type Versions = BTreeMap<String, BTreeSet<String>>;

/// The versions that `skip` lists, each with its reason.
fn listed(deny: &str) -> Vec<(String, String, String)> {
    let deny: toml::Table = toml::from_str(deny).expect("a TOML file");
    let bans = &deny["bans"];
    assert_eq!(bans["multiple-versions"].as_str(), Some("deny"));
    let rows = bans["skip"].as_array().expect("a list").iter();
    rows.map(|row| {
        let of = |key: &str| row[key].as_str().expect("a text").to_owned();
        let of_crate = of("crate");
        let (name, version) = of_crate.split_once('@').expect("NAME@VERSION");
        (name.to_owned(), version.to_owned(), of("reason"))
    })
    .collect()
}

/// What is wrong: a second version that no row lists, and a row that no second version needs.
fn wrong(versions: &Versions, deny: &str) -> Vec<String> {
    let listed = listed(deny);
    let mut wrong = Vec::new();
    for (name, versions) in versions {
        let rows: BTreeSet<&String> =
            listed.iter().filter(|row| row.0 == *name).map(|row| &row.1).collect();
        let kept: Vec<&String> = versions.iter().filter(|one| !rows.contains(one)).collect();
        if kept.len() > 1 {
            wrong.push(format!("{name} has the versions {kept:?}"));
        }
    }
    for (name, version, reason) in &listed {
        let versions = versions.get(name);
        if !versions.is_some_and(|all| all.len() > 1 && all.contains(version)) {
            wrong.push(format!("{name}@{version} is listed and is no second version"));
        }
        if reason.is_empty() {
            wrong.push(format!("{name}@{version} is listed without a reason"));
        }
    }
    wrong
}

#[test]
fn a_crate_has_one_version_unless_the_reason_is_listed() {
    let metadata = metadata();
    let mut versions = Versions::new();
    for package in list(&metadata["packages"]) {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        versions.entry(name.to_owned()).or_default().insert(version.to_owned());
    }
    let deny = fs::read_to_string(repository().join(".deny.toml")).expect("read .deny.toml");
    let wrong = wrong(&versions, &deny);
    assert!(wrong.is_empty(), "not as [bans] of .deny.toml says:\n{}", wrong.join("\n"));
}

#[test]
fn a_new_duplicate_and_a_stale_row_are_found() {
    let one = |versions: &[&str]| versions.iter().map(|one| (*one).to_owned()).collect();
    let versions: Versions = [
        ("listed".to_owned(), one(&["1.0.0", "2.0.0"])),
        ("new".to_owned(), one(&["1.0.0", "2.0.0"])),
        ("single".to_owned(), one(&["1.0.0"])),
    ]
    .into();
    let deny = r#"
        [bans]
        multiple-versions = "deny"
        skip = [
          { crate = "listed@1.0.0", reason = "a crate uses it" },
          { crate = "single@1.0.0", reason = "a crate used it" },
          { crate = "gone@1.0.0", reason = "" },
        ]
    "#;
    assert_eq!(
        wrong(&versions, deny),
        [
            r#"new has the versions ["1.0.0", "2.0.0"]"#,
            "single@1.0.0 is listed and is no second version",
            "gone@1.0.0 is listed and is no second version",
            "gone@1.0.0 is listed without a reason",
        ]
    );
}
