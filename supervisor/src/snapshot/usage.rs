//! What a snapshot takes up on the disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// stat(2) counts blocks of this size, whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Allocated bytes.
    pub(crate) size_bytes: u64,
    /// Inodes, hard links counted once.
    pub(crate) inodes: u64,
}

/// Measures `root` and all below it; what vanishes meanwhile is not counted.
pub(crate) fn measure(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut folders = vec![root.to_owned()];
    count(&fs::symlink_metadata(root)?, &mut usage, &mut seen);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            count(&metadata, &mut usage, &mut seen);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(usage)
}

fn count(metadata: &fs::Metadata, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) {
    let linked = !metadata.is_dir() && metadata.nlink() > 1;
    if linked && !seen.insert((metadata.dev(), metadata.ino())) {
        return;
    }
    usage.inodes += 1;
    usage.size_bytes += metadata.blocks() * BLOCK_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [1; 10_000]).unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        fs::create_dir(folder.path().join("c")).unwrap();
        let usage = measure(folder.path()).unwrap();
        assert_eq!(usage.inodes, 3);
        assert!(usage.size_bytes >= 10_000, "{usage:?}");
    }
}
