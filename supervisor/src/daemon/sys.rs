//! The process-wide state that a daemon sets once, at its start, on its only thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

/// A Linux process without peculiarities. See personality(2).
const PER_LINUX: libc::c_ulong = 0;

/// The first descriptor of sd_listen_fds(3).
const LISTEN_FDS_START: i32 = 3;

/// The listening socket that the service manager passed, if this process was started by one.
///
/// Call once, before anything else opens descriptors.
pub(super) fn inherited_listener() -> io::Result<Option<UnixListener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let is_socket = std::fs::read_link("/proc/self/fd/3")
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            if !is_socket {
                return Err(io::Error::other("descriptor 3 of socket activation is no socket"));
            }
            // SAFETY: it is open, as was just seen; the service manager passes this descriptor to this process, LISTEN_PID says
            // so, and nothing else here takes it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(LISTEN_FDS_START) };
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
            let listening = rustix::net::sockopt::socket_acceptconn(&descriptor)?;
            if !listening {
                return Err(io::Error::other("descriptor 3 of socket activation does not listen"));
            }
            Ok(Some(UnixListener::from(descriptor)))
        }
        Some(more) => {
            Err(io::Error::other(format!("socket activation passed {more} sockets, one is wanted")))
        }
    }
}

/// Gives every signal its default action, whatever the client that started this daemon had ignored:
/// shims and containers would inherit it. SIGPIPE stays ignored, as Rust programs have it.
pub(super) fn reset_signals() {
    // The kernel's sigaction with SIG_DFL, no flags and an empty mask is all zeros on every machine.
    let default = [0_u64; 4];
    let null = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        if ![libc::SIGPIPE, libc::SIGKILL, libc::SIGSTOP].contains(&signal) {
            // SAFETY: the structure outlives the call, and no handler of ours is installed yet. By
            // the system call, since the C library refuses signals 32 and 33, which it keeps for
            // itself and does not use before there are threads.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, 8) };
        }
    }
}

/// Gives this thread what a process begins with: no niceness, the usual policy, every CPU, no I/O
/// priority of its own, a new session keyring, the usual personality and slack of timers. Returns
/// each call with its outcome.
pub(super) fn reset_scheduling() -> Vec<(&'static str, io::Result<()>)> {
    let outcome = |result: libc::c_long| match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // The kernel ignores the bits of CPUs that it does not have.
    let every = [u64::MAX; 128];
    let usual = libc::sched_param { sched_priority: 0 };
    let (whole_process, this) = (1, 0); // IOPRIO_WHO_PROCESS, and the caller
    let mut done = Vec::new();
    // SAFETY: the structures outlive the calls, which read them and change nothing but this
    // thread's attributes; a null name is how an anonymous keyring is asked for.
    unsafe {
        let set = libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const usual);
        done.push(("sched_setscheduler(SCHED_OTHER)", outcome(set.into())));
        let set = libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        done.push(("setpriority(0)", outcome(set.into())));
        let set = libc::sched_setaffinity(0, size_of_val(&every), every.as_ptr().cast());
        done.push(("sched_setaffinity(every CPU)", outcome(set.into())));
        let set = libc::syscall(libc::SYS_ioprio_set, whole_process, this, 0);
        done.push(("ioprio_set(none)", outcome(set)));
        let null = std::ptr::null::<libc::c_char>();
        let set = libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, null);
        done.push(("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", outcome(set)));
        let set = libc::personality(PER_LINUX);
        done.push(("personality(PER_LINUX)", outcome(set.into())));
        let set = libc::prctl(libc::PR_SET_TIMERSLACK, 50_000);
        done.push(("prctl(PR_SET_TIMERSLACK)", outcome(set.into())));
    }
    done
}

/// Marks every descriptor but the standard streams close-on-exec, those too that this process was
/// started with: a daemon, and the shims of a daemon, must not hold on to what is not theirs.
pub(super) fn keep_descriptors_from_children() {
    // SAFETY: no descriptor is closed; they only do not reach the next program.
    let result = unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    };
    if result != 0 {
        // Before Linux 5.11. What leaks then is what the caller had leaked to us.
        let error = io::Error::last_os_error();
        log::debug!("close_range(3, -, CLOSE_RANGE_CLOEXEC): {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Policy, niceness, first CPUs, I/O priority, session keyring, slack of timers of this thread.
    fn attributes() -> (i32, i32, u64, i64, i64, i32) {
        let mut cpus = [0_u64; 128];
        let (session, null) = (-3, std::ptr::null::<libc::c_char>());
        // SAFETY: the set outlives the call that fills it; the other calls only return numbers.
        unsafe {
            libc::sched_getaffinity(0, size_of_val(&cpus), cpus.as_mut_ptr().cast());
            (
                libc::sched_getscheduler(0),
                libc::getpriority(libc::PRIO_PROCESS, 0),
                cpus[0],
                libc::syscall(libc::SYS_ioprio_get, 1, 0),
                libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, session, null),
                libc::prctl(libc::PR_GET_TIMERSLACK),
            )
        }
    }

    /// Every container of every later client ran with the first one's niceness, on its CPUs.
    #[test]
    fn what_a_client_gave_to_its_thread_is_taken_back() {
        let thread = std::thread::spawn(|| {
            let (_, _, cpus, ..) = attributes();
            let first = cpus & cpus.wrapping_neg();
            let usual = libc::sched_param { sched_priority: 0 };
            let idle = 3 << 13; // IOPRIO_CLASS_IDLE
            // SAFETY: the structures outlive the calls, which change this thread alone.
            unsafe {
                libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const usual);
                libc::setpriority(libc::PRIO_PROCESS, 0, 7);
                libc::sched_setaffinity(0, size_of_val(&first), (&raw const first).cast());
                libc::syscall(libc::SYS_ioprio_set, 1, 0, idle);
                libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_000);
            }
            let before = attributes();
            assert_eq!(before.0, libc::SCHED_BATCH);
            assert_eq!((before.1, before.2, before.3, before.5), (7, first, idle, 1_000_000));
            for (call, outcome) in reset_scheduling() {
                outcome.unwrap_or_else(|error| panic!("{call}: {error}"));
            }
            let after = attributes();
            assert_eq!((after.0, after.1, after.2), (libc::SCHED_OTHER, 0, cpus));
            assert_eq!(after.3 >> 13, 0, "no class of its own");
            assert!(after.4 > 0 && after.4 != before.4, "a session keyring of its own");
            assert_eq!(after.5, 50_000);
        });
        thread.join().unwrap();
    }
}
