//! The directory of one control group: whether it is a whole hierarchy, and its removal.

use std::path::Path;
use std::{fs, io};

/// Whether a path is a whole hierarchy, which no container owns whatever a record says.
pub(crate) fn is_root(group: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|entry| entry.dev()).ok();
    match (device(group), group.parent().and_then(device)) {
        (Some(group), Some(parent)) => group != parent,
        (None, _) => false,
        (Some(_), None) => true,
    }
}

/// Removes a group and those below, which the container may have made.
pub(crate) fn remove_group(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) if cause.raw_os_error() == Some(libc::EBUSY) => {}
        done => return done,
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn a_whole_hierarchy_is_never_a_containers_group() {
        let trees = find::trees().unwrap();
        assert!(!trees.is_empty());
        for tree in trees {
            assert!(is_root(&tree), "{}", tree.display());
        }
        assert!(!is_root(Path::new("/sys/fs/cgroup/no/such")));
    }
}
