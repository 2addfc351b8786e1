//! Makes entries: files, directories, links, devices, and copies of what links lead to below.

use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Directory, Tree, readlink, refused, system};
use crate::budget::Cost;
use crate::layer::archive::{Archive, Entry, EntryKind};
use crate::layer::error::{EntryName, ExtractError, Refusal};
use crate::layer::merged::{Found, below, join, split};
use crate::layer::metadata::{self, Call as _, Failed, Metadata, Outcome};

/// Bytes copied in one call, so that a transfer that is not wanted any more ends soon.
const COPY_BYTES: usize = 8 << 20;

impl Tree {
    pub(super) fn make<R: Read>(
        &mut self,
        entry: &Entry,
        directory: &Rc<Directory>,
        name: &[u8],
        archive: &mut Archive<R>,
    ) -> Result<(), ExtractError> {
        let failed = |failed| system(&entry.path, failed);
        let metadata = Metadata::of_entry(entry);
        let path = join(&directory.path, name);
        match &entry.kind {
            EntryKind::File { .. } => {
                let file = self.make_room_for(directory, name, |directory| {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    let mode = Mode::from_raw_mode(0o600);
                    fs::openat(&directory.fd, name, flags | OFlags::CLOEXEC, mode)
                });
                let file = file.map_err(failed)?;
                write(entry, &file, archive)?;
                metadata.set_on(file.as_fd()).map_err(failed)?;
                metadata::set_mtime_on(file.as_fd(), entry.mtime).map_err(failed)?;
            }
            EntryKind::Directory => {
                let made = self.directory_entry(directory, name).map_err(failed)?;
                metadata.set_on(made.fd.as_fd()).map_err(failed)?;
                self.times.insert(path.clone(), entry.mtime);
            }
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.contains(&0) {
                    return Err(refused(entry, Refusal::BadName));
                }
                self.make_room_for(directory, name, |directory| {
                    fs::symlinkat(&target[..], &directory.fd, name)
                })
                .map_err(failed)?;
                metadata.set_at(directory.fd.as_fd(), name, true).map_err(failed)?;
                self.note_link(&path);
            }
            EntryKind::HardLink { target } => self.hard_link(entry, directory, name, target)?,
            EntryKind::Fifo => {
                self.node(directory, name, FileType::Fifo, 0).map_err(failed)?;
                metadata.set_at(directory.fd.as_fd(), name, false).map_err(failed)?;
            }
            EntryKind::CharDevice { major, minor } => {
                let device = fs::makedev(*major, *minor);
                self.node(directory, name, FileType::CharacterDevice, device).map_err(failed)?;
                metadata.set_at(directory.fd.as_fd(), name, false).map_err(failed)?;
            }
            EntryKind::BlockDevice { major, minor } => {
                let device = fs::makedev(*major, *minor);
                self.node(directory, name, FileType::BlockDevice, device).map_err(failed)?;
                metadata.set_at(directory.fd.as_fd(), name, false).map_err(failed)?;
            }
            EntryKind::Unknown(kind) => {
                return Err(refused(entry, Refusal::UnknownType(char::from(*kind))));
            }
        }
        self.note(&path, matches!(entry.kind, EntryKind::Directory | EntryKind::Symlink { .. }));
        Ok(())
    }

    /// Runs `make`, which fails where the name exists; what exists is removed then.
    fn make_room_for<T>(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        make: impl Fn(&Directory) -> rustix::io::Result<T>,
    ) -> Outcome<T> {
        match make(directory) {
            Err(Errno::EXIST) => {
                self.remove(directory, name)?;
                make(directory).call("create", name)
            }
            outcome => outcome.call("create", name),
        }
    }

    fn node(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        kind: FileType,
        device: u64,
    ) -> Outcome {
        self.make_room_for(directory, name, |directory| {
            fs::mknodat(&directory.fd, name, kind, Mode::from_raw_mode(0o600), device)
        })
    }

    fn directory_entry(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
    ) -> Outcome<Rc<Directory>> {
        let path = join(&directory.path, name);
        match fs::mkdirat(&directory.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.reopen(&path).call("openat2", &path),
            Err(Errno::EXIST) => match self.reopen(&path) {
                Ok(existing) => {
                    metadata::clear_xattrs(existing.fd.as_fd())?;
                    Ok(existing)
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    // What was there hid the layers below: so does the directory in its place.
                    self.remove(directory, name)?;
                    self.make_directory(directory, name, true)
                }
                Err(errno) => Err(errno).call("openat2", &path),
            },
            Err(errno) => Err(errno).call("mkdirat", &path),
        }
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        directory: &Rc<Directory>,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), ExtractError> {
        let failed = |failed| system(&entry.path, failed);
        let missing = || refused(entry, Refusal::MissingTarget(EntryName(target.to_vec())));
        let target_path = self.clean(entry, target)?;
        let Some((parent, target_name)) = split(&target_path) else {
            return Err(refused(entry, Refusal::LinkToDirectory(EntryName(target.to_vec()))));
        };
        let source = self.directory(entry, parent)?;
        if source.path == directory.path && target_name == name {
            return Err(refused(entry, Refusal::LinkToItself));
        }
        let kind = match fs::statat(&source.fd, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if self.is_whiteout(&stat) => return Err(missing()),
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => {
                self.count_steps(self.parents.count());
                let found = self.parents.look_up(&source.path, target_name);
                match found.call("fstatat", target).map_err(failed)? {
                    Found::Nothing => return Err(missing()),
                    Found::At { layer, stat } => {
                        let kind = FileType::from_raw_mode(stat.st_mode);
                        if kind != FileType::Directory {
                            self.copy_up(layer, &stat, &source, target_name).map_err(failed)?;
                        }
                        kind
                    }
                }
            }
            Err(errno) => return Err(errno).call("fstatat", target).map_err(failed),
        };
        if kind == FileType::Directory {
            return Err(refused(entry, Refusal::LinkToDirectory(EntryName(target.to_vec()))));
        }
        self.make_room_for(directory, name, |directory| {
            fs::linkat(&source.fd, target_name, &directory.fd, name, AtFlags::empty())
        })
        .map_err(failed)?;
        if kind == FileType::Symlink {
            self.note_link(&join(&directory.path, name));
        }
        Ok(())
    }

    /// Copies what a parent has at a name into *into*, so that it can be linked to.
    fn copy_up(
        &mut self,
        layer: usize,
        stat: &Stat,
        directory: &Rc<Directory>,
        name: &[u8],
    ) -> Outcome {
        let from = self.open_below(layer, &directory.path)?;
        let xattrs = metadata::read_xattrs(&below(from.as_fd(), name))?;
        let metadata = Metadata::of_stat(stat, &xattrs);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = fs::openat(&from, name, flags, Mode::empty()).call("openat", name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(0o600);
                let file = fs::openat(&directory.fd, name, flags, mode).call("openat", name)?;
                self.copy(&source, &file, stat.st_size.unsigned_abs()).call("copy", name)?;
                metadata.set_on(file.as_fd())?;
                metadata::set_mtime_on(file.as_fd(), metadata.mtime)?;
            }
            FileType::Symlink => {
                let target = readlink(from.as_fd(), name)?;
                fs::symlinkat(&target[..], &directory.fd, name).call("symlinkat", name)?;
                metadata.set_at(directory.fd.as_fd(), name, true)?;
            }
            _ => {
                let mode = Mode::from_raw_mode(0o600);
                fs::mknodat(&directory.fd, name, kind, mode, stat.st_rdev).call("mknodat", name)?;
                metadata.set_at(directory.fd.as_fd(), name, false)?;
            }
        }
        Ok(())
    }

    /// Copies data and leaves holes out. It costs disk that the archive does not bring.
    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, size_bytes: u64) -> rustix::io::Result<()> {
        fs::ftruncate(to, size_bytes)?;
        let mut at = 0;
        loop {
            let data = match fs::seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(()), // nothing but a hole follows
                other => other?,
            };
            let end = fs::seek(from, SeekFrom::Hole(data))?;
            (at, _) = (end, fs::seek(from, SeekFrom::Start(data))?);
            fs::seek(to, SeekFrom::Start(data))?;
            let mut left = end - data;
            while left > 0 {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES);
                if let Err(refused) = self.budget.charge(Cost::Output, step as u64) {
                    self.refused = Some(refused);
                    return Ok(());
                }
                match fs::copy_file_range(from, None, to, None, step)? {
                    0 => return Ok(()), // it became shorter
                    n => left -= n as u64,
                }
            }
        }
    }
}

fn write<R: Read>(
    entry: &Entry,
    file: &OwnedFd,
    archive: &mut Archive<R>,
) -> Result<(), ExtractError> {
    let failed = |call: &str| {
        let call = call.to_owned();
        move |errno| system(&entry.path, Failed(call, errno))
    };
    loop {
        let hole = archive.skip_hole();
        if hole > 0 {
            let hole = i64::try_from(hole).unwrap_or(i64::MAX);
            let at = fs::seek(file, SeekFrom::Current(hole)).map_err(failed("lseek"))?;
            // So that the size is right when nothing follows.
            fs::ftruncate(file, at).map_err(failed("ftruncate"))?;
            continue;
        }
        let piece = archive.content()?;
        if piece.is_empty() {
            return Ok(());
        }
        let n = match rustix::io::retry_on_intr(|| rustix::io::write(file, piece)) {
            Ok(n) => n,
            Err(errno) => return Err(failed("write")(errno)),
        };
        archive.consume(n);
    }
}
