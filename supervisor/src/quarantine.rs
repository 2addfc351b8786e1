//! Quarantine, the directory `set-aside`: an entry of a store goes there that the store did not make.
//!
//! Promise: what is moved there is whole, is logged, and is never looked at again by the daemon. It
//! is the operator's to keep or to remove.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Moves `path`, which is somewhere below `root`, to `root/set-aside`. A failure is logged, as the
/// move is: an entry that stays where it is harms nothing else.
pub(crate) fn set_aside(root: &Path, path: &Path, why: &str) {
    match moved(root, path) {
        Ok(to) => log::warn!("{}: {why}: moved to {}", path.display(), to.display()),
        Err(error) => log::error!("{}: {why}: move it away: {error}", path.display()),
    }
}

/// Where `path` was moved.
pub(crate) fn moved(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let folder = folder(root);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let within = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
    let name: String = within.trim_start_matches('/').replace('/', "-").chars().take(100).collect();
    for number in 1..10_000 {
        let to = folder.join(format!("{name}.{number}"));
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            path,
            rustix::fs::CWD,
            &to,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => return Ok(to),
            Err(rustix::io::Errno::EXIST) => {}
            // A file system without RENAME_NOREPLACE; the root's lock keeps others out.
            Err(rustix::io::Errno::INVAL) if fs::symlink_metadata(&to).is_err() => {
                fs::rename(path, &to)?;
                return Ok(to);
            }
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other(format!("{} is full of {name}", folder.display())))
}

/// What has been set aside in `root`.
pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join("set-aside")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_keeps_its_content_and_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            fs::create_dir_all(root.path().join("snapshots/odd")).unwrap();
            fs::write(root.path().join("snapshots/odd/file"), text).unwrap();
            set_aside(root.path(), &root.path().join("snapshots/odd"), "it is odd");
        }
        let read = |number| {
            fs::read_to_string(root.path().join(format!("set-aside/snapshots-odd.{number}/file")))
        };
        assert_eq!((read(1).unwrap(), read(2).unwrap()), ("one".into(), "two".into()));
        assert!(!root.path().join("snapshots/odd").exists());
    }
}
