//! The process that created a record, written on it. What a killed command left half made can so be
//! told from what a living one is still making.
//!
//! Our own command line labels what `run` makes ([`LABEL`]); a container loses the label when it is
//! started. What bears no such label is never looked at here: other clients keep what they make for
//! as long as they like, as with containerd.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// The label that names the creator.
pub(crate) const LABEL: &str = "supervisor/maker";
/// Beside [`LABEL`]: what was made goes when its creator does, started or not (`run --rm`).
pub(crate) const GOES_TOO: &str = "supervisor/goes-with-maker";

/// A process of some boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Creator {
    boot: String,
    /// The inode of its pid namespace: pids of another one mean nothing here.
    namespace: u64,
    pid: u32,
    /// When it started, in clock ticks since the boot: pids are used again.
    start: u64,
}

/// What is known of a creator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Gone,
    /// It is in another pid namespace.
    Unknown,
}

impl Creator {
    /// This process.
    pub(crate) fn this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let start = start(pid)?.ok_or_else(|| io::Error::other("this process is not in /proc"))?;
        Ok(Self { boot: boot()?, namespace: namespace()?, pid, start })
    }

    /// What a label says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let creator = Self {
            boot: parts.next()?.to_owned(),
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(creator)
    }

    /// Whether it is still there.
    pub(crate) fn fate(&self) -> io::Result<Fate> {
        if boot()? != self.boot {
            return Ok(Fate::Gone);
        }
        if namespace()? != self.namespace {
            return Ok(Fate::Unknown);
        }
        Ok(if start(self.pid)? == Some(self.start) { Fate::Lives } else { Fate::Gone })
    }
}

impl fmt::Display for Creator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}/{}", self.boot, self.namespace, self.pid, self.start)
    }
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process started; `None` when there is none, or it only waits to be reaped.
fn start(pid: u32) -> io::Result<Option<u64>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // ESRCH: it went while its file was read.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The name in parentheses may hold anything. The state is the third field, the start the 22nd.
    let Some((_, rest)) = text.rsplit_once(") ") else { return Ok(None) };
    let mut fields = rest.split(' ');
    if matches!(fields.next(), Some("Z" | "X") | None) {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|field| field.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_label_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let this = Creator::this_process().unwrap();
        assert_eq!(Creator::parse(&this.to_string()), Some(this.clone()));
        assert_eq!(this.fate().unwrap(), Fate::Lives);
        let creator =
            Creator { pid: child.id(), start: start(child.id()).unwrap().unwrap(), ..this };
        assert_eq!(creator.fate().unwrap(), Fate::Lives);
        assert_eq!(
            Creator { start: creator.start + 1, ..creator.clone() }.fate().unwrap(),
            Fate::Gone
        );
        assert_eq!(Creator { boot: "x".into(), ..creator.clone() }.fate().unwrap(), Fate::Gone);
        assert_eq!(Creator { namespace: 1, ..creator.clone() }.fate().unwrap(), Fate::Unknown);
        child.kill().unwrap();
        while creator.fate().unwrap() == Fate::Lives {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(creator.fate().unwrap(), Fate::Gone);
    }

    #[test]
    fn labels_that_name_no_creator_are_none() {
        for text in ["", "a/b/c/d", "a/1/2", "a/1/2/3/4"] {
            assert_eq!(Creator::parse(text), None, "{text}");
        }
    }
}
