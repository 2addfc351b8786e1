//! The directories that a daemon serves: made, locked, and given their modes at each start.
//!
//! Promise: modes do not depend on a umask, and a changed mode is set again. Only root can enter the
//! root directory. The state directory has mode 0711: a container in a user namespace
//! passes through it to its bundle, and cannot read it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Mode;
use super::lock::{self, Attempt, Lock};
use crate::config::{DaemonConfig, FIFO_DIRECTORY};
use crate::error::DaemonError;

/// How long a daemon that was started on demand waits for one that is on its way out.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long any daemon waits for one that is being killed: the kernel takes a moment to let go.
const DYING: Duration = Duration::from_millis(500);

/// The mode of the root directory.
const ROOT_MODE: u32 = 0o700;
/// The mode of the state directory, and of what leads to bundles in it.
const STATE_MODE: u32 = 0o711;

/// Files and directories that a daemon makes in a root directory, with their modes.
const IN_ROOT: [(&str, u32); 7] = [
    ("lock", 0o600),
    ("uuid", 0o600),
    ("metadata.db", 0o600),
    ("metadata.db-wal", 0o600),
    ("metadata.db-shm", 0o600),
    ("content", 0o700),
    ("snapshots", 0o700),
];
/// The same for a state directory.
const IN_STATE: [(&str, u32); 5] = [
    ("start.lock", 0o600),
    ("supervisor.log", 0o600),
    ("mount-namespace", 0o600),
    (FIFO_DIRECTORY, 0o700),
    ("tasks", STATE_MODE),
];

/// What came of claiming a root.
pub(super) enum RootLock {
    /// It is ours as long as the lock is kept.
    Ours(Lock),
    /// Another daemon answers on the same address; a client that wanted one has it.
    Answered,
}

/// Makes the directories and takes the root's lock.
pub(super) fn lock_root(config: &DaemonConfig, mode: Mode) -> Result<RootLock, DaemonError> {
    mend_modes(config)?;
    if let Some(parent) = config.address.parent() {
        // It may be a directory of the system, whose mode is none of ours.
        make(parent, STATE_MODE)?;
    }
    let path = config.root.join("lock");
    let deadline = Instant::now() + if mode == Mode::OnDemand { HANDOVER } else { DYING };
    loop {
        let attempt = lock::attempt(&path).map_err(|cause| DaemonError::File {
            what: "lock",
            path: path.clone(),
            cause,
        })?;
        match attempt {
            Attempt::Locked(lock) => return Ok(RootLock::Ours(lock)),
            Attempt::Held(_) if Instant::now() < deadline => {
                let answers = || std::os::unix::net::UnixStream::connect(&config.address).is_ok();
                if mode == Mode::OnDemand && answers() {
                    return Ok(RootLock::Answered);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Attempt::Held(pid) => {
                return Err(DaemonError::Held { root: config.root.clone(), pid });
            }
        }
    }
}

/// Makes both directories, and mends the modes of what is in them.
pub(super) fn mend_modes(config: &DaemonConfig) -> Result<(), DaemonError> {
    own(&config.root, ROOT_MODE, &IN_ROOT, config)?;
    prepare_state(config)
}

/// Makes the state directory, as far as a client needs it too.
pub(super) fn prepare_state(config: &DaemonConfig) -> Result<(), DaemonError> {
    own(&config.state, STATE_MODE, &IN_STATE, config)
}

/// Makes a directory that is the supervisor's own, and mends its mode and those of what is in it.
///
/// A directory with other things in it is refused: its mode belongs to other software.
fn own(
    path: &Path,
    mode: u32,
    within: &[(&str, u32)],
    config: &DaemonConfig,
) -> Result<(), DaemonError> {
    let failed = |what| {
        let path = path.to_owned();
        move |cause| DaemonError::File { what, path, cause }
    };
    make(path, mode)?;
    let is_known = within.iter().any(|(name, _)| path.join(name).symlink_metadata().is_ok());
    if !is_known {
        for entry in fs::read_dir(path).map_err(failed("read directory"))? {
            let name = entry.map_err(failed("read directory"))?.file_name();
            // The state directory may be inside the root directory, and a service manager makes the
            // socket before the daemon starts.
            let ours = [&config.root, &config.state, &config.address, &config.opt];
            let is_ours = ours.iter().any(|other| other.starts_with(path.join(&name)));
            // mkfs makes `lost+found`.
            if name != "lost+found" && !is_ours {
                return Err(DaemonError::Foreign { path: path.to_owned(), other: name });
            }
        }
    }
    set_mode(path, mode).map_err(failed("set the mode of"))?;
    for (name, mode) in within {
        let path = path.join(name);
        match set_mode(&path, *mode) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Only root can enter the directory itself. A failure below it is logged; the start goes on.
            Err(error) => log::warn!("set the mode of {}: {error}", path.display()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Gives a file or directory, not what a link leads to, the mode that it is to have.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o7777 != mode {
        permissions.set_mode(mode);
        file.set_permissions(permissions)?;
    }
    Ok(())
}

/// Makes a directory and those above it.
fn make(path: &Path, mode: u32) -> Result<(), DaemonError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|cause| DaemonError::File {
        what: "make directory",
        path: path.to_owned(),
        cause,
    })
}

/// Refuses a root whose containers' mounts are in another mount namespace; records this one.
///
/// A root without containers may move: nothing of it is mounted anywhere.
pub(super) fn check_mount_namespace(config: &DaemonConfig) -> Result<(), DaemonError> {
    let read = |path: &str| -> io::Result<String> {
        if path.starts_with("/proc/self/ns") {
            return Ok(fs::read_link(path)?.to_string_lossy().into_owned());
        }
        Ok(fs::read_to_string(path)?.trim().to_owned())
    };
    let here = read("/proc/self/ns/mnt")
        .and_then(|namespace| {
            Ok(format!("{namespace} {}", read("/proc/sys/kernel/random/boot_id")?))
        })
        .map_err(|cause| DaemonError::System { what: "identify the mount namespace", cause })?;
    let path = config.state.join("mount-namespace");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let same_boot = before.split(' ').next_back() == here.split(' ').next_back();
    if same_boot && before != here && crate::task::any_bundle(&config.state) {
        return Err(DaemonError::OtherMountNamespace { root: config.root.clone() });
    }
    if before != here {
        fs::write(&path, here).map_err(|cause| DaemonError::File { what: "write", path, cause })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose state directory is in its root directory.
    fn config(place: &Path) -> DaemonConfig {
        let flags = crate::config::Flags {
            root: Some(place.join("a/root")),
            state: Some(place.join("a/root/state")),
            config: Some("/dev/null".into()),
            ..Default::default()
        };
        DaemonConfig::resolve(&flags).unwrap()
    }

    #[test]
    fn a_root_directory_may_have_the_state_directory_and_the_socket_in_it() {
        let place = tempfile::tempdir().unwrap();
        let config = config(place.path());
        fs::create_dir_all(&config.state).unwrap();
        // As a service manager makes it, before the daemon is there.
        fs::write(&config.address, "").unwrap();
        mend_modes(&config).unwrap();
        assert_eq!((mode(&config.root), mode(&config.state)), (0o700, 0o711));
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn modes_are_mended_at_each_start() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("a/root");
        own(&root, ROOT_MODE, &IN_ROOT, &config(place.path())).unwrap();
        assert_eq!(mode(&root), 0o700);
        fs::create_dir(root.join("content")).unwrap();
        fs::write(root.join("metadata.db"), "").unwrap();
        fs::write(root.join("of other software"), "").unwrap();
        for name in ["", "content", "metadata.db", "of other software"] {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        // A link in the place of a file is not followed.
        let elsewhere = place.path().join("elsewhere");
        fs::write(&elsewhere, "").unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("uuid")).unwrap();
        own(&root, ROOT_MODE, &IN_ROOT, &config(place.path())).unwrap();
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("content")), 0o700);
        assert_eq!(mode(&root.join("metadata.db")), 0o600);
        assert_eq!(mode(&root.join("of other software")), 0o777);
        assert_eq!(mode(&elsewhere), 0o644);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir(place.path().join("lost+found")).unwrap();
        own(place.path(), ROOT_MODE, &IN_ROOT, &config(place.path())).unwrap();
        assert_eq!(mode(place.path()), 0o700, "a file system of its own is taken");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(place.path().join("x"), "").unwrap();
        let refused = own(place.path(), ROOT_MODE, &IN_ROOT, &config(place.path())).unwrap_err();
        assert!(matches!(refused, DaemonError::Foreign { .. }), "{refused}");
        assert_eq!(mode(place.path()), 0o1777);
    }
}
