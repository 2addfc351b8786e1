//! Where the programs under test, and the tools that the tests use, are found.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command::run_with_input;

/// The directory with our release binaries; `tests/run.sh` sets it.
pub const BINARIES: &str = "TEST_BIN_DIR";

/// The command-line search path given to everything a test starts.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Takes our binaries from this directory instead of the one that the environment names.
pub fn choose(directory: &Path) {
    // The first choice stands.
    CHOSEN.get_or_init(|| directory.to_owned());
}

/// The directory chosen, or else the one that [`BINARIES`] names.
///
/// # Panics
///
/// When the variable is not set or does not name a directory.
#[must_use]
pub fn directory() -> PathBuf {
    if let Some(chosen) = CHOSEN.get() {
        return chosen.clone();
    }
    let set = std::env::var_os(BINARIES)
        .unwrap_or_else(|| panic!("{BINARIES} is not set; tests/run.sh sets it"));
    std::fs::canonicalize(&set).unwrap_or_else(|why| panic!("{BINARIES}={}: {why}", set.display()))
}

/// One of our own binaries.
///
/// # Panics
///
/// When it has not been built.
#[must_use]
pub fn ours(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.is_file(), "{} is missing; tests/run.sh builds it", path.display());
    path
}

/// A tool of the system.
///
/// # Panics
///
/// When it is not installed.
#[must_use]
pub fn system(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} is not installed; tests/run.sh installs it"))
}

/// Makes a script that can be executed.
///
/// By another process: what another test starts while this one writes would hold the file open for
/// writing until it executes, and such a file cannot be executed.
///
/// # Panics
///
/// When the file cannot be made.
pub fn script(path: &Path, text: &str) {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path);
    let _ = run_with_input(&mut shell, text.as_bytes()).success();
}

/// A tool of the system, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    SEARCH_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}
