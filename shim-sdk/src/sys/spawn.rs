//! Spawns a program without a copy of the shim's memory.
//!
//! Promise:
//! - The program has exactly the given descriptors, as 0, 1, 2, and so on.
//! - Every signal has its default action, and none is blocked.
//! - It is killed when the thread that spawned it ends, unless it is to survive.
//! - It has its own session. With autogroups, the kernel schedules sessions as units, so a busy
//!   program does not take the shim's share.
//! - If the program cannot be executed, this call returns the error; it is not an exit status.
//!
//! It uses clone(2) with `CLONE_VM | CLONE_VFORK`, as posix_spawn(3) does. `std::process::Command`
//! does that only without a death signal, and returns no pidfd. The pidfd must come from clone(2),
//! because a pid can be reused.
//!
//! See clone(2), execve(2), prctl(2) PR_SET_PDEATHSIG, sched(7) on autogroups.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::{c_char, c_int, c_void};

/// A program to spawn.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// The paths of the executable; they are tried in order.
    pub(crate) paths: Vec<CString>,
    /// The arguments, beginning with `argv[0]`.
    pub(crate) args: Vec<CString>,
    /// The whole environment.
    pub(crate) env: Vec<CString>,
    /// The working directory; the shim's own if `None`.
    pub(crate) directory: Option<CString>,
    /// Its descriptors 0, 1, 2, and so on. Others are inherited only if they are not
    /// close-on-exec.
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// Its niceness; the calling thread's if `None`.
    pub(crate) nice: Option<c_int>,
    /// Whether it survives the calling thread.
    pub(crate) survives: bool,
}

/// A running child of the shim.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its pid.
    pub(crate) pid: u32,
    /// Its pidfd, which is readable after its exit.
    pub(crate) pidfd: OwnedFd,
}

/// The stack of a child between clone and exec. It can be reused.
#[derive(Debug)]
pub(crate) struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    /// Enough for the few calls of the child.
    const BYTES: usize = 16 << 10;

    pub(crate) fn new() -> Self {
        Self(Box::new_uninit_slice(Self::BYTES / size_of::<u128>()))
    }
}

/// The data that the child reads between clone and exec. It is prepared, because the child must not
/// allocate.
struct Prepared {
    paths: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    directory: Option<*const c_char>,
    fds: Vec<RawFd>,
    nice: Option<c_int>,
    survives: bool,
    /// The shim's pid.
    parent: libc::pid_t,
    /// The errno that the child reports if exec fails.
    errno: c_int,
}

/// Spawns a program.
///
/// Returns when the program runs, or with the error of execve(2).
pub(crate) fn spawn(start: &Start<'_>, stack: &mut Stack) -> io::Result<Started> {
    // First the sources are moved above all targets, so that no dup2 overwrites a later source.
    let first_free = RawFd::try_from(start.fds.len()).map_err(io::Error::other)?;
    let mut moved = Vec::new();
    let mut fds = Vec::with_capacity(start.fds.len());
    for fd in start.fds {
        if fd.as_raw_fd() < first_free {
            let copy = rustix::io::fcntl_dupfd_cloexec(fd, first_free)?;
            fds.push(copy.as_raw_fd());
            moved.push(copy);
        } else {
            fds.push(fd.as_raw_fd());
        }
    }
    let mut prepared = Prepared {
        paths: pointers(&start.paths),
        argv: pointers(&start.args),
        envp: pointers(&start.env),
        directory: start.directory.as_deref().map(CStr::as_ptr),
        fds,
        nice: start.nice,
        survives: start.survives,
        // SAFETY: getpid has no preconditions.
        parent: unsafe { libc::getpid() },
        errno: 0,
    };
    let child = clone_and_exec(&mut prepared, stack);
    drop(moved);
    let child = child?;
    if prepared.errno != 0 {
        let cause = io::Error::from_raw_os_error(prepared.errno);
        // The child is in _exit, and may not have ended yet. No other code knows its pid.
        reap(&child);
        return Err(cause);
    }
    Ok(child)
}

/// Clones the child. It shares this memory, and this thread waits until it has called execve or
/// _exit.
fn clone_and_exec(prepared: &mut Prepared, stack: &mut Stack) -> io::Result<Started> {
    let mut pidfd: c_int = -1;
    // SAFETY: both sets are initialised by the calls that get them. All signals stay blocked while
    // the child shares our memory, so no handler of ours runs in it.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        // SAFETY: the stack is borrowed, aligned to 16 and outlives the child's use of it, because
        // CLONE_VFORK holds this thread until the child execs or exits. The same keeps `prepared`
        // and what it points to alive and unaliased: we do not touch it while the child does.
        let pid = libc::clone(
            exec_in_child,
            stack.0.as_mut_ptr_range().end.cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            ptr::from_mut(prepared).cast::<c_void>(),
            &raw mut pidfd,
        );
        let failed = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 {
            return Err(failed);
        }
        pid
    };
    // SAFETY: clone succeeded with CLONE_PIDFD, so this is a new descriptor that no other code
    // owns; the kernel made it close-on-exec.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Started { pid: pid.cast_unsigned(), pidfd })
}

/// The kernel's highest signal.
const LAST_SIGNAL: c_int = 64;

/// Sets a signal to its default action or to be ignored: rt_sigaction(2), async-signal-safe.
fn set_action(signal: c_int, ignored: bool) {
    // The kernel's sigaction is not larger on any platform: SIG_DFL or SIG_IGN, no flags, no mask.
    let action = [usize::from(ignored), 0, 0, 0];
    let nothing: *mut c_void = ptr::null_mut();
    // SAFETY: the kernel reads `action`, whose handler is no function, and writes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), nothing, 8usize) };
}

/// Runs in the child. It must not allocate or lock: it shares the memory of the parent, whose
/// other threads run.
extern "C" fn exec_in_child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Prepared` that clone_and_exec keeps alive and leaves alone.
    let prepared = unsafe { &mut *argument.cast::<Prepared>() };
    // SAFETY: every call below is async-signal-safe and gets pointers that live in `prepared`.
    // Signal dispositions and descriptors are the child's own (no CLONE_SIGHAND, no CLONE_FILES).
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            // The system call: libc's function refuses its internal signals (32, 33), which
            // posix_spawn(3) leaves ignored. It fails for SIGKILL and SIGSTOP, which cannot be
            // changed.
            set_action(signal, false);
        }
        // The block ends only if a call fails.
        (|| {
            if !prepared.survives {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return;
                }
                // If the parent died before the prctl, the signal never comes.
                if libc::getppid() != prepared.parent {
                    libc::_exit(127);
                }
            }
            // setsid(2) fails only for the leader of a process group; a new process is none.
            libc::setsid();
            if let Some(nice) = prepared.nice {
                // Raising the niceness needs no privilege.
                libc::setpriority(libc::PRIO_PROCESS, 0, nice);
            }
            for (target, source) in (0..).zip(&prepared.fds) {
                if libc::dup2(*source, target) < 0 {
                    return;
                }
            }
            if let Some(directory) = prepared.directory
                && libc::chdir(directory) != 0
            {
                return;
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            // The handlers are reset, so a pending signal has its default action here.
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            // Like execvp(3): EACCES is reported only if no later path can be executed. The null
            // pointer ends the list.
            let mut denied = false;
            for path in prepared.paths.split_last().map_or(&[][..], |(_, paths)| paths) {
                libc::execve(*path, prepared.argv.as_ptr(), prepared.envp.as_ptr());
                match *libc::__errno_location() {
                    libc::EACCES => denied = true,
                    libc::ENOENT | libc::ENOTDIR => {}
                    _ => return,
                }
            }
            if denied {
                *libc::__errno_location() = libc::EACCES;
            }
        })();
        prepared.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Waits for a child that has exited or is in _exit. Returns its exit code, or 128 plus the signal
/// that killed it; `None` if it was reaped already.
fn reap(child: &Started) -> Option<i32> {
    // SAFETY: siginfo_t is plain data, for which zero is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is writable, and the pidfd is open for as long as it is borrowed.
        let done = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                child.pidfd.as_raw_fd().cast_unsigned(),
                &raw mut info,
                libc::WEXITED,
            )
        };
        if done == 0 {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
    // SAFETY: waitid filled in the fields of a child's exit.
    let status = unsafe { info.si_status() };
    if info.si_code == libc::CLD_EXITED { Some(status) } else { Some(128 + status) }
}

/// Text as a C string.
pub(crate) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(io::Error::from)
}

/// The null-terminated array for execve. It points into `strings`.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| CStr::as_ptr(s)).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;

    fn run(args: &[&str], directory: Option<&Path>) -> (Option<i32>, String) {
        let null = File::open("/dev/null").unwrap();
        let mut out = tempfile::tempfile().unwrap();
        let start = Start {
            paths: vec![c"/no/such/sh".into(), c"/bin/sh".into()],
            args: args.iter().map(|arg| c_string(arg).unwrap()).collect(),
            env: vec![c"WHO=me".into()],
            directory: directory.map(|path| c_string(path).unwrap()),
            fds: &[null.as_fd(), out.as_fd(), out.as_fd()],
            nice: None,
            survives: false,
        };
        let child = spawn(&start, &mut Stack::new()).unwrap();
        let mut poll = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        let status = reap(&child);
        let mut text = String::new();
        out.rewind().unwrap();
        out.read_to_string(&mut text).unwrap();
        (status, text)
    }

    #[test]
    fn a_program_gets_its_arguments_environment_directory_and_descriptors() {
        let (status, text) = run(
            &["sh", "-c", "echo $1 $WHO; pwd; echo err >&2; exit 7", "-", "hi"],
            Some(Path::new("/")),
        );
        assert_eq!((status, text.as_str()), (Some(7), "hi me\n/\nerr\n"));
    }

    #[test]
    fn a_killed_program_reports_128_plus_the_signal() {
        assert_eq!(run(&["sh", "-c", "kill -9 $$"], None).0, Some(137));
    }

    #[test]
    fn broken_pipes_kill_the_program_as_usual() {
        // The shim ignores SIGPIPE. A runtime that inherited that would not stop writing.
        assert_eq!(run(&["sh", "-c", "kill -PIPE $$; exit 3"], None).0, Some(141));
    }

    #[test]
    fn no_signal_is_ignored_not_even_those_that_libc_keeps_to_itself() {
        // As posix_spawn(3) leaves them for the shim.
        for signal in [32, 33] {
            set_action(signal, true);
        }
        let (status, text) = run(&["sh", "-c", "exec grep SigIgn /proc/self/status"], None);
        assert_eq!((status, text.as_str()), (Some(0), "SigIgn:\t0000000000000000\n"));
    }

    #[test]
    fn a_program_that_cannot_be_run_is_an_error_and_leaves_no_zombie() {
        let before = children();
        for (path, kind) in [
            (c"/no/such/runtime", io::ErrorKind::NotFound),
            (c"/etc/passwd", io::ErrorKind::PermissionDenied),
        ] {
            let start = Start {
                paths: vec![path.into(), c"/no/such/runtime".into()],
                args: vec![c"runtime".into()],
                env: Vec::new(),
                directory: None,
                fds: &[],
                nice: None,
                survives: false,
            };
            let cause = spawn(&start, &mut Stack::new()).unwrap_err();
            assert_eq!(cause.kind(), kind);
        }
        assert_eq!(children(), before);
    }

    /// The children of this thread, without those of other tests.
    fn children() -> String {
        std::fs::read_to_string("/proc/thread-self/children").unwrap()
    }
}
