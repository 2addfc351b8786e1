//! The directory of one control group: whether it is a whole hierarchy, and its removal.

use std::path::Path;
use std::{fs, io};

use rustix::process::Signal;

use super::{collect_pids, send, write};

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

/// Kills the processes in a group and removes it; returns whether there was something to remove. It fails
/// while what was killed has not left.
pub(super) fn kill_and_remove(group: &Path) -> io::Result<bool> {
    if !group.is_dir() || is_root(group) {
        return Ok(false);
    }
    let mut pids = Vec::new();
    // A list that cannot be read will refuse the removal too.
    let _ = collect_pids(group, &mut pids);
    if pids.iter().any(|pid| u32::try_from(*pid) == Ok(std::process::id())) {
        log::warn!("{}: not removed, the shim is in it", group.display());
        return Ok(false);
    }
    kill(group, &pids, true);
    remove_group(group).map(|()| true)
}

/// Kills these processes of a group. `is_all`: there are no others in it.
pub(super) fn kill(group: &Path, pids: &[i32], is_all: bool) {
    if pids.is_empty() {
        return;
    }
    // A frozen v1 group would keep its processes; where there is no freezer, there is no file.
    let _ = write(&group.join("freezer.state"), "THAWED");
    if is_all {
        // On v2 this reaches those that are being forked too; elsewhere the next round does.
        let _ = write(&group.join("cgroup.kill"), 1);
    }
    send(pids, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Hierarchies;
    use super::*;

    #[test]
    fn a_whole_hierarchy_is_never_a_containers_group() {
        let hierarchies = Hierarchies::read().unwrap();
        assert!(hierarchies.trees().count() > 0);
        for tree in hierarchies.trees() {
            assert!(is_root(tree), "{}", tree.display());
        }
        assert!(!is_root(Path::new("/sys/fs/cgroup/no/such")));
    }
}
