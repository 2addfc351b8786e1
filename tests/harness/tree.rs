//! Compares directory trees entry by entry.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::image;

/// Everything about one entry that an unpacked layer promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `dir`, `link`, `char`, `block`, `fifo`, `socket`.
    pub kind: &'static str,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// A regular file's size.
    pub size_bytes: Option<u64>,
    /// Last change, to the second.
    pub mtime: i64,
    /// Device number of a device node.
    pub device: Option<u64>,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Digest of a regular file's content.
    pub content: Option<String>,
    /// The first other name of the same file, for hard links.
    pub same_as: Option<PathBuf>,
}

/// A tree: every entry by its path relative to the top.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree.
///
/// # Panics
///
/// When something in it cannot be read.
#[must_use]
pub fn read(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let entry = entry(&path);
        if entry.kind == "dir" {
            let listing =
                fs::read_dir(&path).unwrap_or_else(|why| panic!("list {}: {why}", path.display()));
            pending.extend(listing.map(|entry| entry.expect("a readable entry").path()));
        }
        let name = path.strip_prefix(top).expect("found below it").to_owned();
        tree.insert(name, entry);
    }
    // Inode numbers mean nothing across file systems; which names share one does.
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let names: Vec<_> = tree.keys().cloned().collect();
    for name in names {
        let path = top.join(&name);
        let meta = fs::symlink_metadata(&path).expect("just read");
        if meta.is_dir() || meta.nlink() < 2 {
            continue;
        }
        match first.get(&(meta.dev(), meta.ino())) {
            Some(other) => {
                let other = other.clone();
                tree.get_mut(&name).expect("just listed").same_as = Some(other);
            }
            None => {
                first.insert((meta.dev(), meta.ino()), name);
            }
        }
    }
    tree
}

fn entry(path: &Path) -> Entry {
    let meta = fs::symlink_metadata(path)
        .unwrap_or_else(|why| panic!("look at {}: {why}", path.display()));
    let kind = meta.file_type();
    Entry {
        kind: if kind.is_dir() {
            "dir"
        } else if kind.is_symlink() {
            "link"
        } else if kind.is_char_device() {
            "char"
        } else if kind.is_block_device() {
            "block"
        } else if kind.is_fifo() {
            "fifo"
        } else if kind.is_socket() {
            "socket"
        } else {
            "file"
        },
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        size_bytes: kind.is_file().then_some(meta.len()),
        mtime: meta.mtime(),
        device: (kind.is_char_device() || kind.is_block_device()).then(|| meta.rdev()),
        target: kind.is_symlink().then(|| fs::read_link(path).expect("a symbolic link")),
        xattrs: xattrs(path),
        content: kind.is_file().then(|| {
            image::hex(
                &fs::read(path).unwrap_or_else(|why| panic!("read {}: {why}", path.display())),
            )
        }),
        same_as: None,
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names)
        .unwrap_or_else(|why| panic!("list attributes of {}: {why}", path.display()));
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = String::from_utf8_lossy(name).into_owned();
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value)
                .unwrap_or_else(|why| panic!("read {name} of {}: {why}", path.display()));
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// Every difference, one line each.
#[must_use]
pub fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, entry) in ours {
        match theirs.get(name) {
            None => lines.push(format!("{}: only ours has it: {entry:?}", name.display())),
            Some(other) if other != entry => {
                lines.push(format!("{}:\n  ours   {entry:?}\n  theirs {other:?}", name.display()));
            }
            Some(_) => {}
        }
    }
    for (name, entry) in theirs {
        if !ours.contains_key(name) {
            lines.push(format!("{}: ours lacks it: {entry:?}", name.display()));
        }
    }
    lines
}
