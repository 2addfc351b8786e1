//! Finds the binaries to measure, and builds those that are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::programs;

/// Settles which binaries are measured: those that `TEST_BIN_DIR` names, or else the release
/// binaries beside this program.
pub(crate) fn binaries() -> Result<PathBuf> {
    if std::env::var_os(programs::BINARIES).is_none() {
        release(&own_directory()?, "supervisor", "supervisor")?;
    }
    shims()
}

fn own_directory() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(this.parent().context("it lies in a directory")?.to_owned())
}

/// The same for the shims alone.
pub(crate) fn shims() -> Result<PathBuf> {
    if std::env::var_os(programs::BINARIES).is_some() {
        return Ok(programs::directory());
    }
    let directory = own_directory()?;
    release(&directory, "shim-runc", "containerd-shim-runc-v2")?;
    let youki = directory.join("containerd-shim-youki-v1");
    let runc = directory.join("containerd-shim-runc-v2");
    // Always the same file: a stale one would be measured in place of the one just built.
    if youki.exists() {
        fs::remove_file(&youki).context("remove the old link")?;
    }
    fs::hard_link(&runc, &youki).context("link the shim under its other name")?;
    programs::choose(&directory);
    Ok(directory)
}

/// One package at a time, so that features do not leak from one to the other.
fn release(directory: &Path, package: &str, binary: &str) -> Result<()> {
    if directory.join(binary).exists() {
        return Ok(());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "-p", package])
        .current_dir(workspace)
        .status()
        .with_context(|| format!("build {package}"))?;
    ensure!(status.success(), "building {package} {status}");
    ensure!(
        directory.join(binary).exists(),
        "{package} was built, but not to {}: run bench with --release, or set {}",
        directory.display(),
        programs::BINARIES
    );
    Ok(())
}
