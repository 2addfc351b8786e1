//! Marks a bundle whose container is being made, so that a clean-up can wait for the maker's end.
//!
//! A shim that is killed takes its libcontainer helper along, but not at once, and what the helper
//! has cloned runs on until it misses the helper: for that long it may still join and make cgroups.
//!
//! Promise: [`ended`] knows while the helper or one of its clones lives. It does not know of a clone
//! that is in the container's root, or joins it: that one holds nothing of the host's, and ends by
//! itself when the helper is gone.
//! The mark is on the bundle's spec, which every bundle has, and not on the bundle: by a directory's
//! descriptor, seen by a process of the container, the host's files could be reached.
//! Not here: making or removing anything.
//! See flock(2): a lock is held as long as any copy of its descriptor is open.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// How long a maker may take to notice that it is alone.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// What is marked of a bundle.
const SPEC: &str = "config.json";

/// Marks the bundle for as long as the descriptor, or a copy that a clone inherited, is open.
pub(crate) fn mark(bundle: &Path) -> io::Result<OwnedFd> {
    let spec = open(bundle)?;
    flock(&spec, FlockOperation::NonBlockingLockShared)?;
    Ok(spec.into())
}

fn open(bundle: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let spec = File::options().read(true).custom_flags(flags).open(bundle.join(SPEC))?;
    if spec.metadata()?.is_file() { Ok(spec) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Waits until no process creates the bundle's container; whether that took any time, so that there may
/// be more now than a moment ago.
pub(crate) async fn ended(bundle: &Path) -> bool {
    // Without a spec nothing is made from it.
    let Ok(spec) = open(bundle) else { return false };
    let free = || flock(&spec, FlockOperation::NonBlockingLockExclusive).is_ok();
    if free() {
        return false;
    }
    let began = tokio::time::Instant::now();
    while !free() {
        if began.elapsed() > PATIENCE {
            log::warn!("{}: its container is still being made", bundle.display());
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bundle_is_waited_for_until_the_last_copy_of_its_mark_is_closed() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join(SPEC), "{}").unwrap();
        assert!(!ended(bundle.path()).await);
        let mark = mark(bundle.path()).unwrap();
        let copy = mark.try_clone().unwrap();
        drop(mark);
        let closing = async {
            tokio::time::sleep(INTERVAL * 3).await;
            drop(copy);
        };
        let (waited, ()) = tokio::join!(ended(bundle.path()), closing);
        assert!(waited);
        assert!(!ended(bundle.path()).await);
        assert!(!ended(&bundle.path().join("gone")).await);
    }
}
