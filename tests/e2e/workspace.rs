//! The workspace as cargo sees it: packages, dependencies and targets.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::run;
use serde_json::Value;

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("this crate lies in the repository").to_owned()
}

/// What `cargo metadata` prints: every package in the lock file.
pub(crate) fn metadata() -> Value {
    let done = run(Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--manifest-path"])
        .arg(repository().join("Cargo.toml")))
    .success();
    serde_json::from_slice(&done.stdout).expect("cargo writes JSON")
}

/// A list in the metadata.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// A text in the metadata.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
