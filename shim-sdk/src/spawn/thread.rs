//! The thread that makes processes.
//!
//! A call that makes a process comes back only when the new program runs, which takes milliseconds
//! on a busy machine. The event loop has others to answer meanwhile, so the calls are made here, one
//! after the other. The thread lives as long as the shim, because the kernel ties the life of a child
//! to that of the thread which made it.
//!
//! Promise: a process whose making nobody waits for any more is killed.
//! Not here: which process it is and what becomes of it.
//! See prctl(2) PR_SET_PDEATHSIG, setpriority(2), sched(7) on autogroups.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

use super::program::{Executable, OutputMode, Program};
use crate::sys::{self, Stack, Start, Started, c_string};
use crate::{Error, Kind, Pid, ProcessHandle, Result, Signal};

/// A thread that opens two files and clones needs little.
const STACK_BYTES: usize = 64 << 10;

/// How much sooner than others the event loop gets a processor. It is busy for a fraction of a
/// millisecond at a time, with an answer that somebody waits for, where the runtimes whose processes
/// it would otherwise queue behind are busy for many.
const LEAD: i32 = 10;

/// The lowest niceness there is.
const LEAST_NICE: i32 = -20;

/// The niceness that the shim came with, and its children get.
static OWN_NICE: OnceLock<i32> = OnceLock::new();

/// The thread's end of work, and of life: never dropped.
static JOBS: OnceLock<mpsc::Sender<Box<SpawnJob>>> = OnceLock::new();

struct SpawnJob {
    program: Program,
    reply: oneshot::Sender<Result<Unclaimed>>,
}

/// A process that was made.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: ProcessHandle,
    /// What it writes, where that is captured.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A process that nobody has heard of yet; it does not outlive that.
struct Unclaimed(Option<Spawned>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(made) = self.0.take() {
            // It may have ended by itself.
            let _ = made.process.signal(Signal::KILL);
        }
    }
}

/// Starts the thread, and puts the calling one, which is the event loop's, before others: the threads
/// for what may block, which it makes from now on, have its niceness too. Without the privilege for
/// that everything stays as it is.
pub(crate) fn start() -> Result<()> {
    jobs()?;
    let hurried = sys::nice().and_then(|own| {
        // Stored before the change: there is no moment in which a child would keep it.
        let hurried = (OWN_NICE.get_or_init(|| own) - LEAD).max(LEAST_NICE);
        sys::set_nice(hurried)?;
        // A thread's niceness counts among those of its session alone, where the kernel has sessions
        // take turns: the session's own decides then. Children have sessions of their own.
        match std::fs::write("/proc/self/autogroup", hurried.to_string()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            Ok(()) | Err(_) => Ok(()),
        }
    });
    if let Err(cause) = hurried {
        log::debug!("a niceness {LEAD} lower: {cause}");
    }
    Ok(())
}

/// Makes a process.
///
/// # Cancel safety
///
/// The process is killed if this is dropped before it was told of.
pub(crate) async fn spawn(program: Program) -> Result<Spawned> {
    let name = program.name();
    let gone = || Error::new(Kind::Internal, format!("spawn {name}: no thread for it"));
    let (reply, made) = oneshot::channel();
    jobs()?.send(Box::new(SpawnJob { program, reply })).map_err(|_| gone())?;
    let mut made = made.await.map_err(|_| gone())??;
    made.0.take().ok_or_else(gone)
}

fn jobs() -> Result<&'static mpsc::Sender<Box<SpawnJob>>> {
    if let Some(jobs) = JOBS.get() {
        return Ok(jobs);
    }
    let (sender, jobs) = mpsc::channel::<Box<SpawnJob>>();
    let thread = thread::Builder::new().name("spawner".to_owned()).stack_size(STACK_BYTES);
    // Where two come here at once, the thread of the one that is too late ends with its channel.
    thread.spawn(move || work(&jobs)).map_err(|cause| Error::io("start the spawner", cause))?;
    Ok(JOBS.get_or_init(|| sender))
}

fn work(jobs: &mpsc::Receiver<Box<SpawnJob>>) {
    let mut stack = Stack::new();
    while let Ok(job) = jobs.recv() {
        let SpawnJob { program, reply } = *job;
        // Whoever asked may have gone meanwhile, or go before the answer is read.
        let _ = reply.send(spawn_blocking(program, &mut stack).map(|made| Unclaimed(Some(made))));
    }
}

/// Makes a process on the calling thread, which is held up until the program runs.
pub(crate) fn spawn_blocking(program: Program, stack: &mut Stack) -> Result<Spawned> {
    let name = program.name();
    spawn_now(program, stack).map_err(|cause| Error::io(format!("spawn {name}"), cause))
}

fn spawn_now(program: Program, stack: &mut Stack) -> io::Result<Spawned> {
    let env = program.whole_environment(std::env::vars_os());
    let Program {
        executable,
        arguments,
        directory,
        stdin,
        stdout,
        stderr,
        descriptors,
        survives,
        ..
    } = program;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    let stdin = stdin.map(OwnedFd::from).map_or_else(|| null.try_clone(), Ok)?;
    let (child_out, stdout) = open(stdout, &null)?;
    let (child_err, stderr) = open(stderr, &null)?;
    let mut fds = vec![stdin.as_fd(), child_out.as_fd(), child_err.as_fd()];
    fds.extend(descriptors.iter().map(AsFd::as_fd));
    let (name, paths, _file) = match executable {
        Executable::Named(name) => {
            let paths = candidates(&name, env.get(OsStr::new("PATH")))?;
            (name, paths, None)
        }
        Executable::At(path, name) => (name, vec![c_string(path)?], None),
        Executable::File(file, name) => {
            // Out of the way of those that the child gets.
            let lowest = RawFd::try_from(fds.len()).map_err(io::Error::other)?;
            let file = rustix::io::fcntl_dupfd_cloexec(file, lowest)?;
            (name, vec![c_string(format!("/proc/self/fd/{}", file.as_raw_fd()))?], Some(file))
        }
    };
    let variable = |(name, value): (OsString, OsString)| {
        c_string([name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))
    };
    let start = Start {
        paths,
        args: [name].into_iter().chain(arguments).map(c_string).collect::<io::Result<_>>()?,
        env: env.into_iter().map(variable).collect::<io::Result<_>>()?,
        directory: directory.map(c_string).transpose()?,
        fds: &fds,
        nice: OWN_NICE.get().copied(),
        survives,
    };
    let Started { pid, pidfd } = sys::spawn(&start, stack)?;
    let pid = Pid::new(pid).ok_or_else(|| io::Error::other("a process without a pid"))?;
    Ok(Spawned { process: ProcessHandle::made(pid, pidfd), stdout, stderr })
}

/// The child's end of an output, and ours.
fn open(output: OutputMode, null: &OwnedFd) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    match output {
        OutputMode::Null => Ok((null.try_clone()?, None)),
        OutputMode::Given(stream) => Ok((stream.into(), None)),
        OutputMode::Captured => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            Ok((write, Some(read)))
        }
    }
}

/// Where a program may be found, as execvp(3) has it.
fn candidates(name: &OsStr, path: Option<&OsString>) -> io::Result<Vec<CString>> {
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(name)?]);
    }
    let path = path.map_or(OsStr::new("/bin:/usr/bin"), OsString::as_os_str);
    std::env::split_paths(path).map(|directory| c_string(directory.join(name))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn a_process_that_nobody_waits_for_is_killed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let told = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 100", told.display());
        let mut making = Box::pin(spawn(Program::new("sh").args(["-c", &script])));
        // Asked for, and dropped before the answer is looked at.
        assert!(poll_once(making.as_mut()).is_pending());
        let begun = Instant::now();
        let pid = loop {
            let text = std::fs::read_to_string(&told).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not start");
            thread::sleep(Duration::from_millis(5));
        };
        let process = ProcessHandle::open(Pid::new(pid).expect("not 0")).expect("open");
        process.signal(Signal::PROBE).expect("it runs");
        drop(making);
        let pidfd = process.pidfd().expect("it runs");
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut ended, Some(&limit)), Ok(1));
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_name_is_searched_for_and_a_path_is_not() {
        let found = |name: &str, path: &str| {
            let found = candidates(OsStr::new(name), Some(&OsString::from(path)));
            found
                .expect("no nul")
                .iter()
                .map(|c| c.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("runc", "/a:/b"), ["/a/runc", "/b/runc"]);
        assert_eq!(found("./runc", "/a:/b"), ["./runc"]);
    }
}
