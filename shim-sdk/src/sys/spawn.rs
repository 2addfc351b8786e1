//! Starts a program the cheap way, with what a shim needs set before it runs.
//!
//! Promise: the program starts with exactly the descriptors given, on 0, 1, 2, and so on; every
//! signal has its default action and none is blocked; it dies with the thread that started it,
//! unless it is to survive that; it has a session of its own, which to a kernel with autogroups
//! says that it and the shim are two things that want their turns on a processor; a program that
//! cannot be run is this call's error, not an exit status to be guessed at.
//!
//! clone(2) with `CLONE_VM | CLONE_VFORK` as posix_spawn(3) does it: nothing of the shim's memory
//! is copied. `std::process::Command` has that fast path only without a death signal, and
//! gives no pidfd, which must be had from the start because a pid alone can be reused.
//!
//! See clone(2), execve(2), prctl(2) PR_SET_PDEATHSIG, sched(7) on autogroups.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::{c_char, c_int, c_void};

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// The executable's path, or those to be tried in turn.
    pub(crate) paths: Vec<CString>,
    /// The arguments, the program's own name first.
    pub(crate) args: Vec<CString>,
    /// The environment, whole.
    pub(crate) env: Vec<CString>,
    /// Where it starts; the shim's own directory if `None`.
    pub(crate) directory: Option<CString>,
    /// What it finds on descriptors 0, 1, 2, and so on; nothing else is inherited unless it is not
    /// close-on-exec.
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// Its niceness; the calling thread's if `None`.
    pub(crate) nice: Option<c_int>,
    /// Whether it goes on when the calling thread ends.
    pub(crate) survives: bool,
}

/// A running child of the shim.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its process id.
    pub(crate) pid: u32,
    /// Readable once it has exited.
    pub(crate) pidfd: OwnedFd,
}

/// What a child stands on between clone and exec; can be used again.
#[derive(Debug)]
pub(crate) struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    /// A few calls need little.
    const BYTES: usize = 16 << 10;

    pub(crate) fn new() -> Self {
        Self(Box::new_uninit_slice(Self::BYTES / size_of::<u128>()))
    }
}

/// Everything the child reads between clone and exec, prepared so that it need not allocate.
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
    /// What the child reports when it could not exec.
    errno: c_int,
}

/// Runs a program.
///
/// Returns once it is running, or with the reason why it could not.
pub(crate) fn spawn(start: &Start<'_>, stack: &mut Stack) -> io::Result<Started> {
    // Sources are moved above all targets first, so that no dup2 overwrites a later source.
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
        // The child is in _exit, though perhaps not yet through it; nobody else knows its pid.
        reap(&child);
        return Err(cause);
    }
    Ok(child)
}

/// Clones the child, which shares this memory and stops this thread until it has exec'd or exited.
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
    // SAFETY: clone succeeded with CLONE_PIDFD, so this is a new descriptor that nobody else owns;
    // the kernel made it close-on-exec.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Started { pid: pid.cast_unsigned(), pidfd })
}

/// The kernel's highest signal.
const LAST_SIGNAL: c_int = 64;

/// Gives a signal its default action, or has it ignored: rt_sigaction(2), async-signal-safe.
fn set_action(signal: c_int, ignored: bool) {
    // As the kernel has it, which on no platform is larger: SIG_DFL or SIG_IGN, no flags, no mask.
    let action = [usize::from(ignored), 0, 0, 0];
    let nothing: *mut c_void = ptr::null_mut();
    // SAFETY: the kernel reads `action`, whose handler is no function, and writes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), nothing, 8usize) };
}

/// The child's half. No allocation and no lock: it shares the parent's memory, whose thread waits.
extern "C" fn exec_in_child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Prepared` that clone_and_exec keeps alive and leaves alone.
    let prepared = unsafe { &mut *argument.cast::<Prepared>() };
    // SAFETY: every call below is async-signal-safe and gets pointers that live in `prepared`.
    // Signal dispositions and descriptors are the child's own (no CLONE_SIGHAND, no CLONE_FILES).
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            // The call itself: libc's function refuses those that it keeps to itself (32, 33),
            // which posix_spawn(3) leaves ignored. Fails for SIGKILL and SIGSTOP, which cannot be
            // changed.
            set_action(signal, false);
        }
        // Runs to its end only if some call fails.
        (|| {
            if !prepared.survives {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return;
                }
                // The parent may have died before the request: then no signal will ever come.
                if libc::getppid() != prepared.parent {
                    libc::_exit(127);
                }
            }
            // Fails for the leader of a process group, which a new process is not.
            libc::setsid();
            if let Some(nice) = prepared.nice {
                // Giving way needs no privilege.
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
            // The handlers are gone, so a signal that waited acts by its default here.
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            // As execvp(3) searches: a file that may not be executed is told of only where no other
            // can be, and the pointer that ends the list is not a path.
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

/// Collects the status of a child that has exited or is just about to: its exit code, or 128 plus
/// the signal that killed it.
///
/// `None` when somebody else has collected it.
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

/// Text as the kernel takes it.
pub(crate) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(io::Error::from)
}

/// The null-terminated array that execve takes; it points into `strings`.
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
        // The shim ignores SIGPIPE; a runtime that inherited that would write on for ever.
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

    /// Children of this very thread, so that tests beside this one do not count.
    fn children() -> String {
        std::fs::read_to_string("/proc/thread-self/children").unwrap()
    }
}
