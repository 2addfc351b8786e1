//! The locks that make one daemon of many.
//!
//! `root/lock` is held by the daemon for life; its text is the holder's pid, for error messages
//! only. `state/start.lock` is held by a process that starts a daemon, and by a daemon that leaves, so
//! that a client waits for the one or the other instead of racing it.
//! See flock(2): a lock belongs to the open file, and ends with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// What became of an attempt to lock.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It is ours.
    Locked(Lock),
    /// It is another's, whose pid the file tells if it got to write it.
    Held(Option<u32>),
}

/// Takes the lock if it is free, and writes this process's pid into it.
pub(crate) fn attempt(path: &Path) -> io::Result<Attempt> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut locked) => {
            // Written over what is there and never truncated: a block given back to a full file
            // system could not be had again. Without the pid the lock is as good.
            let pid = format!("{:<11}\n", std::process::id());
            if let Err(error) = locked.rewind().and_then(|()| locked.write_all(pid.as_bytes())) {
                log::debug!("write {}: {error}", path.display());
            }
            Ok(Attempt::Locked(Lock(locked)))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Attempt::Held(text.trim().parse().ok()))
        }
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_attempt_names_the_holder_and_succeeds_once_it_has_gone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let first = attempt(&path).unwrap();
        assert!(matches!(first, Attempt::Locked(_)));
        match attempt(&path).unwrap() {
            Attempt::Held(pid) => assert_eq!(pid, Some(std::process::id())),
            Attempt::Locked(_) => panic!("locked twice"),
        }
        drop(first);
        assert!(matches!(attempt(&path).unwrap(), Attempt::Locked(_)));
    }
}
