//! Starts a program the cheap way, with what a shim needs set before it runs.
//!
//! Promise: the program starts with exactly the descriptors given, on 0, 1, 2, and so on; every
//! signal has its default action and none is blocked; it dies with the shim when asked to; a
//! program that cannot be run is this call's error, not an exit status to be guessed at.
//!
//! clone(2) with `CLONE_VM | CLONE_VFORK` as posix_spawn(3) does it: nothing of the shim's memory is
//! copied. `std::process::Command` has that fast path only without a death signal, and
//! gives no pidfd, which must be had from the start because a pid alone can be reused.
//!
//! See clone(2), execve(2), prctl(2) PR_SET_PDEATHSIG.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::ptr;

use libc::{c_char, c_int, c_void};

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The executable; it is not searched for.
    pub(crate) path: &'a Path,
    /// The arguments, the program's own name first.
    pub(crate) args: &'a [OsString],
    /// The environment, whole.
    pub(crate) env: &'a [(OsString, OsString)],
    /// Where it starts; the shim's own directory if `None`.
    pub(crate) directory: Option<&'a Path>,
    /// What it finds on descriptors 0, 1, 2, and so on; nothing else is inherited unless it is not
    /// close-on-exec.
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// SIGKILL it when the shim's thread dies.
    pub(crate) dies_with_parent: bool,
}

/// A running child of the shim.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: i32,
    /// Readable once it has exited.
    pub(crate) pidfd: OwnedFd,
}

/// Everything the child reads between clone and exec, prepared so that it need not allocate.
struct Prepared {
    path: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    directory: Option<CString>,
    fds: Vec<RawFd>,
    /// The shim's pid if the child is to die with it.
    parent: Option<libc::pid_t>,
    /// What the child reports when it could not exec.
    errno: c_int,
}

/// Bytes of stack for the few calls between clone and exec.
const STACK_BYTES: usize = 64 * 1024;

/// Runs a program.
///
/// Returns once it is running, or with the reason why it could not.
pub(crate) fn spawn(program: &Program<'_>) -> io::Result<Child> {
    // Sources are moved above all targets first, so that no dup2 overwrites a later source.
    let first_free = RawFd::try_from(program.fds.len()).map_err(io::Error::other)?;
    let mut moved = Vec::new();
    let mut fds = Vec::with_capacity(program.fds.len());
    for fd in program.fds {
        if fd.as_raw_fd() < first_free {
            let copy = duplicate_from(*fd, first_free)?;
            fds.push(copy.as_raw_fd());
            moved.push(copy);
        } else {
            fds.push(fd.as_raw_fd());
        }
    }
    let args = program.args.iter().map(|arg| c_string(arg)).collect::<io::Result<Vec<_>>>()?;
    let env = program
        .env
        .iter()
        .map(|(name, value)| {
            let mut entry = name.clone().into_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            CString::new(entry).map_err(io::Error::from)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut prepared = Prepared {
        path: c_string(program.path.as_os_str())?,
        argv: pointers(&args),
        envp: pointers(&env),
        directory: program.directory.map(|path| c_string(path.as_os_str())).transpose()?,
        fds,
        // SAFETY: getpid has no preconditions.
        parent: program.dies_with_parent.then(|| unsafe { libc::getpid() }),
        errno: 0,
    };
    let child = clone_and_exec(&mut prepared);
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
fn clone_and_exec(prepared: &mut Prepared) -> io::Result<Child> {
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    // SAFETY: both sets are initialised by the calls that get them. All signals stay blocked while
    // the child shares our memory, so no handler of ours runs in it.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        // SAFETY: the stack is ours, aligned to 16 and outlives the child's use of it, because
        // CLONE_VFORK holds this thread until the child execs or exits. The same keeps `prepared`
        // alive and unaliased: we do not touch it while the child does.
        let pid = libc::clone(
            exec_in_child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
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
    Ok(Child { pid, pidfd })
}

/// The child's half. No allocation and no lock: it shares the parent's memory, whose thread waits.
extern "C" fn exec_in_child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Prepared` that clone_and_exec keeps alive and leaves alone.
    let prepared = unsafe { &mut *argument.cast::<Prepared>() };
    // SAFETY: every call below is async-signal-safe and gets pointers that live in `prepared`.
    // Signal dispositions and descriptors are the child's own (no CLONE_SIGHAND, no CLONE_FILES).
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=libc::SIGRTMAX() {
            // Fails for SIGKILL, SIGSTOP and those that libc keeps to itself; none can be changed.
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        // Runs to its end only if some call fails.
        (|| {
            if let Some(parent) = prepared.parent {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return;
                }
                // The parent may have died before the request: then no signal will ever come.
                if libc::getppid() != parent {
                    libc::_exit(127);
                }
            }
            for (target, source) in (0..).zip(&prepared.fds) {
                if libc::dup2(*source, target) < 0 {
                    return;
                }
            }
            if let Some(directory) = &prepared.directory
                && libc::chdir(directory.as_ptr()) != 0
            {
                return;
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            // The handlers are gone, so a signal that waited acts by its default here.
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::execve(prepared.path.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr());
        })();
        prepared.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Collects the status of a child that has exited or is just about to: its exit code, or 128 plus
/// the signal that killed it.
///
/// `None` when somebody else has collected it.
fn reap(child: &Child) -> Option<i32> {
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

fn duplicate_from(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, lowest)?)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::from)
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

    use super::*;

    fn run(args: &[&str], directory: Option<&Path>) -> (Option<i32>, String) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let null = File::open("/dev/null").unwrap();
        let mut out = tempfile::tempfile().unwrap();
        let child = spawn(&Program {
            path: Path::new("/bin/sh"),
            args: &args,
            env: &[("WHO".into(), "me".into())],
            directory,
            fds: &[null.as_fd(), out.as_fd(), out.as_fd()],
            dies_with_parent: true,
        })
        .unwrap();
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
    fn a_program_that_cannot_be_run_is_an_error_and_leaves_no_zombie() {
        let before = children();
        let cause = spawn(&Program {
            path: Path::new("/no/such/runtime"),
            args: &["runtime".into()],
            env: &[],
            directory: None,
            fds: &[],
            dies_with_parent: false,
        })
        .unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::NotFound);
        assert_eq!(children(), before);
    }

    /// Children of this very thread, so that tests beside this one do not count.
    fn children() -> String {
        std::fs::read_to_string("/proc/thread-self/children").unwrap()
    }
}
