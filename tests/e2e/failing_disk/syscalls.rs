//! A file layer that breaks: the kernel asks us before each call that changes a file of a daemon's.
//!
//! A seccomp filter with user notification is inherited by a daemon from the thread that starts it, so
//! the product needs no code for this, and SQLite's own calls are broken like ours. Calls are counted
//! over all threads, in the order in which they come. Here rather than strace's injection, which
//! counts for each thread by itself and knows no "from now on".
//! See seccomp_unotify(2).

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use libseccomp::{
    ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFd, ScmpFilterContext, ScmpNotifReq,
    ScmpNotifResp, ScmpNotifRespFlags, ScmpSyscall,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Where each call says which file it changes: the number of a descriptor's argument, or of a
/// path's, with the descriptor of the directory before it.
const CALLS: [(&str, Which); 20] = [
    ("write", Which::Descriptor),
    ("pwrite64", Which::Descriptor),
    ("writev", Which::Descriptor),
    ("pwritev", Which::Descriptor),
    ("ftruncate", Which::Descriptor),
    ("fallocate", Which::Descriptor),
    ("fsync", Which::Descriptor),
    ("fdatasync", Which::Descriptor),
    ("syncfs", Which::Descriptor),
    ("fsetxattr", Which::Descriptor),
    ("mkdir", Which::Path),
    ("rmdir", Which::Path),
    ("unlink", Which::Path),
    ("rename", Which::Path),
    ("openat", Which::PathAt),
    ("mkdirat", Which::PathAt),
    ("unlinkat", Which::PathAt),
    ("renameat", Which::PathAt),
    ("renameat2", Which::PathAt),
    ("linkat", Which::PathAt),
];

#[derive(Clone, Copy)]
enum Which {
    Descriptor,
    Path,
    PathAt,
}

/// What is to go wrong below one directory.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Which call, counted from 1; 0 is none.
    pub(crate) at: u64,
    /// What it is answered.
    pub(crate) errno: Errno,
    /// Whether every call after it is answered the same.
    pub(crate) onwards: bool,
    /// Whether calls that sync succeed, and sync nothing.
    pub(crate) lies: bool,
    /// How many calls there were.
    pub(crate) seen: u64,
    /// The first that was broken.
    pub(crate) broke: Option<String>,
}

impl Plan {
    pub(crate) fn new(at: u64, errno: Errno, onwards: bool) -> Self {
        Self { at, errno, onwards, lies: false, seen: 0, broke: None }
    }

    /// Nothing breaks, and nothing is synced.
    pub(crate) fn without_syncs() -> Self {
        Self { lies: true, ..Self::new(0, Errno::EIO, false) }
    }
}

type Plans = HashMap<PathBuf, Plan>;

struct Shared {
    plans: Mutex<Plans>,
    starter: Mutex<Sender<(Command, Sender<std::io::Result<Child>>)>>,
}

/// One for the process: libseccomp keeps one listener.
static SHARED: OnceLock<Shared> = OnceLock::new();

fn shared() -> &'static Shared {
    SHARED.get_or_init(|| {
        let (starter, commands) = channel::<(Command, Sender<_>)>();
        let (found, listener) = channel();
        std::thread::spawn(move || {
            // For this thread alone, and whatever it starts.
            found.send(filter().expect("load a filter")).expect("it is waited for");
            for (mut command, answer) in commands {
                let _ = answer.send(command.spawn());
            }
        });
        let listener = listener.recv().expect("the filter is loaded");
        std::thread::spawn(move || {
            loop {
                // A process that was killed takes its question along.
                if let Ok(request) = ScmpNotifReq::receive(listener) {
                    answer(listener, &request);
                }
            }
        });
        Shared { plans: Mutex::default(), starter: Mutex::new(starter) }
    })
}

fn filter() -> Result<ScmpFd, libseccomp::error::SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    // What a daemon starts is not to be held back by it.
    filter.set_ctl_nnp(false)?;
    for (name, _) in CALLS {
        let call = ScmpSyscall::from_name(name)?;
        if name == "openat" {
            let create = u64::try_from(OFlag::O_CREAT.bits()).expect("a small number");
            let creates = ScmpArgCompare::new(2, ScmpCompareOp::MaskedEqual(create), create);
            filter.add_rule_conditional(ScmpAction::Notify, call, &[creates])?;
        } else {
            filter.add_rule(ScmpAction::Notify, call)?;
        }
    }
    filter.load()?;
    filter.get_notify_fd()
}

fn answer(listener: ScmpFd, request: &ScmpNotifReq) {
    let broken = broken(request);
    let response = match broken {
        Some(Answer::Error(errno)) => {
            ScmpNotifResp::new_error(request.id, -(errno as i32), ScmpNotifRespFlags::empty())
        }
        Some(Answer::Nothing) => ScmpNotifResp::new_val(request.id, 0, ScmpNotifRespFlags::empty()),
        None => ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::CONTINUE),
    };
    // Gone in the meantime is as good.
    let _ = response.respond(listener);
}

/// What a call is answered that is not done.
enum Answer {
    Error(Errno),
    /// Success.
    Nothing,
}

fn broken(request: &ScmpNotifReq) -> Option<Answer> {
    let name = request.data.syscall.get_name().ok()?;
    let (_, which) = CALLS.iter().find(|(call, _)| *call == name)?;
    let path = path(request, *which)?;
    let mut plans = shared().plans.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, plan) = plans.iter_mut().find(|(root, _)| path.starts_with(root))?;
    plan.seen += 1;
    if plan.lies && ["fsync", "fdatasync", "syncfs"].contains(&name.as_str()) {
        return Some(Answer::Nothing);
    }
    let breaks = plan.at > 0 && (plan.seen == plan.at || (plan.onwards && plan.seen > plan.at));
    if breaks && plan.broke.is_none() {
        plan.broke = Some(format!("{name} of {}", path.display()));
    }
    breaks.then_some(Answer::Error(plan.errno))
}

fn path(request: &ScmpNotifReq, which: Which) -> Option<PathBuf> {
    let (pid, arguments) = (request.pid, request.data.args);
    // Descriptors are ints, in registers of twice their size.
    let descriptor = |number: usize| {
        let fd = arguments[number] as i32;
        let link = if fd < 0 { "cwd".to_owned() } else { format!("fd/{fd}") };
        fs::read_link(format!("/proc/{pid}/{link}")).ok()
    };
    match which {
        Which::Descriptor => descriptor(0),
        Which::Path => Some(text_at(pid, arguments[0])?),
        Which::PathAt => {
            let name = text_at(pid, arguments[1])?;
            if name.is_absolute() { Some(name) } else { Some(descriptor(0)?.join(name)) }
        }
    }
}

/// The path at an address of a process.
fn text_at(pid: u32, address: u64) -> Option<PathBuf> {
    let mut bytes = [0; 512];
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let count = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..count].iter().position(|byte| *byte == 0)?;
    Some(PathBuf::from(String::from_utf8_lossy(&bytes[..end]).into_owned()))
}

/// Starts a program whose file calls can be broken.
pub(crate) fn start(command: Command) -> Child {
    let (answer, started) = channel();
    let starter = shared().starter.lock().unwrap_or_else(PoisonError::into_inner);
    starter.send((command, answer)).expect("the starting thread lives");
    started.recv().expect("it answers").expect("start the daemon")
}

/// From now on, calls below `root` are counted and broken.
pub(crate) fn arm(root: &Path, plan: Plan) {
    let mut plans = shared().plans.lock().unwrap_or_else(PoisonError::into_inner);
    plans.insert(root.to_owned(), plan);
}

/// Ends that, and says what happened.
pub(crate) fn disarm(root: &Path) -> Plan {
    let mut plans = shared().plans.lock().unwrap_or_else(PoisonError::into_inner);
    plans.remove(root).expect("it was armed")
}
