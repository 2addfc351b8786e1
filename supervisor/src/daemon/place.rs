//! The directories that a daemon serves, and what it makes of its own process before it does.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode as FileMode, umask};

use super::lock::{self, Attempt, Lock};
use super::{Mode, sys};
use crate::config::DaemonConfig;
use crate::error::DaemonError;

/// How long a daemon that was started on demand waits for one that is on its way out.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long any daemon waits for one that is being killed: the kernel takes a moment to let go.
const DYING: Duration = Duration::from_millis(500);

/// As many descriptors as containerd's unit asks for.
const DESCRIPTORS: u64 = 1 << 20;

/// What came of claiming a root.
pub(super) enum Claim {
    /// It is ours as long as the lock is kept.
    Ours(Lock),
    /// Another daemon answers on the same address; a client that wanted one has it.
    Answered,
}

/// Makes the directories and takes the root's lock.
pub(super) fn claim(config: &DaemonConfig, mode: Mode) -> Result<Claim, DaemonError> {
    directory(&config.root)?;
    directory(&config.state)?;
    if let Some(parent) = config.address.parent() {
        directory(parent)?;
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
            Attempt::Locked(lock) => return Ok(Claim::Ours(lock)),
            Attempt::Held(_) if Instant::now() < deadline => {
                let answers = || std::os::unix::net::UnixStream::connect(&config.address).is_ok();
                if mode == Mode::OnDemand && answers() {
                    return Ok(Claim::Answered);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Attempt::Held(pid) => {
                return Err(DaemonError::Held { root: config.root.clone(), pid });
            }
        }
    }
}

/// Searchable by all, so that a container's user may be let through; readable by root alone.
fn directory(path: &Path) -> Result<(), DaemonError> {
    DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(|cause| DaemonError::File {
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

/// Makes the process its own: what a client that starts a daemon has set must not reach containers.
pub(super) fn detach(mode: Mode) {
    umask(FileMode::from_bits_truncate(0o022));
    sys::keep_descriptors_from_children();
    if mode == Mode::OnDemand {
        sys::reset_signals();
        if let Err(error) = nix::unistd::setsid() {
            log::debug!("setsid(): {error}: already the leader of a session");
        }
    }
    let enough = |(soft, hard): (u64, u64)| (soft.max(hard.min(DESCRIPTORS)), hard);
    let raised = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).or_else(|_| {
        let (soft, hard) = enough(getrlimit(Resource::RLIMIT_NOFILE)?);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
    });
    if let Err(error) = raised {
        log::warn!("setrlimit(RLIMIT_NOFILE): {error}: keeping the limit as it is");
    }
}
