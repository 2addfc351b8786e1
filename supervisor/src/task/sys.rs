//! Starting a child without copying this process, and waiting for it without blocking.
//!
//! The standard library forks where it is linked statically; a fork of a daemon with much memory
//! takes longer than many a shim needs to start. posix_spawn(3) shares the memory until the
//! child executes. Waiting is by pidfd, so no other child of this process is touched.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is to be run.
#[derive(Debug)]
pub(super) struct Command {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
}

/// A child with pipes on its standard streams. It is reaped by [`Child::reap`] alone; one that is
/// dropped before, since no caller waits for it any more, is killed.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: OwnedFd,
    is_reaped: bool,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(io::Error::from)
}

impl Command {
    /// A program in a directory, with nothing but these variables.
    pub(super) fn new(
        program: &Path,
        directory: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let variable = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).map_err(io::Error::from)
        };
        Ok(Self {
            program: c_string(program)?,
            arguments: vec![c_string(program)?],
            environment: environment.into_iter().map(variable).collect::<Result<_, _>>()?,
            directory: c_string(directory)?,
        })
    }

    /// Adds an argument.
    pub(super) fn argument(&mut self, argument: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        self.arguments.push(c_string(argument)?);
        Ok(self)
    }

    /// Starts it. Blocks until it has been executed, or could not be.
    pub(super) fn spawn(&self) -> io::Result<Child> {
        let (in_reader, in_writer) = io::pipe()?;
        let (out_reader, out_writer) = io::pipe()?;
        let (err_reader, err_writer) = io::pipe()?;
        let mut actions = Actions::new()?;
        actions.change_directory(&self.directory)?;
        actions.duplicate(in_reader.as_raw_fd(), 0)?;
        actions.duplicate(out_writer.as_raw_fd(), 1)?;
        actions.duplicate(err_writer.as_raw_fd(), 2)?;
        let attributes = Attributes::new()?;
        let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
            let texts = texts.iter().map(|text| text.as_ptr().cast_mut());
            texts.chain([ptr::null_mut()]).collect()
        };
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        let mut pid = 0;
        // SAFETY: every pointer is to a live value: strings end in NUL, arrays of them in null, and
        // they are only read. The child shares this memory until it executes and runs nothing but
        // the C library's own code until then.
        let result = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        check(result)?;
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn: no pid"))?;
        // The child cannot have been reaped by anybody else, so its pid is still its own.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Child {
            is_reaped: false,
            pidfd,
            stdin: Some(in_writer.into()),
            stdout: Some(out_reader.into()),
            stderr: Some(err_reader.into()),
        })
    }
}

impl Child {
    /// Ends when the child has exited; it remains to be reaped.
    pub(super) async fn exited(&self) -> io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: the descriptor is owned by what registers it, is closed only after it has been
        // deregistered, and no other descriptor has its number.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = pidfd.map_err(|error| io::Error::other(error.to_string()))?;
        let _readable = pidfd.readable().await?;
        Ok(())
    }

    /// Collects the exit status; blocks for as long as the child runs.
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.is_reaped = true;
        self.wait()
    }

    fn wait(&self) -> io::Result<ExitStatus> {
        use std::os::fd::AsFd as _;
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let status = status.ok_or_else(|| io::Error::other("waitid: no status"))?;
        let raw = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code << 8,
            (None, signal) => signal.unwrap_or_default(),
        };
        Ok(ExitStatus::from_raw(raw))
    }

    /// Kills and reaps; a child that is dead already only wants the latter.
    pub(super) fn end(self) {
        drop(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = self.wait();
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = std::mem::MaybeUninit::uninit();
        // SAFETY: the call initializes what it is given, and is looked at only if it has.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn change_directory(&mut self, path: &CString) -> io::Result<()> {
        // SAFETY: initialized in `new`; the path is copied.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, path.as_ptr()) })
    }

    fn duplicate(&mut self, from: libc::c_int, to: libc::c_int) -> io::Result<()> {
        // SAFETY: initialized in `new`; the descriptors are looked at in the child alone.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// No signal is blocked, and SIGPIPE, which this process ignores, has its default action.
    fn new() -> io::Result<Self> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the calls initialize what they are given; the sets are copied.
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Self(attributes.assume_init());
            let mut signals = std::mem::MaybeUninit::uninit();
            libc::sigemptyset(signals.as_mut_ptr());
            let mut signals = signals.assume_init();
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const signals))?;
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const signals))?;
            let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
            // The constants are small and the parameter is a short.
            let flags = flags as libc::c_short;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, and not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn run(script: &str) -> (String, ExitStatus) {
        let environment = [("WORD".into(), "hello".into())];
        let mut command = Command::new(Path::new("/bin/sh"), Path::new("/"), environment).unwrap();
        let mut child = command.argument("-c").unwrap().argument(script).unwrap().spawn().unwrap();
        let mut stdin = std::fs::File::from(child.stdin.take().unwrap());
        // A script that does not read it may have ended.
        let _ = stdin.write_all(b"input");
        drop(stdin);
        let mut output = String::new();
        std::fs::File::from(child.stdout.take().unwrap()).read_to_string(&mut output).unwrap();
        (output, child.reap().unwrap())
    }

    #[test]
    fn a_child_has_its_directory_its_variables_its_streams_and_nothing_else() {
        let (output, status) = run("cat; echo \" $WORD $PWD\"; ls /proc/self/fd | wc -l; exit 3");
        // ls itself has its three streams and the directory open; what the test was started with
        // it passes on.
        let passed_on = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}"));
            let closed = |info: &str| {
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                u32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC as u32 != 0
            };
            name.parse::<u32>().unwrap() > 2 && info.is_ok_and(|info| !closed(&info))
        });
        assert_eq!(output, format!("input hello /\n{}\n", 4 + passed_on.count()));
        assert_eq!(status.code(), Some(3));
        assert_eq!(run("kill -9 $$").1.signal(), Some(9));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_no_child() {
        let command = Command::new(Path::new("/nonexistent"), Path::new("/"), []).unwrap();
        assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_exit_is_seen_without_blocking() {
        let mut command = Command::new(Path::new("/bin/sh"), Path::new("/"), []).unwrap();
        let child = command.argument("-c").unwrap().argument("exit 0").unwrap().spawn().unwrap();
        child.exited().await.unwrap();
        assert!(child.reap().unwrap().success());
    }
}
