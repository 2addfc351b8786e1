//! The executable that the helper runs: the shim's own, out of a container's reach.
//!
//! What a container's process was before it executed the user's command is what
//! `/proc/<pid>/exe` shows of it, and `#!/proc/self/exe` in a container runs it once more, as a
//! process that the container may look into. If that were the file on the host, the container
//! could open it for writing (CVE-2019-5736).
//!
//! Promise: the image cannot be written through any descriptor or link that leads to it. It is
//! the file seen through a detached mount that is read-only; where the kernel has no such mounts
//! (before 5.12) or refuses them, a sealed copy in memory. The mount costs 15 µs and shares the
//! page cache with the shim; the copy costs 2 ms and its whole size in memory.
//! See open_tree(2), mount_setattr(2), memfd_create(2), fcntl(2) F_ADD_SEALS.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::sys;

const OWN_BINARY: &str = "/proc/self/exe";

/// The shim's own executable, for as many helpers as it takes. It is held from the first to the last:
/// the kernel waits, with whoever closes it, until nobody can be on the way through the mount.
#[derive(Debug, Default)]
pub(super) struct Image(OnceCell<OwnedFd>);

impl Image {
    /// A descriptor that nobody can write through.
    pub(super) fn get(&self) -> io::Result<OwnedFd> {
        if let Some(image) = self.0.get() {
            return image.try_clone();
        }
        let image = protected()?;
        self.0.get_or_init(|| image).try_clone()
    }
}

fn protected() -> io::Result<OwnedFd> {
    let binary = Path::new(OWN_BINARY);
    read_only_mount(binary).or_else(|refused| {
        log::debug!("no read-only mount of {OWN_BINARY} ({refused}), copying it");
        sealed_copy(binary)
    })
}

fn read_only_mount(binary: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, binary, flags)?;
    sys::make_mount_read_only(&mount)?;
    Ok(mount)
}

fn sealed_copy(binary: &Path) -> io::Result<OwnedFd> {
    let mut binary = File::open(binary)?;
    // MFD_EXEC is wanted by hosts that default to memory without it, unknown before 6.3.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("shim", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("shim", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut binary, &mut copy)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_mounted_image_cannot_be_opened_for_writing() {
        // Not this program's own file, which is busy and refuses for that reason.
        let file = tempfile::NamedTempFile::new().unwrap();
        let image = read_only_mount(file.path()).unwrap();
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let refused = File::options().write(true).open(path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        File::options().write(true).open(file.path()).unwrap();
    }

    #[test]
    fn the_copied_image_cannot_be_written() {
        let image = sealed_copy(Path::new(OWN_BINARY)).unwrap();
        let refused = rustix::io::write(&image, b"x").unwrap_err();
        assert_eq!(refused, rustix::io::Errno::PERM);
    }
}
