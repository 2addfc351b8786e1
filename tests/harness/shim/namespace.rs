//! A mount namespace for a process that starts shims: what a shim does not unmount goes with the process.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Enters a mount namespace of our own. To be called before there are threads: others would stay
/// in the old one.
///
/// # Errors
///
/// As unshare(2) and mount(2).
pub fn private() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // The host's mounts still arrive, ours do not leave.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(())
}

/// Hides the v2 hierarchy that hybrid hosts mount beside those of v1, since crun takes it for the
/// only one and then fails; whether there was one. Only in a namespace of our own.
///
/// # Errors
///
/// As mount(2).
pub fn hide_unified() -> io::Result<bool> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.join("cgroup.procs").exists() {
        return Ok(false);
    }
    umount2(unified, MntFlags::MNT_DETACH)?;
    // crun makes directories there all the same: not on the host's own tmpfs.
    mount(Some("none"), unified, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(true)
}

/// Unmounts what hides it, and what crun mounted there. The hierarchy does not come back.
///
/// # Errors
///
/// As umount2(2).
pub fn forget_unified() -> io::Result<()> {
    Ok(umount2(Path::new("/sys/fs/cgroup/unified"), MntFlags::MNT_DETACH)?)
}
