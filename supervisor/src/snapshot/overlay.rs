//! The overlayfs driver: directories and mount lists, no records.
//!
//! A snapshot is `snapshots/ID/fs`, with `work` beside it while it is active. Mount lists are
//! those of containerd's overlayfs snapshotter: a bind mount where one directory is all there is,
//! else an overlay with the newest lower directory first.
//! See overlayfs in the kernel's documentation.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use installer::remove::{LIFTED, remove_tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::directory;
use super::{Driver, Kind, Mount, SnapshotError, mount};
use crate::quarantine::set_aside;

/// Present where overlayfs knows the `index` option; with it on, a directory that was part of an
/// overlay once could not be one of another (ESTALE).
const INDEX: &str = "/sys/module/overlay/parameters/index";

/// Ends the name of a directory that no record names, from its number.
const ORPHAN: &str = "orphan";

/// The driver.
#[derive(Debug)]
pub(crate) struct Overlay {
    folder: PathBuf,
    index_off: bool,
}

impl Overlay {
    /// The name clients know it by.
    pub(crate) const NAME: &'static str = "overlayfs";

    /// Opens the driver on `folder`.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, SnapshotError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(directory("create folder", &folder))?;
        Ok(Self { folder, index_off: Path::new(INDEX).exists() })
    }

    fn make(&self, home: &Path, kind: Kind, parent: Option<i64>) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(home)?;
        let root = home.join("fs");
        DirBuilder::new().mode(0o755).create(&root)?;
        if kind == Kind::Active {
            DirBuilder::new().mode(0o711).create(home.join("work"))?;
        }
        let Some(parent) = parent else { return Ok(()) };
        let below = fs::symlink_metadata(self.root(parent))?;
        if (below.uid(), below.gid()) != (0, 0) {
            lchown(&root, Some(below.uid()), Some(below.gid()))?;
        }
        let mode = below.mode() & 0o7777;
        if mode != 0o755 {
            fs::set_permissions(&root, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn overlay(&self, home: &Path, active: bool, parents: &[i64]) -> Mount {
        let mut options = Vec::new();
        if self.index_off {
            options.push("index=off".to_owned());
        }
        if active {
            options.push(format!("workdir={}", home.join("work").display()));
            options.push(format!("upperdir={}", home.join("fs").display()));
        }
        let lower: Vec<String> =
            parents.iter().map(|parent| self.root(*parent).display().to_string()).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }
    }

    /// Removes the directories of a snapshot that holds nothing yet.
    fn remove_empty(&self, id: i64) {
        for made in [self.root(id), self.home(id).join("work"), self.home(id)] {
            // One that is not empty, or not there, stays as it is.
            let _ = fs::remove_dir(made);
        }
    }

    /// The root directory that the snapshots are part of.
    fn base(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    fn home(&self, id: i64) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn create(&self, id: i64, kind: Kind, parent: Option<i64>) -> Result<(), SnapshotError> {
        let home = self.home(id);
        // Left by a crash before its record was durable: empty directories. Anything else was not
        // made by this database, and is kept.
        if home.symlink_metadata().is_ok() {
            self.remove_empty(id);
            if home.symlink_metadata().is_ok() {
                set_aside(self.base(), &home, "a new snapshot has its number");
            }
        }
        self.make(&home, kind, parent).map_err(|cause| {
            // The number is given to the next snapshot.
            self.remove_empty(id);
            directory("create snapshot", &home)(cause)
        })
    }

    fn put_in_place(&self, id: i64, draft: &Path) -> Result<(), SnapshotError> {
        let put = || -> io::Result<()> {
            remove_tree(&draft.join("work"))?;
            super::replace::replace(self.base(), &self.home(id), draft)
        };
        put().map_err(directory("put in place", draft))
    }

    fn all(&self) -> Result<Vec<(i64, PathBuf)>, SnapshotError> {
        let entries = fs::read_dir(&self.folder).map_err(directory("list", &self.folder))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(directory("list", &self.folder))?.path();
            if let Some(id) = number(&path).filter(|_| is_snapshot(&path)) {
                found.push((id, path));
            }
        }
        Ok(found)
    }

    fn mounts(&self, id: i64, kind: Kind, parents: &[i64]) -> Vec<Mount> {
        let active = kind == Kind::Active;
        let mount = match parents {
            [] => mount::bind(self.root(id), if active { "rw" } else { "ro" }),
            [parent] if !active => mount::bind(self.root(*parent), "ro"),
            _ => self.overlay(&self.home(id), active, parents),
        };
        vec![mount]
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(&self.folder)?)?) };
        sync().map_err(directory("sync the file system of", &self.folder))
    }

    fn draft(
        &self,
        id: i64,
        number: u64,
        parents: &[i64],
    ) -> Result<(PathBuf, Vec<Mount>), SnapshotError> {
        let home = self.folder.join(format!("{id}.draft-{number}"));
        let parent = parents.first().copied();
        let made = remove_tree(&home).and_then(|()| self.make(&home, Kind::Active, parent));
        made.map_err(directory("create snapshot", &home))?;
        let mount = match parents {
            [] => mount::bind(home.join("fs"), "rw"),
            _ => self.overlay(&home, true, parents),
        };
        Ok((home, vec![mount]))
    }

    fn restore(&self, id: i64, draft: &Path) -> Result<(), SnapshotError> {
        self.sync()?;
        let home = self.home(id);
        let put = || -> io::Result<()> {
            match DirBuilder::new().mode(0o700).create(&home) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            let (from, to) = (draft.join("fs"), home.join("fs"));
            match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => other?,
            }
            File::open(&home)?.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        put().map_err(directory("restore snapshot", &home))
    }

    fn remove(&self, id: i64) -> io::Result<()> {
        remove_tree(&self.home(id))
    }

    fn sweep(&self, known: &dyn Fn(i64) -> bool) -> Result<Vec<PathBuf>, SnapshotError> {
        let entries = fs::read_dir(&self.folder).map_err(directory("list", &self.folder))?;
        let mut orphans = Vec::new();
        for entry in entries {
            let path = entry.map_err(directory("list", &self.folder))?.path();
            match number(&path) {
                Some(id) if known(id) => {}
                found if is_draft(&path) || (found.is_some() && is_snapshot(&path)) => {
                    log::info!("removing {}, which no record names", path.display());
                    let orphan = path.with_extension(ORPHAN);
                    // One of that name is there when a removal was killed, and the number came again.
                    match renameat_with(CWD, &path, CWD, &orphan, RenameFlags::NOREPLACE) {
                        Ok(()) => orphans.push(orphan),
                        // A name that cannot be given: it goes at once, before others can be made.
                        Err(_) => remove_orphan(&path),
                    }
                }
                None if is_orphan(&path) => orphans.push(path),
                _ => set_aside(self.base(), &path, "it is not a directory of this store"),
            }
        }
        Ok(orphans)
    }

    fn root(&self, id: i64) -> PathBuf {
        self.home(id).join("fs")
    }
}

/// Removes a directory that [`Driver::sweep`] found. What cannot be removed is logged.
pub(super) fn remove_orphan(path: &Path) {
    if let Err(error) = remove_tree(path) {
        log::warn!("remove {}: {error}", path.display());
    }
}

/// Whether a directory was being filled to take the place of a snapshot's.
fn is_draft(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once(".draft").is_some_and(|(id, _)| id.parse::<i64>().is_ok()) && is_snapshot(path)
}

/// Whether a directory was being removed as an orphan.
fn is_orphan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == ORPHAN)
        && number(&path.with_extension("")).is_some()
        && is_snapshot(path)
}

/// The number that a snapshot's directory bears.
fn number(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    name.parse::<i64>().ok().filter(|id| id.to_string() == name)
}

/// Whether a directory has the form of a snapshot's: nothing in it but `fs` and `work`. A snapshot that
/// was being removed may have lost either, and may have directories that the removal has moved up
/// ([`LIFTED`]).
fn is_snapshot(path: &Path) -> bool {
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let is_ours = |name: &str| ["fs", "work"].contains(&name) || name.starts_with(LIFTED);
    is_folder(path)
        && fs::read_dir(path).is_ok_and(|entries| {
            entries.flatten().all(|entry| {
                entry.file_name().to_str().is_some_and(is_ours) && is_folder(&entry.path())
            })
        })
}
