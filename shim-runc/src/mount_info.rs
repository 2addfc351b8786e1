//! Reads the table of mounts. See proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountInfo<'a> {
    pub(crate) id: u64,
    root: &'a str,
    mount_point: &'a str,
    /// The type of the file system.
    pub(crate) kind: &'a str,
    /// The options of the file system, separated by commas.
    pub(crate) superblock: &'a str,
}

impl<'a> MountInfo<'a> {
    /// Reads a line; `None` if it is none.
    pub(crate) fn of(line: &'a str) -> Option<Self> {
        // ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS TAGS... - TYPE SOURCE SUPERBLOCK-OPTIONS
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ');
        let id = before.next()?.parse().ok()?;
        let (root, mount_point) = (before.nth(2)?, before.next()?);
        let mut after = after.split(' ');
        let (kind, superblock) = (after.next()?, after.nth(1)?);
        Some(Self { id, root, mount_point, kind, superblock })
    }

    /// Which directory of the file system is at the mount point.
    pub(crate) fn root(&self) -> PathBuf {
        unescaped(self.root)
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> PathBuf {
        unescaped(self.mount_point)
    }
}

/// Undoes the kernel's `\040` and the like.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &more[3..] } else { more };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_what_is_escaped_in_it() {
        let line = "36 35 98:0 /a\\040b /m\\134n rw shared:1 - cgroup cgroup rw,cpu";
        let found = MountInfo::of(line).unwrap();
        assert_eq!((found.id, found.kind, found.superblock), (36, "cgroup", "rw,cpu"));
        assert_eq!((found.root(), found.mount_point()), ("/a b".into(), "/m\\n".into()));
        assert_eq!(MountInfo::of("nonsense"), None);
    }
}
