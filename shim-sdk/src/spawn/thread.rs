//! The thread that spawns processes.
//!
//! A call that spawns a process returns only when the new program runs, which takes milliseconds on
//! a busy machine. The event loop must answer other requests meanwhile, so this thread makes the
//! calls, one after the other. It lives as long as the shim, because PR_SET_PDEATHSIG kills a child
//! when the thread that spawned it ends.
//!
//! Promise: if the caller is dropped before it gets the process, the process is killed.
//! Not here: what the process is for.
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

/// The stack of a thread that only opens files and calls clone(2).
const STACK_BYTES: usize = 64 << 10;

/// By how much the niceness of the event loop is lowered. The event loop is busy for a fraction of
/// a millisecond at a time, and a client waits for it. Runtimes are busy for many milliseconds, and
/// the event loop would wait for a processor behind them.
const LEAD: i32 = 10;

/// The lowest niceness.
const LEAST_NICE: i32 = -20;

/// The niceness that the shim was started with. Its children get it.
static OWN_NICE: OnceLock<i32> = OnceLock::new();

/// The channel to the thread. It is never dropped, so the thread never ends.
static JOBS: OnceLock<mpsc::Sender<Box<SpawnJob>>> = OnceLock::new();

struct SpawnJob {
    program: Program,
    reply: oneshot::Sender<Result<Unclaimed>>,
}

/// A process that was spawned.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: ProcessHandle,
    /// The pipe of its standard output, if that is captured.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A process whose pid no caller has yet. It is killed when this is dropped.
struct Unclaimed(Option<Spawned>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(made) = self.0.take() {
            // It may have ended by itself.
            let _ = made.process.signal(Signal::KILL);
        }
    }
}

/// Starts the thread, and lowers the niceness of the calling thread, which is the event loop's.
/// Threads for blocking calls that it starts later inherit that. Without the privilege the niceness
/// stays.
pub(crate) fn start() -> Result<()> {
    jobs()?;
    let hurried = sys::nice().and_then(|own| {
        // Stored before the change, so that no child is spawned with the lower niceness.
        let hurried = (OWN_NICE.get_or_init(|| own) - LEAD).max(LEAST_NICE);
        sys::set_nice(hurried)?;
        // With autogroups, a thread's niceness counts only within its session; between sessions
        // that of the session counts. Children have their own sessions.
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

/// Spawns a process.
///
/// # Cancel safety
///
/// If this is dropped before it returns, the process is killed.
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
    // If two callers come here at once, the thread of the second one ends, because its channel is
    // dropped.
    thread.spawn(move || work(&jobs)).map_err(|cause| Error::io("start the spawner", cause))?;
    Ok(JOBS.get_or_init(|| sender))
}

fn work(jobs: &mpsc::Receiver<Box<SpawnJob>>) {
    let mut stack = Stack::new();
    while let Ok(job) = jobs.recv() {
        let SpawnJob { program, reply } = *job;
        // The caller may have been dropped. Then the send fails, and dropping `Unclaimed` kills the
        // process.
        let _ = reply.send(spawn_blocking(program, &mut stack).map(|made| Unclaimed(Some(made))));
    }
}

/// Spawns a process on the calling thread. It blocks until the program runs.
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
            // Above the numbers of the descriptors that the child gets.
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

/// The child's end of an output, and the shim's end if it is captured.
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

/// The paths at which a program may be, as execvp(3) searches them.
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
    async fn a_process_whose_caller_is_dropped_is_killed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let told = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 100", told.display());
        let mut making = Box::pin(spawn(Program::new("sh").args(["-c", &script])));
        // The process is requested; the future is dropped before it returns.
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
