//! The tree a layer is extracted onto: names are resolved here, and entries made.
//!
//! A directory is known by its canonical path, in which no component is a symbolic link; it is
//! opened from the root by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and everything
//! else happens relative to its descriptor on single names. Last opened directories are kept, since
//! entries come directory by directory.

mod make;
mod remove;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec};
use rustix::io::Errno;

use super::Whiteouts;
use super::archive::{Archive, Entry, EntryKind};
use super::error::{EntryName, ExtractError, Refusal};
use super::metadata::{self, Call, Failed, Metadata, Outcome};
use crate::budget::{Budget, Cost, Exhausted};
use crate::layer::merged::{
    BENEATH, Found, MAX_LINKS, MAX_PATH_BYTES, Merged, below, join, reversed, split,
};

/// Descriptors kept open; several layers may be extracted at once under the default limit of 1024.
const MAX_OPEN: usize = 64;

/// Times of directories kept; more are set at once.
const MAX_TIMES: usize = if cfg!(test) { 3 } else { 16 << 10 };
/// Names of directories kept that lead through links.
const MAX_ALIASES: usize = if cfg!(test) { 3 } else { 4 << 10 };

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// Names that aufs kept for itself, which old images still carry.
const AUFS: &[u8] = b".wh..wh.";

pub(super) struct Tree {
    root: Rc<Directory>,
    has_parents: bool,
    parents: Merged,
    whiteouts: Whiteouts,
    budget: Budget,
    open: HashMap<Vec<u8>, Rc<Directory>>,
    /// Names of directories that led through links of lower layers, and where they led.
    aliases: HashMap<Vec<u8>, Vec<u8>>,
    /// *into* was empty: all that is in it is this layer's.
    begins_empty: bool,
    /// What this layer made, where it cannot be told otherwise: whiteouts remove what was there
    /// before, and leave this.
    made: BTreeSet<Vec<u8>>,
    /// The budget has no room for what was remembered last.
    refused: Option<Exhausted>,
    /// It was said that attributes are left out. An archive can have any number of them.
    said: bool,
    /// Times that directories get when nothing is added to them any more.
    times: BTreeMap<Vec<u8>, Timespec>,
}

/// An open directory in *into*.
struct Directory {
    path: Vec<u8>,
    fd: OwnedFd,
}

/// What a step to a name leads to.
enum Step {
    Into(Rc<Directory>),
    Follow(Vec<u8>),
}

impl Tree {
    pub(super) fn open(
        into: &Path,
        parents: &[PathBuf],
        whiteouts: Whiteouts,
        budget: &Budget,
    ) -> Result<Self, ExtractError> {
        let failed = |call: String| {
            move |cause| ExtractError::System { entry: EntryName(b"/".to_vec()), call, cause }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(into, flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(failed(format!("open({into:?})")))?;
        let begins_empty = is_empty(&fd)
            .map_err(io::Error::from)
            .map_err(failed(format!("getdents({into:?})")))?;
        let mut tree = Self {
            root: Rc::new(Directory { path: Vec::new(), fd }),
            has_parents: !parents.is_empty(),
            parents: Merged::open(parents).map_err(failed(format!("open({parents:?})")))?,
            whiteouts,
            budget: budget.clone(),
            open: HashMap::new(),
            aliases: HashMap::new(),
            begins_empty,
            made: BTreeSet::new(),
            refused: None,
            said: false,
            times: BTreeMap::new(),
        };
        tree.inherit_root().map_err(|failed| system(b"/", failed))?;
        Ok(tree)
    }

    /// Makes one entry, reading its content from the archive.
    pub(super) fn add<R: Read>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), ExtractError> {
        let path = self.clean(entry, &entry.path)?;
        if !self.said && entry.xattrs.iter().any(|(name, _)| metadata::is_overlay(name)) {
            self.said = true;
            log::warn!("overlayfs's own attributes, as {} has, are left out", entry.name());
        }
        let Some((parent, name)) = split(&path) else {
            return match entry.kind {
                EntryKind::Directory => self.set_root(entry),
                _ => Err(refused(entry, Refusal::RootNotDirectory)),
            };
        };
        if name == OPAQUE_WHITEOUT {
            if let Some(directory) = self.directory_with_something_below(entry, parent)? {
                self.make_opaque(&directory).map_err(|failed| system(&entry.path, failed))?;
            }
            return self.settle(entry);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refused(entry, Refusal::BadName));
            }
            if let Some(directory) = self.directory_with_something_below(entry, parent)? {
                self.hide(&directory, hidden).map_err(|failed| system(&entry.path, failed))?;
            }
            return self.settle(entry);
        }
        let directory = self.directory(entry, parent)?;
        self.check_depth(entry, &directory.path)?;
        self.make(entry, &directory, name, archive)?;
        self.settle(entry)
    }

    /// What every entry ends with: whatever it is, it may have opened directories.
    fn settle(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.within_budget(entry)?;
        if self.times.len() > MAX_TIMES {
            self.set_times()?;
        }
        Ok(())
    }

    /// Fails when the budget had no room for something that this entry took.
    fn within_budget(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        match self.refused.take() {
            None => Ok(()),
            Some(cause) => Err(ExtractError::Budget { entry: entry.name(), cause }),
        }
    }

    /// Charges directories that are looked into.
    fn count_steps(&mut self, steps: usize) {
        if let Err(refused) = self.budget.charge(Cost::Steps, steps as u64) {
            self.refused = Some(refused);
        }
    }

    /// Gives directories their times.
    pub(super) fn finish(mut self) -> Result<(), ExtractError> {
        self.set_times()?;
        self.release();
        Ok(())
    }

    /// Gives directories their times, and forgets these: a directory that gets something later has
    /// its time remembered again when it is opened.
    fn set_times(&mut self) -> Result<(), ExtractError> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let outcome = match split(&path) {
                None => metadata::set_mtime_on(self.root.fd.as_fd(), mtime),
                Some((parent, name)) => self
                    .opened(parent)
                    .call("openat2", parent)
                    .and_then(|directory| metadata::set_mtime(directory.fd.as_fd(), name, mtime)),
            };
            outcome.map_err(|failed| system(&path, failed))?;
        }
        self.open.clear();
        let mtime = metadata::mtime(
            &fs::fstat(&self.root.fd).call("fstat", b"/").map_err(|failed| system(b"/", failed))?,
        );
        self.times.insert(Vec::new(), mtime);
        Ok(())
    }

    /// The root of a layer looks as the one below, unless an entry says otherwise.
    fn inherit_root(&mut self) -> Outcome {
        let Some(parent) = self.parents.nearest() else { return Ok(()) };
        let stat = fs::fstat(parent).call("fstat", b"/")?;
        let xattrs = metadata::read_xattrs(&below(parent.as_fd(), b"."))?;
        let metadata = Metadata::of_stat(&stat, &xattrs);
        self.times.insert(Vec::new(), metadata.mtime);
        metadata.set_on(self.root.fd.as_fd())
    }

    fn set_root(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.times.insert(Vec::new(), entry.mtime);
        metadata::clear_xattrs(self.root.fd.as_fd())
            .and_then(|()| Metadata::of_entry(entry).set_on(self.root.fd.as_fd()))
            .map_err(|failed| system(&entry.path, failed))
    }

    /// A name without `.`, `..`, empty components and the leading slash.
    fn clean(&self, entry: &Entry, name: &[u8]) -> Result<Vec<u8>, ExtractError> {
        if name.contains(&0) {
            return Err(refused(entry, Refusal::BadName));
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if components.pop().is_none() {
                        return Err(refused(entry, Refusal::Escape));
                    }
                }
                component => components.push(component),
            }
        }
        let limit = |limit: usize, unit| ExtractError::Limit {
            entry: entry.name(),
            limit: limit as u64,
            unit,
        };
        let max_depth = self.budget.limits().max_depth;
        if components.len() > max_depth {
            return Err(limit(max_depth, "components in a name"));
        }
        let path = components.join(&b'/');
        if path.len() > MAX_PATH_BYTES {
            return Err(limit(MAX_PATH_BYTES, "bytes in a name"));
        }
        Ok(path)
    }

    /// The directory in *into* that a clean name means, made as it is below where it is missing.
    fn directory(&mut self, entry: &Entry, name: &[u8]) -> Result<Rc<Directory>, ExtractError> {
        if name.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(open) = self.open.get(name) {
            return Ok(open.clone());
        }
        if let Some(canonical) = self.aliases.get(name).cloned() {
            return self.reopen(&canonical).call("openat2", name).map_err(|f| system(name, f));
        }
        // A directory of that very path needs no walk.
        if let Ok(directory) = self.reopen(name) {
            return Ok(directory);
        }
        let directory = self.walk(entry, name)?;
        if directory.path != name {
            if self.aliases.len() >= MAX_ALIASES {
                self.aliases.clear();
            }
            self.aliases.insert(name.to_vec(), directory.path.clone());
        }
        Ok(directory)
    }

    /// The directory a whiteout stands in; `None` where this layer has removed or replaced it, so
    /// that the whiteout has nothing left to hide. Layers that turn a directory into a file list
    /// whiteouts for what it held.
    fn directory_with_something_below(
        &mut self,
        entry: &Entry,
        name: &[u8],
    ) -> Result<Option<Rc<Directory>>, ExtractError> {
        if let Ok(directory) = self.reopen(name) {
            return Ok(Some(directory));
        }
        // The first name on the way that is no directory here, in few steps however long the way is.
        let ends: Vec<usize> = name
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at)
            .chain([name.len()])
            .collect();
        let (mut opened, mut closed) = (0, ends.len() - 1);
        while opened < closed {
            self.count_steps(1);
            let middle = opened.midpoint(closed);
            match self.reopen(&name[..ends[middle]]) {
                Ok(_) => opened = middle + 1,
                Err(_) => closed = middle,
            }
        }
        let first = &name[..ends[closed]];
        if let Some((parent, last)) = split(first)
            && let Ok(directory) = self.reopen(parent)
            && let Ok(stat) = fs::statat(&directory.fd, last, AtFlags::SYMLINK_NOFOLLOW)
        {
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::Symlink if !self.is_own(first) => {}
                _ => return Ok(None),
            }
        }
        match self.directory(entry, name) {
            Err(ExtractError::Refused { why: Refusal::ParentNotDirectory(_), .. }) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    fn walk(&mut self, entry: &Entry, name: &[u8]) -> Result<Rc<Directory>, ExtractError> {
        let mut ahead: Vec<Vec<u8>> = reversed(name);
        let mut here = self.root.clone();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            if component == b".." {
                let up = split(&here.path).map_or(&b""[..], |(parent, _)| parent);
                here = self.reopen(up).call("openat2", up).map_err(|f| system(&entry.path, f))?;
                continue;
            }
            self.check_depth(entry, &here.path)?;
            self.count_steps(1);
            self.within_budget(entry)?;
            match self.step(entry, &here, &component)? {
                Step::Into(next) => here = next,
                Step::Follow(target) => {
                    links += 1;
                    if links > MAX_LINKS || ahead.len() > MAX_PATH_BYTES {
                        return Err(refused(entry, Refusal::TooManyLinks));
                    }
                    if target.starts_with(b"/") {
                        here = self.root.clone();
                    }
                    ahead.extend(reversed(&target));
                }
            }
            if here.path.len() > MAX_PATH_BYTES {
                return Err(refused(entry, Refusal::TooManyLinks));
            }
        }
        Ok(here)
    }

    fn step(
        &mut self,
        entry: &Entry,
        here: &Rc<Directory>,
        name: &[u8],
    ) -> Result<Step, ExtractError> {
        let path = join(&here.path, name);
        if let Some(open) = self.open.get(&path) {
            return Ok(Step::Into(open.clone()));
        }
        let failed = |failed| system(&entry.path, failed);
        match fs::statat(&here.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.reopen(&path).call("openat2", &path).map(Step::Into).map_err(failed)
                }
                FileType::Symlink => {
                    readlink(here.fd.as_fd(), name).map(Step::Follow).map_err(failed)
                }
                FileType::CharacterDevice if self.is_whiteout(&stat) => {
                    self.remove(here, name).map_err(failed)?;
                    self.make_directory(here, name, true).map(Step::Into).map_err(failed)
                }
                _ => Err(refused(entry, Refusal::ParentNotDirectory(EntryName(path)))),
            },
            Err(Errno::NOENT) => self.step_below(entry, here, name, path),
            Err(errno) => Err(errno).call("fstatat", name).map_err(failed),
        }
    }

    /// A step to a name that *into* lacks.
    fn step_below(
        &mut self,
        entry: &Entry,
        here: &Rc<Directory>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Step, ExtractError> {
        let failed = |failed| system(&entry.path, failed);
        self.count_steps(self.parents.count());
        let found = self.parents.look_up(&here.path, name).call("fstatat", name);
        let (layer, stat) = match found.map_err(failed)? {
            Found::Nothing => {
                return self.make_directory(here, name, false).map(Step::Into).map_err(failed);
            }
            Found::At { layer, stat } => (layer, stat),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = self.open_below(layer, &path).map_err(failed)?;
                let made = self.make_directory(here, name, false).map_err(failed)?;
                self.copy_directory(&below, &stat, &made).map_err(failed)?;
                Ok(Step::Into(made))
            }
            FileType::Symlink => {
                let below = self.open_below(layer, &here.path).map_err(failed)?;
                readlink(below.as_fd(), name).map(Step::Follow).map_err(failed)
            }
            _ => Err(refused(entry, Refusal::ParentNotDirectory(EntryName(path)))),
        }
    }

    fn open_below(&self, layer: usize, path: &[u8]) -> Outcome<OwnedFd> {
        self.parents.open_directory(layer, path).call("openat2", path)
    }

    /// Opens a directory of *into* by its canonical path, to put something into it.
    fn reopen(&mut self, path: &[u8]) -> rustix::io::Result<Rc<Directory>> {
        let directory = self.opened(path)?;
        if !self.times.contains_key(path) {
            // What is added to a directory does not make it newer.
            let mtime = metadata::mtime(&fs::fstat(&directory.fd)?);
            self.times.insert(path.to_vec(), mtime);
        }
        Ok(directory)
    }

    /// Opens a directory of *into* by its canonical path.
    fn opened(&mut self, path: &[u8]) -> rustix::io::Result<Rc<Directory>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(open) = self.open.get(path) {
            return Ok(open.clone());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat2(&self.root.fd, path, flags, Mode::empty(), BENEATH)?;
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        let directory = Rc::new(Directory { path: path.to_vec(), fd });
        self.open.insert(path.to_vec(), directory.clone());
        Ok(directory)
    }

    /// Whether this layer made what *into* has at a path.
    fn is_own(&self, path: &[u8]) -> bool {
        self.begins_empty || self.made.contains(path)
    }

    /// Whether a directory may get a name: where links lead counts, not how they are written.
    fn check_depth(&self, entry: &Entry, directory: &[u8]) -> Result<(), ExtractError> {
        let max_depth = self.budget.limits().max_depth;
        let depth = if directory.is_empty() { 0 } else { directory.split(|b| *b == b'/').count() };
        if depth < max_depth {
            return Ok(());
        }
        let unit = "components in a path";
        Err(ExtractError::Limit { entry: entry.name(), limit: max_depth as u64, unit })
    }

    /// Makes a directory that no entry described yet.
    fn make_directory(
        &mut self,
        here: &Rc<Directory>,
        name: &[u8],
        hides: bool,
    ) -> Outcome<Rc<Directory>> {
        let path = join(&here.path, name);
        fs::mkdirat(&here.fd, name, Mode::from_raw_mode(0o755)).call("mkdirat", &path)?;
        self.note(&path, true);
        let directory = self.reopen(&path).call("openat2", &path)?;
        fs::fchmod(&directory.fd, Mode::from_raw_mode(0o755)).call("fchmod", &path)?;
        if hides {
            self.make_opaque(&directory)?;
        }
        Ok(directory)
    }

    fn copy_directory(&mut self, from: &OwnedFd, stat: &Stat, to: &Directory) -> Outcome {
        let xattrs = metadata::read_xattrs(&below(from.as_fd(), b"."))?;
        let metadata = Metadata::of_stat(stat, &xattrs);
        metadata.set_on(to.fd.as_fd())?;
        self.times.insert(to.path.clone(), metadata.mtime);
        Ok(())
    }
}

fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in fs::Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn readlink(directory: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> Outcome<Vec<u8>> {
    fs::readlinkat(directory, name, Vec::new())
        .call("readlinkat", name)
        .map(std::ffi::CString::into_bytes)
}

fn refused(entry: &Entry, why: Refusal) -> ExtractError {
    ExtractError::Refused { entry: entry.name(), why }
}

fn system(entry: &[u8], Failed(call, errno): Failed) -> ExtractError {
    ExtractError::System { entry: EntryName(entry.to_vec()), call, cause: errno.into() }
}
