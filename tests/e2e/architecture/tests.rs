//! Each rule is seen to fail, on sources that break it.

use std::fs;

use super::exceptions::Exception;
use super::source::Sources;
use super::*;

/// A crate whose library has these files, `lib.rs` first.
fn member(name: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Member) {
    let root = tempfile::tempdir().expect("make a directory");
    let folder = root.path().join(name);
    for (path, text) in files {
        let path = folder.join("src").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(path, text).expect("write a source");
    }
    let sources = Sources::read(&folder.join("src").join(files[0].0));
    let member = Member {
        name: name.to_owned(),
        root: root.path().to_owned(),
        folder,
        targets: vec![Target { kind: "lib".to_owned(), sources }],
        dependencies: Vec::new(),
    };
    (root, member)
}

fn dependency(name: &str, features: &[&str], ours: bool) -> Dependency {
    Dependency {
        name: name.to_owned(),
        import: name.replace('-', "_"),
        kind: String::new(),
        features: features.iter().map(|one| (*one).to_owned()).collect(),
        ours,
    }
}

fn found(broken: &Broken) -> Vec<&str> {
    broken.keys().map(String::as_str).collect()
}

#[test]
fn an_import_that_no_row_allows_is_found() {
    let (_root, mut shim) = member("shim-runc", &[("lib.rs", "")]);
    shim.dependencies = vec![dependency("shim-sdk", &["serve"], true)];
    assert!(forbidden_imports(&shim).is_empty());
    shim.dependencies.push(dependency("protos", &[], true));
    assert_eq!(found(&forbidden_imports(&shim)), ["shim-runc imports protos"]);
}

#[test]
fn a_feature_that_no_row_allows_is_found() {
    let (_root, mut supervisor) = member("supervisor", &[("lib.rs", "")]);
    supervisor.dependencies = vec![dependency("shim-sdk", &["serve"], true)];
    assert_eq!(found(&forbidden_imports(&supervisor)), ["supervisor imports shim-sdk with serve"]);
}

#[test]
fn a_crate_without_a_row_is_found() {
    let (_root, new) = member("new", &[("lib.rs", "")]);
    assert_eq!(found(&forbidden_imports(&new)), ["new"]);
}

#[test]
fn a_circle_is_found_through_re_exports_globs_nested_imports_and_macros() {
    for (way, needs_b) in [
        ("an import", "use crate::b::B;"),
        ("a nested import", "use crate::{b::{self, B}, a as own};"),
        ("a relative import", "use super::b::B;"),
        ("a path in place", "fn f() -> crate::b::B { todo!() }"),
        ("a path in a macro", "fn f() { assert!(crate::b::g()); }"),
        ("a glob", "use crate::b::*;"),
        ("a re-export", "use crate::B;"),
        ("a name through an imported module", "use crate::b; fn f() { b::g(); }"),
    ] {
        let a = format!("{needs_b} pub struct A;");
        let files = [
            ("lib.rs", "mod a; mod b; pub use b::B;"),
            ("a.rs", a.as_str()),
            ("b.rs", "use crate::a; pub struct B; fn g() { a::A::new() }"),
        ];
        let (_root, member) = member("c", &files);
        let broken = circle_edges(&member, &[]);
        let circle = ["c/src/a.rs -> c/src/b.rs", "c/src/b.rs -> c/src/a.rs"];
        assert_eq!(found(&broken), circle, "{way}");
    }
}

#[test]
fn what_goes_one_way_is_no_circle() {
    for (why, a) in [
        ("a comment and a text name nothing", "// crate::b::B\nconst B: &str = \"crate::b::B\";"),
        ("a test may use every file", "#[cfg(test)] mod tests { use crate::b::B; }"),
        ("another crate's module of that name", "use ::b::B; fn f(x: X) { x.b::<u8>(); }"),
        ("a module alone", "use crate::b;"),
    ] {
        let b = "use crate::a::A; pub struct B;";
        let a = format!("{a} pub struct A;");
        let (_root, member) =
            member("c", &[("lib.rs", "mod a; mod b;"), ("a.rs", &a), ("b.rs", b)]);
        assert_eq!(found(&circle_edges(&member, &[])), [""; 0], "{why}");
    }
}

#[test]
fn a_file_may_use_what_its_folder_shares() {
    let (_root, member) = member(
        "c",
        &[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b; pub use b::B; pub struct Shared; fn f() { B::new(b::new()) }"),
            ("a/b.rs", "use super::Shared; pub struct B;"),
        ],
    );
    assert_eq!(found(&circle_edges(&member, &[])), [""; 0]);
}

#[test]
fn a_generated_message_in_the_domain_is_found() {
    let source = "use protos::grpc::Task; use protos::any::SPEC; fn f() { tonic::x(); }";
    let files = [
        ("lib.rs", "mod api; mod gc;"),
        ("api/mod.rs", "use protos::grpc::Task;"),
        ("gc.rs", source),
    ];
    let (_root, member) = member("supervisor", &files);
    let expected = ["supervisor/src/gc.rs names protos", "supervisor/src/gc.rs names tonic"];
    assert_eq!(found(&misplaced_names(&member)), expected);
}

#[test]
fn a_command_that_needs_the_daemons_state_is_found() {
    let files = [
        ("main.rs", "mod cli; mod text; mod snapshot;"),
        ("cli/mod.rs", "mod run; mod rm;"),
        ("cli/run.rs", "use super::rm::R; use crate::text::escaped; use crate::snapshot::root;"),
        ("cli/rm.rs", "pub struct R;"),
        ("text.rs", "pub fn escaped() {}"),
        ("snapshot.rs", "pub fn root() {} use crate::text::escaped;"),
    ];
    let (_root, member) = member("supervisor", &files);
    let expected = ["supervisor/src/cli/run.rs -> supervisor/src/snapshot.rs"];
    assert_eq!(found(&misplaced_imports(&member)), expected);
}

#[test]
fn unsafe_outside_of_sys_is_found() {
    let block = "fn f() { unsafe { g() } }";
    let files = [
        ("lib.rs", "mod sys; mod a; mod b; // unsafe"),
        ("sys/mod.rs", "mod fd;"),
        ("sys/fd.rs", block),
        ("a.rs", block),
        ("b.rs", "#[allow(unsafe_code)] fn f() {}"),
    ];
    let (_root, member) = member("c", &files);
    assert_eq!(found(&misplaced_unsafe(&member)), ["c/src/a.rs"]);
}

#[test]
fn a_call_of_libc_outside_of_sys_and_one_that_rustix_has_are_found() {
    let source =
        "use nix::unistd::{mkfifo, getpid}; fn f() { g(libc::SYS_read, libc::kill(1, 2)) }";
    let files = [("lib.rs", "mod sys; mod a;"), ("sys.rs", "use libc::kill;"), ("a.rs", source)];
    let (_root, member) = member("c", &files);
    let expected = ["c/src/a.rs names libc::kill", "c: nix::unistd::getpid"];
    assert_eq!(found(&other_system_calls(&member)), expected);
}

#[test]
fn a_dependency_that_only_tests_use_is_unused() {
    let source =
        "#[derive(thiserror::Error)] struct E; #[cfg(test)] mod tests { use some_lib::X; }";
    let (_root, mut member) = member("c", &[("lib.rs", source)]);
    let mut dev = dependency("some-lib", &[], false);
    dev.kind = "dev".to_owned();
    let used = dependency("thiserror", &[], false);
    member.dependencies = vec![used, dependency("some-lib", &[], false), dev];
    assert_eq!(found(&unused_dependencies(&member)), ["c: some-lib (normal)"]);
}

const ONE: [Exception; 1] =
    [Exception { rule: Rule::Unsafe, what: "c/src/a.rs", reason: "it is an example" }];

#[test]
fn an_exception_is_accepted() {
    assert_kept(Rule::Unsafe, &[("c/src/a.rs".to_owned(), String::new())].into(), &ONE);
}

#[test]
#[should_panic(expected = "exceptions that are no longer needed:\nc/src/a.rs")]
fn an_exception_that_is_no_longer_needed_fails() {
    assert_kept(Rule::Unsafe, &Broken::new(), &ONE);
}

#[test]
#[should_panic(expected = "breaks the rules")]
fn an_exception_to_one_rule_is_none_to_another() {
    assert_kept(Rule::Place, &[("c/src/a.rs".to_owned(), String::new())].into(), &ONE);
}
