//! The executable of the helper: the shim's own, in a file that cannot be written.
//!
//! `/proc/<pid>/exe` of a container's process shows this file until the process executes the user's
//! command, and a script with `#!/proc/self/exe` in a container runs the file again, in a process that
//! the container may inspect. If it were the host's file, the container could open it for writing
//! (CVE-2019-5736). A read-only mount does not help: a container that unshares a user
//! and a mount namespace clears MOUNT_ATTR_RDONLY through any descriptor of the file.
//!
//! Promise: the file cannot be written through any descriptor or link that leads to it, whatever
//! rights its holder has in namespaces of its own. The file is seen through an overlay without an
//! upper layer: its superblock is read-only, and can never be made writable. It shares the page
//! cache with the shim. If the kernel refuses the overlay, the file is a sealed copy in memory, one for
//! all helpers of the shim. The overlay costs 0.1 ms, the copy 2 ms and its size in memory.
//! See fsopen(2), memfd_create(2), fcntl(2) F_ADD_SEALS, the kernel's filesystems/overlayfs.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use shim_sdk::mount::join_lowerdir;

const OWN_BINARY: &str = "/proc/self/exe";

/// Directories that can be the second lower layer. The kernel wants two where there is no upper
/// one, neither inside the other. No file of the second one is used.
const SECOND_LAYERS: [&str; 3] = ["/dev", "/sys", "/run"];

/// F_SEAL_EXEC, since Linux 6.3: the mode's execute bits stay as they are.
const SEAL_EXEC: SealFlags = SealFlags::from_bits_retain(0x20);

/// The shim's own executable, for all helpers.
#[derive(Debug, Default)]
pub(super) struct Image(OnceCell<Protected>);

/// A file that no process can write.
#[derive(Debug)]
struct Protected {
    file: OwnedFd,
    /// The overlay's mount. It is held from the first helper to the last, since the kernel makes
    /// the process that closes it wait for an RCU grace period.
    _mount: Option<OwnedFd>,
}

impl Image {
    /// A descriptor through which no process can write.
    pub(super) fn get(&self) -> io::Result<OwnedFd> {
        if let Some(image) = self.0.get() {
            return image.file.try_clone();
        }
        let image = protected(Path::new(OWN_BINARY))?;
        self.0.get_or_init(|| image).file.try_clone()
    }
}

fn protected(binary: &Path) -> io::Result<Protected> {
    overlaid(binary).or_else(|refused| {
        log::debug!("no overlay of {} ({refused}), copying it", binary.display());
        Ok(Protected { file: sealed_copy(binary)?, _mount: None })
    })
}

/// The file seen through an overlay of its directory.
fn overlaid(binary: &Path) -> io::Result<Protected> {
    let path = binary.canonicalize()?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let separate = |other: &Path| {
        !directory.starts_with(other) && !other.starts_with(directory) && other.is_dir()
    };
    let second = SECOND_LAYERS.iter().find(|layer| separate(Path::new(layer)));
    let second = second.ok_or_else(|| io::Error::other("no directory for a second layer"))?;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let layers = join_lowerdir([directory, Path::new(second)]);
    fsconfig_set_string(&overlay, "lowerdir", &layers)?;
    // xino=off: inode numbers that are unique over both layers are not needed, and the kernel would
    // log that it cannot give them.
    let _ = fsconfig_set_string(&overlay, "xino", "off");
    fsconfig_create(&overlay)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&mount, name, flags, Mode::empty())?;
    // The path may name another file now: the shim may have been upgraded.
    let (seen, own) = (fstat(&file)?, binary.metadata()?);
    let same = seen.st_ino == own.ino()
        && u64::try_from(seen.st_size) == Ok(own.len())
        && (seen.st_mtime, i64::try_from(seen.st_mtime_nsec))
            == (own.mtime(), Ok(own.mtime_nsec()));
    if !same {
        return Err(Errno::STALE.into());
    }
    Ok(Protected { file, _mount: Some(mount) })
}

fn sealed_copy(binary: &Path) -> io::Result<OwnedFd> {
    let mut binary = File::open(binary)?;
    // Hosts whose default is not executable need MFD_EXEC; kernels before 6.3 do not know it.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("shim", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("shim", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut binary, &mut copy)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // The last one forbids further seals. Kernels before 6.3 do not know the first.
    rustix::fs::fcntl_add_seals(&copy, seals | SEAL_EXEC | SealFlags::SEAL)
        .or_else(|_| rustix::fs::fcntl_add_seals(&copy, seals | SealFlags::SEAL))?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys;

    /// A binary that no process runs, so that ETXTBSY does not protect it and only the image's own
    /// protection is tried.
    fn idle_binary() -> tempfile::TempDir {
        let folder = tempfile::Builder::new().prefix("shim:image,").tempdir().unwrap();
        std::fs::write(folder.path().join("binary"), "the host's").unwrap();
        folder
    }

    fn write_to(fd: impl AsFd) -> io::Error {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        File::options().write(true).open(path).unwrap_err()
    }

    #[test]
    fn the_image_cannot_be_written_even_after_its_mount_was_made_writable() {
        // A container cleared the read-only mark of the mount from a user namespace of its own, and
        // wrote to the host's binary once the shim did not run any more.
        let folder = idle_binary();
        let binary = folder.path().join("binary");
        let image = overlaid(&binary).unwrap();
        assert_eq!(write_to(&image.file).kind(), io::ErrorKind::ReadOnlyFilesystem);
        sys::mount::make_mount_writable(image._mount.as_ref().unwrap()).unwrap();
        assert_eq!(write_to(&image.file).kind(), io::ErrorKind::ReadOnlyFilesystem);
        let text = std::fs::read(format!("/proc/self/fd/{}", image.file.as_raw_fd())).unwrap();
        assert_eq!(text, b"the host's");
        File::options().write(true).open(&binary).unwrap();
    }

    #[test]
    fn the_image_of_this_program_is_an_overlay() {
        let image = protected(Path::new(OWN_BINARY)).unwrap();
        assert!(image._mount.is_some());
    }

    #[test]
    fn a_binary_that_was_replaced_is_copied() {
        let folder = idle_binary();
        let binary = folder.path().join("binary");
        let held = File::open(&binary).unwrap();
        std::fs::remove_file(&binary).unwrap();
        std::fs::write(&binary, "another").unwrap();
        let old = format!("/proc/self/fd/{}", held.as_raw_fd());
        let image = protected(Path::new(&old)).unwrap();
        assert!(image._mount.is_none());
        let text = std::fs::read(format!("/proc/self/fd/{}", image.file.as_raw_fd())).unwrap();
        assert_eq!(text, b"the host's");
    }

    #[test]
    fn the_copied_image_cannot_be_written_or_changed() {
        let image = sealed_copy(Path::new(OWN_BINARY)).unwrap();
        assert_eq!(rustix::io::write(&image, b"x").unwrap_err(), Errno::PERM);
        assert_eq!(rustix::fs::ftruncate(&image, 0).unwrap_err(), Errno::PERM);
        let more = rustix::fs::fcntl_add_seals(&image, SealFlags::WRITE).unwrap_err();
        assert_eq!(more, Errno::PERM);
        let again = format!("/proc/self/fd/{}", image.as_raw_fd());
        let again = File::options().write(true).open(again).unwrap();
        assert_eq!(rustix::io::write(&again, b"x").unwrap_err(), Errno::PERM);
    }
}
