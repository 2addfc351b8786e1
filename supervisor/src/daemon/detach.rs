//! Makes a daemon's process its own.
//!
//! Promise: a daemon that was started on demand takes nothing from its first client: session, niceness,
//! scheduling policy, CPUs, I/O priority, limits, session keyring, OOM score, personality, umask,
//! signals, descriptors; its directory and environment are set when it is started
//! ([`super::autostart`]). Shims and containers inherit all of this, so a later client's container
//! would depend on who came first. A daemon that was started by hand or by a service manager keeps
//! what it was given there, since that is how a service is configured.
//! It stays in the control groups of its first client: where a process belongs there is decided by
//! the administrator or by systemd, and a daemon that moved itself out would evade a limit and take
//! itself from its accounting. Containers have groups of their own in any case.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode as FileMode, umask};

use super::{Mode, sys};

/// As many descriptors as containerd's unit asks for.
const DESCRIPTORS: u64 = 1 << 20;

/// The limits of a daemon on demand, soft and hard: the kernel's, but for those that containerd's
/// unit raises (NPROC, CORE).
const LIMITS: [(Resource, u64, u64); 14] = [
    (Resource::RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_DATA, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_STACK, 8 << 20, RLIM_INFINITY),
    (Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_RSS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (Resource::RLIMIT_AS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_LOCKS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_MSGQUEUE, 819_200, 819_200),
    (Resource::RLIMIT_NICE, 0, 0),
    (Resource::RLIMIT_RTPRIO, 0, 0),
    (Resource::RLIMIT_RTTIME, RLIM_INFINITY, RLIM_INFINITY),
];

/// Makes the process its own. Call before any thread is started: most of it is a thread's.
pub(super) fn detach(mode: Mode) {
    umask(FileMode::from_bits_truncate(0o022));
    sys::keep_descriptors_from_children();
    if mode == Mode::OnDemand {
        sys::reset_signals();
        if let Err(error) = SigSet::empty().thread_set_mask() {
            log::warn!("sigprocmask(SIG_SETMASK): {error}");
        }
        if let Err(error) = nix::unistd::setsid() {
            log::debug!("setsid(): {error}: already the leader of a session");
        }
        for (call, outcome) in sys::reset_scheduling() {
            // Not permitted in a container without the capability; all there are equal anyway.
            if let Err(error) = outcome {
                log::warn!("{call}: {error}: keeping what the first client has");
            }
        }
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "0") {
            log::warn!("write /proc/self/oom_score_adj: {error}");
        }
        for (resource, soft, hard) in LIMITS {
            limit(resource, soft, hard);
        }
        // The kernel's own choice for it is half of its threads.
        if let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/threads-max")
            && let Ok(threads) = text.trim().parse::<u64>()
        {
            limit(Resource::RLIMIT_SIGPENDING, threads / 2, threads / 2);
        }
    }
    limit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
}

/// Sets a limit. Without CAP_SYS_RESOURCE a hard limit that the first client has lowered cannot be
/// raised; the soft one is set as near as there is.
fn limit(resource: Resource, soft: u64, hard: u64) {
    let set = setrlimit(resource, soft, hard).or_else(|refused| {
        let (_, most) = getrlimit(resource)?;
        let lower = (soft.min(most), hard.min(most));
        setrlimit(resource, lower.0, lower.1)?;
        if lower.0 < soft && resource != Resource::RLIMIT_NOFILE {
            log::warn!("setrlimit({resource:?}, {soft}): {refused}: {} is left", lower.0);
        }
        Ok::<_, nix::Error>(())
    });
    if let Err(error) = set {
        log::warn!("setrlimit({resource:?}): {error}: keeping the limit as it is");
    }
}
