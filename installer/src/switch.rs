//! The switch: which generation is shown.
//!
//! `current` is a symbolic link; renaming another over it is the one step that changes what is
//! shown, and it happens only after everything it leads to is on disk. A crash before it leaves the
//! old set and a leftover, a crash after it the new set.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Call as _, InstallError};
use crate::remove::remove_tree;
use crate::stage::{SHOWN, link_tree, sync_directory};

const CURRENT: &str = "current";
const GENERATIONS: &str = "generations";
/// A link that is about to take another's place.
const NEXT: &str = ".next";
/// How many earlier generations are kept to return to.
const KEPT: usize = 3;

/// The managed directory's layout.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn generation(&self, number: u64) -> PathBuf {
        self.root.join(GENERATIONS).join(number.to_string())
    }

    /// The number of the generation that is shown.
    pub(crate) fn current(&self) -> Result<Option<u64>, InstallError> {
        let path = self.root.join(CURRENT);
        match fs::read_link(&path) {
            Ok(target) => Ok(target.file_name().and_then(|name| name.to_str()?.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).call("readlink", &path),
        }
    }

    /// A number that no generation has, nor a leftover.
    pub(crate) fn next(&self) -> Result<u64, InstallError> {
        Ok(self.numbers()?.into_iter().max().unwrap_or(0) + 1)
    }

    fn numbers(&self) -> Result<Vec<u64>, InstallError> {
        let path = self.root.join(GENERATIONS);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&path).call("readdir", &path)? {
            let name = entry.call("readdir", &path)?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Makes the directory ready for generations.
    pub(crate) fn prepare(&self) -> Result<(), InstallError> {
        let generations = self.root.join(GENERATIONS);
        fs::create_dir_all(&generations).call("mkdir", &generations)?;
        remove_if_there(&self.root.join(NEXT))
    }

    /// Copies what was in `bin` and `lib` before this program managed them into a generation.
    pub(crate) fn adopt(&self, into: &Path) -> Result<(), InstallError> {
        for name in SHOWN {
            let from = self.root.join(name);
            if fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir()) {
                link_tree(&from, &into.join(name))?;
            }
        }
        Ok(())
    }

    /// Shows a generation, all of it on disk, in place of the current one.
    pub(crate) fn switch(&self, number: u64) -> Result<(), InstallError> {
        sync_directory(&self.root.join(GENERATIONS))?;
        self.point(CURRENT, &Path::new(GENERATIONS).join(number.to_string()))?;
        for name in SHOWN {
            self.show(name)?;
        }
        sync_directory(&self.root)
    }

    /// Makes `bin` or `lib` lead to the current generation's.
    fn show(&self, name: &str) -> Result<(), InstallError> {
        let path = self.root.join(name);
        let target = Path::new(CURRENT).join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {
                // Files of before, which the generation has too: exchanged in one step.
                let next = self.root.join(NEXT);
                symlink(&target, &next).call("symlink", &next)?;
                renameat_with(CWD, &next, CWD, &path, RenameFlags::EXCHANGE)
                    .call("renameat2", &path)?;
                remove_tree(&next).call("remove", &next)
            }
            Ok(_) if fs::read_link(&path).is_ok_and(|found| found == target) => Ok(()),
            _ => self.point(name, &target),
        }
    }

    fn point(&self, name: &str, target: &Path) -> Result<(), InstallError> {
        let (next, path) = (self.root.join(NEXT), self.root.join(name));
        symlink(target, &next).call("symlink", &next)?;
        fs::rename(&next, &path).call("rename", &path)
    }

    /// Removes generations that nothing leads to: neither shown nor to be returned to.
    pub(crate) fn sweep(
        &self,
        previous: impl Fn(u64) -> Result<Option<u64>, InstallError>,
    ) -> Result<(), InstallError> {
        let mut wanted = Vec::new();
        let mut number = self.current()?;
        while let Some(known) = number
            && wanted.len() <= KEPT
            && !wanted.contains(&known)
        {
            wanted.push(known);
            number = previous(known)?;
        }
        for number in self.numbers()? {
            if !wanted.contains(&number) {
                let path = self.generation(number);
                remove_tree(&path).call("remove", &path)?;
            }
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> Result<(), InstallError> {
    remove_tree(path).call("remove", path)
}
