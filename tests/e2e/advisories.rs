//! Known vulnerabilities among our dependencies, from a clone of RustSec's database.

use std::fs;
use std::path::Path;

type Version = (u64, u64, u64);

/// One advisory, as far as it matters here.
struct Advisory {
    id: String,
    package: String,
    /// Version requirements under which the fault is absent.
    absent: Vec<String>,
    /// Notices (unmaintained, unsound) are not vulnerabilities.
    informational: bool,
}

fn advisory(text: &str) -> Option<Advisory> {
    let front = text.split_once("```toml")?.1.split_once("```")?.0;
    let table: toml::Table = toml::from_str(front).ok()?;
    let about = table.get("advisory")?;
    if about.get("withdrawn").is_some() {
        return None;
    }
    let mut absent = Vec::new();
    for key in ["patched", "unaffected"] {
        let list = table.get("versions").and_then(|versions| versions.get(key)?.as_array());
        absent
            .extend(list.into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())));
    }
    Some(Advisory {
        id: about.get("id")?.as_str()?.to_owned(),
        package: about.get("package")?.as_str()?.to_owned(),
        absent,
        informational: about.get("informational").is_some(),
    })
}

fn version(text: &str) -> Option<Version> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.trim().parse().ok());
    Some((parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?))
}

/// Whether a version meets every part of a requirement such as `>= 1.2, < 2` or `^0.9.5`.
fn meets(have: Version, requirement: &str) -> bool {
    requirement.split(',').all(|part| {
        let part = part.trim();
        let at = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
        let (operator, rest) = part.split_at(at);
        let Some(want) = version(rest) else { return false };
        let next = match want {
            (0, 0, patch) => (0, 0, patch + 1),
            (0, minor, _) => (0, minor + 1, 0),
            (major, ..) => (major + 1, 0, 0),
        };
        match operator.trim() {
            ">=" => have >= want,
            ">" => have > want,
            "<" => have < want,
            "<=" => have <= want,
            "=" => have == want,
            "~" => have >= want && (have.0, have.1) == (want.0, want.1),
            // As cargo reads a bare version.
            "^" | "" => have >= want && have < next,
            _ => false,
        }
    })
}

fn advisories(directory: &Path, found: &mut Vec<Advisory>) {
    for entry in fs::read_dir(directory).expect("list the database").flatten() {
        let path = entry.path();
        if path.is_dir() {
            advisories(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.extend(advisory(&fs::read_to_string(path).expect("read an advisory")));
        }
    }
}

#[test]
#[ignore = "needs the database: tests/run.sh fetches it where it can, and sets ADVISORY_DB"]
fn no_dependency_has_a_known_advisory() {
    let database = std::env::var("ADVISORY_DB").expect("ADVISORY_DB names a clone");
    let mut known = Vec::new();
    advisories(&Path::new(&database).join("crates"), &mut known);
    assert!(known.len() > 300, "the database is there: {} advisories", known.len());
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock: toml::Table =
        toml::from_str(&fs::read_to_string(lock).expect("read Cargo.lock")).expect("a TOML file");
    let mut hits = Vec::new();
    for package in lock["package"].as_array().expect("a list") {
        let name = package["name"].as_str().expect("a name");
        let text = package["version"].as_str().expect("a version");
        let have = version(text).expect("a semantic version");
        for advisory in known.iter().filter(|advisory| advisory.package == name) {
            let hit = !advisory.absent.iter().any(|requirement| meets(have, requirement));
            if hit && !advisory.informational {
                hits.push(format!("{name} {text}: {}", advisory.id));
            }
        }
    }
    assert!(hits.is_empty(), "known against our dependencies:\n{}", hits.join("\n"));
}

#[test]
fn a_version_requirement_is_read_as_cargo_means_it() {
    for (have, requirement, answer) in [
        ((1, 2, 3), ">= 1.2.3", true),
        ((1, 2, 3), "> 1.2.3", false),
        ((1, 2, 3), ">= 1.0, < 1.2", false),
        ((0, 9, 6), "^0.9.5", true),
        ((0, 10, 0), "^0.9.5", false),
        ((1, 9, 0), "1.2", true),
        ((1, 3, 0), "~1.2.1", false),
        ((1, 2, 3), "=1.2.3", true),
    ] {
        assert_eq!(meets(have, requirement), answer, "{have:?} {requirement}");
    }
}

#[test]
fn an_advisory_is_read_from_its_front_matter() {
    let text = "```toml\n[advisory]\nid = \"RUSTSEC-2020-0001\"\npackage = \"thing\"\n\n[versions]\n\
                patched = [\">= 1.2.3\"]\nunaffected = [\"< 1.0\"]\n```\n\n# Title\n";
    let advisory = advisory(text).expect("it is one");
    assert_eq!((advisory.id.as_str(), advisory.package.as_str()), ("RUSTSEC-2020-0001", "thing"));
    assert_eq!(advisory.absent, [">= 1.2.3", "< 1.0"]);
    assert!(!advisory.informational);
}
