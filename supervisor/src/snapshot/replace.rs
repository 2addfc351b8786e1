//! A snapshot's directory, made anew, in the place of a damaged one.

use std::fs::{self, File};
use std::path::Path;

use crate::quarantine;

/// Replaces the directory `home` by `draft`, setting the old one aside.
pub(super) fn replace(base: &Path, home: &Path, draft: &Path) -> std::io::Result<()> {
    if home.symlink_metadata().is_ok() {
        let to = quarantine::moved(base, home)?;
        log::info!("{}: moved to {}", home.display(), to.display());
    }
    fs::rename(draft, home)?;
    File::open(home.parent().unwrap_or(home))?.sync_all()
}
