//! The merged view of overlay layers, without mounting them.
//!
//! Owns what overlayfs decides when it looks a name up: which layers show through at a directory,
//! what whiteouts and opaque directories hide. Promise: looking up never leaves the layers, since
//! every directory is opened by openat2(2) beneath its layer and no symbolic link is followed but
//! here, within the merged root.
//! See "Whiteouts and opaque directories" in the kernel's documentation of overlayfs.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Overlayfs's mark on a directory that hides what is below it.
pub(crate) const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// As many symbolic links as the kernel follows.
pub(crate) const MAX_LINKS: usize = 40;
pub(crate) const MAX_PATH_BYTES: usize = 4095;
/// Directories remembered, so that memory does not grow with the number of those looked at.
const MAX_SHOWING: usize = if cfg!(test) { 3 } else { 4 << 10 };

/// How canonical paths are opened: they have no symbolic links, and gain none.
pub(crate) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Layers, nearest first.
pub struct Merged {
    layers: Vec<OwnedFd>,
    /// Which layers show through at a directory.
    showing: HashMap<Vec<u8>, Rc<[usize]>>,
    /// Directories at which nothing shows through, because [`Self::hide`] was called for them.
    hidden: BTreeSet<Vec<u8>>,
}

/// What a name stands for.
pub(crate) enum Found {
    Nothing,
    At { layer: usize, stat: Stat },
}

impl Merged {
    /// Opens the directories of layers, nearest first. One plain directory is a layer too.
    pub fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &PathBuf| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::open(path, flags, Mode::empty())
        };
        let layers = layers.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { layers, showing: HashMap::new(), hidden: BTreeSet::new() })
    }

    /// Reads a file, following symbolic links within the merged root. `None` when there is none,
    /// or when it is larger than `limit` bytes.
    pub fn read(&mut self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((layer, directory, name, stat)) = self.resolve(path)? else { return Ok(None) };
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > limit {
            return Ok(None);
        }
        let directory = self.open_directory(layer, &directory)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&directory, &name[..], flags, Mode::empty())?;
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        std::fs::File::from(file).take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// The mode, type included, of what a path leads to; `None` when it leads nowhere.
    pub fn mode(&mut self, path: &Path) -> io::Result<Option<u32>> {
        Ok(self.resolve(path)?.map(|(_, _, _, stat)| stat.st_mode))
    }

    /// Follows a path: the layer, canonical directory and name that it ends at.
    #[allow(clippy::type_complexity)] // three parts of one place, taken apart at once
    fn resolve(&mut self, path: &Path) -> io::Result<Option<(usize, Vec<u8>, Vec<u8>, Stat)>> {
        let mut ahead = reversed(path.as_os_str().as_bytes());
        let mut here: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                here.truncate(split(&here).map_or(0, |(parent, _)| parent.len()));
                continue;
            }
            let (layer, stat) = match self.look_up(&here, &name) {
                Ok(Found::At { layer, stat }) => (layer, stat),
                Ok(Found::Nothing) | Err(Errno::NOTDIR) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let directory = self.open_directory(layer, &here)?;
                    let target = fs::readlinkat(&directory, &name[..], Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    ahead.extend(reversed(&target));
                }
                FileType::Directory if !ahead.is_empty() => here = join(&here, &name),
                _ if ahead.is_empty() => return Ok(Some((layer, here, name, stat))),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// What a directory, named by its canonical path, has under a name.
    pub(crate) fn look_up(&mut self, directory: &[u8], name: &[u8]) -> rustix::io::Result<Found> {
        for &layer in self.showing(directory)?.iter() {
            let directory = self.open_directory(layer, directory)?;
            match fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(Found::Nothing),
                Ok(stat) => return Ok(Found::At { layer, stat }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Found::Nothing)
    }

    /// Opens a layer's own directory by its canonical path.
    pub(crate) fn open_directory(&self, layer: usize, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(&self.layers[layer], path, flags, Mode::empty(), BENEATH)
    }

    /// How many layers there are.
    pub(crate) fn count(&self) -> usize {
        self.layers.len()
    }

    /// The nearest layer, if there is any.
    pub(crate) fn nearest(&self) -> Option<&OwnedFd> {
        self.layers.first()
    }

    /// Nothing shows through at a directory any more, nor below it.
    pub(crate) fn hide(&mut self, path: &[u8]) {
        self.showing.retain(|known, _| !within(known, path));
        self.hidden.insert(path.to_vec());
    }

    /// A directory with all below it is gone; one made there later starts afresh. What was hidden
    /// there is the answer.
    pub(crate) fn forget(&mut self, path: &[u8]) -> Vec<Vec<u8>> {
        self.showing.retain(|known, _| !within(known, path));
        let gone: Vec<_> = self
            .hidden
            .range(path.to_vec()..)
            .take_while(|known| known.starts_with(path))
            .filter(|known| within(known, path))
            .cloned()
            .collect();
        for known in &gone {
            self.hidden.remove(known);
        }
        gone
    }

    /// The directories at which nothing shows through, because [`Self::hide`] was called for them.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &[u8]> {
        self.hidden.iter().map(Vec::as_slice)
    }

    fn showing(&mut self, path: &[u8]) -> rustix::io::Result<Rc<[usize]>> {
        if let Some(known) = self.showing.get(path) {
            return Ok(known.clone());
        }
        if self.showing.len() >= MAX_SHOWING {
            self.showing.clear();
        }
        // From the root down, so that a long path needs no stack.
        let mut showing: Rc<[usize]> = (0..self.layers.len()).collect();
        if self.hidden.contains(&b""[..]) {
            showing = Rc::new([]);
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let here = &path[..end];
            showing = match self.showing.get(here) {
                Some(known) => known.clone(),
                None if self.hidden.contains(here) => Rc::new([]),
                None => self.showing_below(here, &showing)?,
            };
            self.showing.insert(here.to_vec(), showing.clone());
        }
        Ok(showing)
    }

    /// Which of the layers that show through at a directory's parent do so at it.
    fn showing_below(&self, path: &[u8], above: &[usize]) -> rustix::io::Result<Rc<[usize]>> {
        let mut found = Vec::new();
        for &layer in above {
            match self.open_directory(layer, path) {
                Ok(directory) => {
                    found.push(layer);
                    if is_opaque(directory.as_fd()) {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // A file, a link or a whiteout hides what is further below.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(found.into())
    }
}

/// Whether this is overlayfs's mark for a name that is gone.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    fs::fgetxattr(directory, OPAQUE, &mut value[..]) == Ok(1) && value == *b"y"
}

/// A path to a name in an open directory, for calls that have no form relative to a descriptor.
pub(crate) fn below(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat()
}

/// Splits a clean path into its directory and its last component; `None` for the root.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The components of a path, last first, as a walk pops them.
pub(crate) fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Whether `path` is `of` or below it.
pub(crate) fn within(path: &[u8], of: &[u8]) -> bool {
    path.strip_prefix(of).is_some_and(|rest| of.is_empty() || rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as files;
    use std::os::unix::fs::symlink;

    fn layer(root: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let layer = root.join(name);
        for (name, content) in files {
            files::create_dir_all(layer.join(name).parent().unwrap()).unwrap();
            files::write(layer.join(name), content).unwrap();
        }
        layer
    }

    fn whiteout(path: &Path) {
        fs::mknodat(fs::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    #[test]
    fn nearer_layers_win_and_whiteouts_hide() {
        let root = tempfile::tempdir().unwrap();
        let lower =
            layer(root.path(), "l", &[("etc/passwd", "old"), ("etc/group", "g"), ("d/x", "x")]);
        let upper = layer(root.path(), "u", &[("etc/passwd", "new"), ("d/y", "y")]);
        whiteout(&upper.join("etc/group"));
        let flags = fs::XattrFlags::empty();
        fs::setxattr(upper.join("d"), OPAQUE, b"y", flags).unwrap();
        let mut merged = Merged::open(&[upper, lower]).unwrap();
        let mut read = |path: &str| {
            let content = merged.read(Path::new(path), 100).unwrap();
            content.map(|content| String::from_utf8(content).unwrap())
        };
        assert_eq!(read("/etc/passwd").as_deref(), Some("new"));
        assert_eq!(read("etc/group"), None);
        assert_eq!(read("d/x"), None);
        assert_eq!(read("d/y").as_deref(), Some("y"));
        assert_eq!(read("etc/passwd/x"), None);
        assert_eq!(read("/"), None);
    }

    #[test]
    fn links_lead_through_the_merged_root_and_never_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        layer(root.path(), "", &[("secret", "host")]);
        let lower = layer(root.path(), "l", &[("usr/etc/passwd", "p")]);
        let upper = layer(root.path(), "u", &[("x", "")]);
        symlink("/usr/etc", upper.join("etc")).unwrap();
        symlink("../../secret", upper.join("out")).unwrap();
        symlink("loop", upper.join("loop")).unwrap();
        let mut merged = Merged::open(&[upper, lower]).unwrap();
        assert_eq!(merged.read(Path::new("/etc/passwd"), 9).unwrap().unwrap(), b"p");
        assert_eq!(merged.read(Path::new("/etc/../etc/passwd"), 9).unwrap().unwrap(), b"p");
        assert_eq!(merged.read(Path::new("/out"), 9).unwrap(), None);
        assert_eq!(merged.read(Path::new("/../secret"), 9).unwrap(), None);
        assert!(merged.read(Path::new("/loop"), 9).is_err());
    }

    #[test]
    fn files_over_the_limit_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let only = layer(root.path(), "l", &[("f", "12345")]);
        let mut merged = Merged::open(&[only]).unwrap();
        assert_eq!(merged.read(Path::new("f"), 4).unwrap(), None);
        assert!(merged.read(Path::new("f"), 5).unwrap().is_some());
    }
}
