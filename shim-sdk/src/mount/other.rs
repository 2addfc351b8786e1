//! Platforms without mounts: only an empty list can be mounted.

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

/// Does nothing: there are no mounts.
pub fn unmount(_target: &Path) -> Result<(), MountError> {
    Ok(())
}

/// Does nothing: there are no mounts.
pub fn unmount_recursive(_root: &Path) -> Result<(), MountError> {
    Ok(())
}
