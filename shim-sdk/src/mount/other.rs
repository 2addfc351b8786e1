//! Platforms without mounts: an empty list succeeds, everything else is refused.

use std::path::Path;

use super::{Mount, MountError};

/// Makes the directory of a root file system.
#[cfg(feature = "serve")]
pub(crate) fn make_root(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

/// Makes a list of mounts on a root.
pub fn mount_all(mounts: &[Mount], _root: &Path) -> Result<(), MountError> {
    match mounts.first() {
        None => Ok(()),
        Some(mount) => Err(MountError::Unsupported { option: mount.kind.clone() }),
    }
}

/// Nothing is ever mounted.
pub fn unmount(_target: &Path) -> Result<(), MountError> {
    Ok(())
}

/// Nothing is ever mounted.
pub fn unmount_recursive(_root: &Path) -> Result<(), MountError> {
    Ok(())
}
