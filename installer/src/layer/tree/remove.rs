//! What a layer takes away: whiteouts, opaque directories, and names that an entry replaces.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::{Directory, Tree};
use crate::budget::Cost;
use crate::layer::Whiteouts;
use crate::layer::merged::{self, Found, OPAQUE, join, split, within};
use crate::layer::metadata::{Call as _, Outcome};
use crate::remove::remove_at;

impl Tree {
    pub(super) fn is_whiteout(&self, stat: &Stat) -> bool {
        self.whiteouts == Whiteouts::Overlay && merged::is_whiteout(stat)
    }

    /// `.wh..wh..opq`: nothing of the layers below shows through.
    pub(super) fn make_opaque(&mut self, directory: &Rc<Directory>) -> Outcome {
        match self.whiteouts {
            // There is nothing of the layers below.
            Whiteouts::Remove if self.begins_empty => Ok(()),
            Whiteouts::Remove => self.remove_unmade(directory),
            Whiteouts::Overlay if !self.has_parents => Ok(()),
            Whiteouts::Overlay => {
                let flags = fs::XattrFlags::empty();
                fs::fsetxattr(&directory.fd, OPAQUE, b"y", flags)
                    .call("fsetxattr", &directory.path)?;
                self.keep(&directory.path);
                self.parents.hide(&directory.path);
                Ok(())
            }
        }
    }

    /// `.wh.NAME`: what the layers below have of that name is gone, what this one has stays.
    pub(super) fn hide(&mut self, directory: &Rc<Directory>, name: &[u8]) -> Outcome {
        if self.whiteouts == Whiteouts::Remove && self.begins_empty {
            return Ok(());
        }
        let path = join(&directory.path, name);
        let present = match fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno).call("fstatat", name),
        };
        match (self.whiteouts, present) {
            (Whiteouts::Remove, None) => Ok(()),
            (Whiteouts::Remove, Some(kind)) if self.made.contains(&path) => match kind {
                FileType::Directory => {
                    let directory = self.reopen(&path).call("openat2", &path)?;
                    self.remove_unmade(&directory)
                }
                _ => Ok(()),
            },
            (Whiteouts::Remove, Some(_)) => self.remove(directory, name),
            (Whiteouts::Overlay, Some(FileType::Directory)) => {
                let directory = self.reopen(&path).call("openat2", &path)?;
                self.make_opaque(&directory)
            }
            (Whiteouts::Overlay, Some(_)) => Ok(()),
            (Whiteouts::Overlay, None) => {
                self.count_steps(self.parents.count());
                match self.parents.look_up(&directory.path, name).call("fstatat", &path)? {
                    // Overlayfs lists a whiteout that hides nothing, so there must not be one.
                    Found::Nothing => Ok(()),
                    Found::At { .. } => {
                        let kind = FileType::CharacterDevice;
                        fs::mknodat(&directory.fd, name, kind, Mode::empty(), 0)
                            .call("mknodat", &path)
                    }
                }
            }
        }
    }

    /// Removes what was in a directory before this layer.
    fn remove_unmade(&mut self, directory: &Rc<Directory>) -> Outcome {
        // Paths, not descriptors: there may be any number of them.
        let mut waiting = vec![directory.path.clone()];
        while let Some(path) = waiting.pop() {
            let directory = self.reopen(&path).call("openat2", &path)?;
            let listing = fs::Dir::read_from(&directory.fd).call("getdents", &directory.path)?;
            let mut names = Vec::new();
            for item in listing {
                let item = item.call("getdents", &directory.path)?;
                if !matches!(item.file_name().to_bytes(), b"." | b"..") {
                    names.push(item.file_name().to_bytes().to_vec());
                }
            }
            for name in names {
                let path = join(&directory.path, &name);
                if !self.made.contains(&path) {
                    self.remove(&directory, &name)?;
                } else if self.reopen(&path).is_ok() {
                    waiting.push(path);
                }
            }
        }
        Ok(())
    }

    /// Removes a name with all that is below it, and forgets what was known of it.
    pub(super) fn remove(&mut self, directory: &Rc<Directory>, name: &[u8]) -> Outcome {
        let path = join(&directory.path, name);
        match fs::unlinkat(&directory.fd, name, AtFlags::empty()) {
            Ok(()) => {
                if self.made.remove(&path) {
                    self.budget.release(kept_bytes(&path));
                }
                self.aliases.clear();
                return Ok(());
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno).call("unlinkat", &path),
        }
        remove_at(directory.fd.as_fd(), name).call("remove", &path)?;
        self.aliases.clear();
        let hidden = self.parents.forget(&path);
        self.budget.release(hidden.iter().map(|path| kept_bytes(path)).sum());
        self.open.retain(|known, _| !within(known, &path));
        self.budget.release(forget(&mut self.made, &path));
        let gone: Vec<_> = self
            .times
            .range(path.clone()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(&path))
            .filter(|known| within(known, &path))
            .cloned()
            .collect();
        for known in gone {
            self.times.remove(&known);
        }
        Ok(())
    }

    /// Remembers what this layer made.
    pub(super) fn note(&mut self, path: &[u8], links_may_change: bool) {
        if self.whiteouts == Whiteouts::Remove && !self.begins_empty {
            // With its parents: an opaque whiteout above must leave the way to it.
            let mut path = path;
            while self.made.insert(path.to_vec()) {
                self.keep(path);
                match split(path) {
                    Some((parent, _)) if !parent.is_empty() => path = parent,
                    _ => break,
                }
            }
        }
        if links_may_change {
            self.aliases.clear();
        }
    }
}

impl Tree {
    /// Remembers a symbolic link that this layer made.
    pub(super) fn note_link(&mut self, path: &[u8]) {
        if !self.begins_empty && self.made.insert(path.to_vec()) {
            self.keep(path);
        }
    }

    /// Charges a path that is kept until the end of the layer.
    fn keep(&mut self, path: &[u8]) {
        if let Err(refused) = self.budget.charge(Cost::Kept, kept_bytes(path)) {
            self.refused = Some(refused);
        }
    }

    /// Gives back what was kept for this layer.
    pub(super) fn release(&self) {
        let made = self.made.iter().map(|path| kept_bytes(path)).sum::<u64>();
        self.budget.release(made + self.parents.hidden().map(kept_bytes).sum::<u64>());
    }
}

/// What a path costs in a set.
fn kept_bytes(path: &[u8]) -> u64 {
    path.len() as u64 + 64
}

fn forget(set: &mut BTreeSet<Vec<u8>>, path: &[u8]) -> u64 {
    let gone: Vec<_> = set
        .range(path.to_vec()..)
        .take_while(|known| known.starts_with(path))
        .filter(|known| within(known, path))
        .cloned()
        .collect();
    let mut released = 0;
    for known in gone {
        released += kept_bytes(&known);
        set.remove(&known);
    }
    released
}
