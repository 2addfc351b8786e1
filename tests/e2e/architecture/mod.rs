//! The structure of the workspace: who may import whom, and where which names may stand.
//!
//! The rules, with their reasons, are in `rules.rs`; what breaks them today is in `exceptions.rs`.
//!
//! - A crate imports those of ours that the table allows, with those features.
//! - The files of a crate need each other in one direction: a file can be read, tested and moved with what
//!   is below it. A folder's `mod.rs` and the files of that folder are one unit, so paths from a file to its
//!   ancestors do not count (`circles::edges` has the details).
//! - Generated messages stand where a wire is spoken: a change of the wire changes those files alone.
//! - The command line of the supervisor needs what a client has: types of images, the configuration and the
//!   connection to the daemon (the table `FOLDERS`).
//! - `unsafe` stands in files and folders named `sys`: who checks memory safety reads those.
//! - A kind of system call has one library: functions of libc are called in `sys`, nix is for what rustix
//!   lacks (the table `NIX`), rustix is for the rest.
//! - A crate uses each dependency that it declares: an unused one costs build time and review.
//!
//! Reads sources as tokens; needs neither root nor a built program.

mod circles;
mod exceptions;
mod rules;
mod source;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::exceptions::{EXCEPTIONS, Exception};
use self::rules::{DOMAIN, FOLDERS, IMPORTS, NIX, OF_TESTS, PLACES};
use self::source::{Mention, Sources};
use crate::workspace::{list, metadata, repository, text};

/// A rule that the sources or manifests can break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    Import,
    Circle,
    Place,
    Folder,
    Unsafe,
    SystemCall,
    Dependency,
}

/// What breaks a rule: what, and why the rule is there.
type Broken = BTreeMap<String, String>;

/// One of our crates with the sources of its targets.
struct Member {
    name: String,
    /// The root of the repository.
    root: PathBuf,
    folder: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

struct Target {
    kind: String,
    sources: Sources,
}

struct Dependency {
    name: String,
    /// As sources name it.
    import: String,
    /// `dev`, `build`, or empty for a normal one.
    kind: String,
    features: BTreeSet<String>,
    ours: bool,
}

impl Member {
    fn read_all() -> Vec<Self> {
        let metadata = metadata();
        let own = |package: &&Value| package["source"].is_null();
        list(&metadata["packages"]).iter().filter(own).map(Self::read).collect()
    }

    fn read(package: &Value) -> Self {
        let folder = Path::new(text(&package["manifest_path"])).parent().expect("a folder");
        let targets = list(&package["targets"]).iter().map(|target| Target {
            kind: text(&target["kind"][0]).to_owned(),
            sources: Sources::read(Path::new(text(&target["src_path"]))),
        });
        Self {
            name: text(&package["name"]).to_owned(),
            root: repository(),
            folder: folder.to_owned(),
            targets: targets.collect(),
            dependencies: list(&package["dependencies"]).iter().map(Dependency::read).collect(),
        }
    }

    fn files(&self) -> impl Iterator<Item = &source::File> {
        self.targets.iter().flat_map(|target| &target.sources.files)
    }

    /// A file's path as the messages show it.
    fn shown(&self, file: &source::File) -> String {
        file.path.strip_prefix(&self.root).unwrap_or(&file.path).display().to_string()
    }
}

impl Dependency {
    fn read(dependency: &Value) -> Self {
        let name = text(&dependency["name"]);
        let import = dependency["rename"].as_str().unwrap_or(name).replace('-', "_");
        let mut features: BTreeSet<String> =
            list(&dependency["features"]).iter().map(|one| text(one).to_owned()).collect();
        if dependency["uses_default_features"] == true {
            features.insert("default".to_owned());
        }
        Self {
            name: name.to_owned(),
            import,
            kind: dependency["kind"].as_str().unwrap_or_default().to_owned(),
            features,
            ours: dependency["path"].is_string(),
        }
    }
}

fn forbidden_imports(member: &Member) -> Broken {
    let Some(row) = IMPORTS.iter().find(|row| row.of == member.name) else {
        let reason = "each crate of the workspace has a row in rules.rs".to_owned();
        return [(member.name.clone(), reason)].into();
    };
    let Some(allowed) = row.allowed else { return Broken::new() };
    let ours = member.dependencies.iter().filter(|one| one.ours);
    ours.filter(|one| one.kind != "dev" || !OF_TESTS.contains(&one.name.as_str()))
        .filter_map(|one| {
            let features =
                allowed.iter().find(|(name, _)| *name == one.name).map(|(_, with)| *with);
            let mut extra = one
                .features
                .iter()
                .filter(|one| !features.is_some_and(|with| with.contains(&one.as_str())));
            match (features, extra.next()) {
                (None, _) => Some(format!("{} imports {}", member.name, one.name)),
                (Some(_), Some(feature)) => {
                    Some(format!("{} imports {} with {feature}", member.name, one.name))
                }
                (Some(_), None) => None,
            }
        })
        .map(|what| (what, row.reason.to_owned()))
        .collect()
}

/// The edges that close a circle; an excepted edge is looked at alone, so that each is a circle's.
fn circle_edges(member: &Member, exceptions: &[Exception]) -> Broken {
    let mut broken = Broken::new();
    for target in &member.targets {
        let files = &target.sources.files;
        let what = |(from, to): (usize, usize)| {
            format!("{} -> {}", member.shown(&files[from]), member.shown(&files[to]))
        };
        let edges = circles::edges(&target.sources);
        let excepted = |edge: &(usize, usize)| {
            let what = what(*edge);
            exceptions.iter().any(|one| one.rule == Rule::Circle && one.what == what)
        };
        let kept: BTreeSet<_> = edges.iter().copied().filter(|edge| !excepted(edge)).collect();
        for edge in edges {
            if circles::leads(edge.1, edge.0, &kept) {
                broken.insert(what(edge), "the second file needs the first one".to_owned());
            }
        }
    }
    broken
}

fn misplaced_names(member: &Member) -> Broken {
    let mut broken = Broken::new();
    for place in PLACES.iter().filter(|place| place.of == member.name) {
        let src = member.folder.join("src");
        for file in member.files() {
            let within = file.path.strip_prefix(&src).unwrap_or(&file.path);
            if place.allowed.iter().any(|one| is_in(within, one)) {
                continue;
            }
            let named = file.mentions.iter().filter(|one| !one.test && !domain(one));
            for mention in named.filter(|one| one.segments.len() > 1) {
                let library = mention.segments[0].as_str();
                if place.names.contains(&library) {
                    let what = format!("{} names {library}", member.shown(file));
                    broken.insert(what, place.reason.to_owned());
                }
            }
        }
    }
    broken
}

/// Whether a path below `src/` is a file, or in a folder, which ends with a slash.
fn is_in(path: &Path, place: &str) -> bool {
    match place.strip_suffix('/') {
        Some(folder) => path.starts_with(folder),
        None => path == Path::new(place),
    }
}

/// What a folder of [`FOLDERS`] needs and may not.
fn misplaced_imports(member: &Member) -> Broken {
    let mut broken = Broken::new();
    let src = member.folder.join("src");
    for folder in FOLDERS.iter().filter(|folder| folder.of == member.name) {
        for target in &member.targets {
            let files = &target.sources.files;
            let within = |file: usize| files[file].path.strip_prefix(&src).ok();
            for (from, to) in circles::edges(&target.sources) {
                let (Some(of), Some(needed)) = (within(from), within(to)) else { continue };
                let mut allowed = folder.allowed.iter().copied().chain([folder.folder]);
                if is_in(of, folder.folder) && !allowed.any(|one| is_in(needed, one)) {
                    let [from, to] = [from, to].map(|file| member.shown(&files[file]));
                    broken.insert(format!("{from} -> {to}"), folder.reason.to_owned());
                }
            }
        }
    }
    broken
}

fn domain(mention: &Mention) -> bool {
    DOMAIN.iter().any(|path| {
        path.len() < mention.segments.len()
            && path.iter().zip(&mention.segments).all(|(a, b)| a == b)
    })
}

/// Whether a file or one of its folders is named `sys`.
fn is_sys(file: &source::File) -> bool {
    file.path.iter().any(|part| part == "sys") || file.path.ends_with("sys.rs")
}

fn misplaced_unsafe(member: &Member) -> Broken {
    member
        .files()
        .filter(|file| file.is_unsafe && !is_sys(file))
        .map(|file| {
            (member.shown(file), "`unsafe` stands in a file or folder named sys".to_owned())
        })
        .collect()
}

/// Product code alone: tests prepare and look at a machine in ways that no program needs.
fn other_system_calls(member: &Member) -> Broken {
    let mut broken = Broken::new();
    if ["tests", "conformance", "fuzz", "examples"].contains(&member.name.as_str()) {
        return broken;
    }
    for file in member.files() {
        for mention in file.mentions.iter().filter(|one| !one.test && one.segments.len() > 1) {
            let path = mention.segments.join("::");
            // A constant has a capital letter: `SIGCHLD`, `SYS_read`.
            let function =
                mention.segments[1..].iter().all(|part| !part.contains(char::is_uppercase));
            if mention.segments[0] == "libc" && function && !is_sys(file) {
                let what = format!("{} names {path}", member.shown(file));
                broken.insert(what, "functions of libc are called in `sys`".to_owned());
            }
            if mention.segments[0] == "nix" && !NIX.iter().any(|(known, _)| path.starts_with(known))
            {
                // What a module has is of one kind, except in `sys` and `unistd`.
                let grouped = ["sys", "unistd"].contains(&mention.segments[1].as_str());
                let length = if grouped { 3 } else { 2 };
                let kind = mention.segments[..length.min(mention.segments.len())].join("::");
                let what = format!("{}: {kind}", member.name);
                broken.insert(what, "rustix has the call, or NIX in rules.rs lacks it".to_owned());
            }
        }
    }
    broken
}

fn unused_dependencies(member: &Member) -> Broken {
    let mut broken = Broken::new();
    for dependency in &member.dependencies {
        let used = member.targets.iter().any(|target| {
            let fits = match (dependency.kind.as_str(), target.kind.as_str()) {
                ("build", kind) => kind == "custom-build",
                ("dev", kind) => kind != "custom-build",
                (_, kind) => kind != "custom-build" && kind != "test",
            };
            let mentions = target.sources.files.iter().flat_map(|file| &file.mentions);
            let mut mentions = mentions.filter(|one| dependency.kind == "dev" || !one.test);
            fits && mentions.any(|one| names(one, &dependency.import))
        });
        if !used {
            let kind = if dependency.kind.is_empty() { "normal" } else { &dependency.kind };
            let what = format!("{}: {} ({kind})", member.name, dependency.name);
            broken.insert(what, "no source of the crate names it".to_owned());
        }
    }
    broken
}

/// Whether a path begins with a library, or imports it whole.
fn names(mention: &Mention, library: &str) -> bool {
    mention.segments[0] == library
        && (mention.segments.len() > 1 || mention.named != source::Named::InPlace)
}

/// Compares what breaks a rule with the exceptions to it.
fn assert_kept(rule: Rule, broken: &Broken, exceptions: &[Exception]) {
    let excepted: BTreeSet<&str> =
        exceptions.iter().filter(|one| one.rule == rule).map(|one| one.what).collect();
    let new: Vec<String> = broken
        .iter()
        .filter(|(what, _)| !excepted.contains(what.as_str()))
        .map(|(what, reason)| format!("{what}: {reason}"))
        .collect();
    assert!(new.is_empty(), "breaks the rules of tests/e2e/architecture:\n{}", new.join("\n"));
    let stale: Vec<&str> =
        excepted.into_iter().filter(|what| !broken.contains_key(*what)).collect();
    assert!(stale.is_empty(), "exceptions that are no longer needed:\n{}", stale.join("\n"));
}

fn check(rule: Rule, find: impl Fn(&Member) -> Broken) {
    let broken = Member::read_all().iter().flat_map(find).collect();
    assert_kept(rule, &broken, EXCEPTIONS);
}

#[test]
fn a_crate_imports_what_its_row_allows() {
    check(Rule::Import, forbidden_imports);
}

#[test]
fn no_two_files_need_each_other() {
    check(Rule::Circle, |member| circle_edges(member, EXCEPTIONS));
}

#[test]
fn generated_messages_stand_where_a_wire_is_spoken() {
    check(Rule::Place, misplaced_names);
}

#[test]
fn the_command_line_needs_what_a_client_has() {
    check(Rule::Folder, misplaced_imports);
}

#[test]
fn unsafe_stands_in_files_named_sys() {
    check(Rule::Unsafe, misplaced_unsafe);
}

#[test]
fn a_kind_of_system_call_has_one_library() {
    check(Rule::SystemCall, other_system_calls);
}

#[test]
fn only_the_helpers_for_waiting_sleep() {
    // The others are programs that run in a container.
    let allowed = ["harness/wait.rs", "src/bin/differ/probe.rs", "src/bin/attack/container.rs"];
    let members = Member::read_all();
    let tests = members.iter().find(|member| member.name == "tests").expect("this crate");
    let sleeps = |file: &&source::File| {
        file.mentions.iter().any(|one| one.segments.ends_with(&["thread".into(), "sleep".into()]))
    };
    let found: BTreeSet<&Path> = tests
        .files()
        .filter(sleeps)
        .map(|file| file.path.strip_prefix(&tests.folder).expect("a file of the crate"))
        .collect();
    assert_eq!(found, allowed.iter().map(Path::new).collect());
}

#[test]
fn every_declared_dependency_is_used() {
    check(Rule::Dependency, unused_dependencies);
}

#[test]
fn every_exception_has_a_reason() {
    assert!(EXCEPTIONS.iter().all(|one| !one.reason.is_empty()));
}
