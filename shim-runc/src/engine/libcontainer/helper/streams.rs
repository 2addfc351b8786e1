//! The standard streams of a process, as the helper received them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::super::wire::{self, Failure};

/// The standard streams of a process, or the console socket that its terminal is sent to.
pub(super) struct StandardStreams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) console: Option<PathBuf>,
}

impl StandardStreams {
    /// Takes the named streams from the descriptors that came with a request.
    pub(super) fn take(
        named: wire::StreamList,
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Self, Failure> {
        let mut one = |present: bool, name: &str| {
            if !present {
                return Ok(None);
            }
            fds.next().map(Some).ok_or_else(|| super::missing(name))
        };
        Ok(Self {
            stdin: one(named.stdin, "stdin")?,
            stdout: one(named.stdout, "stdout")?,
            stderr: one(named.stderr, "stderr")?,
            console: named.console,
        })
    }
}
