//! `start`: binds the socket, hands it to a server, prints the address. As little as that can be.
//!
//! The listener exists before the server does, so whoever has the address can connect; the
//! server's own making goes on behind. Whatever is not needed for the address is the server's
//! work.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use protos::ttrpc::protobuf::Message;
use rustix::pipe::{PipeFlags, pipe_with};

use super::args::Args;
use super::request::annotations;
use super::serve::{ADDRESS_FILE, SOCKET_ENV};
use crate::sys::{self, Stack};
use crate::wire::bootstrap::{self, Request};
use crate::wire::convert;
use crate::{
    Bundle, Error, Payload, ProcessHandle, Program, Result, Runtime, Signal, Stream, Streams,
    address, spawn,
};

/// The link in the bundle to a socket directory that is not the usual one, by containerd's name.
const SOCKET_DIR_LINK: &str = "s";

/// How often a lost race for the socket's name is run again.
const ATTEMPTS: u32 = 8;

/// What came of asking for a socket's name.
enum Claim {
    /// It is ours, and listened on.
    Bound(UnixListener),
    /// A server of our group has it.
    Taken,
}

/// Answers `start`.
pub(crate) fn start<R: Runtime>(args: &Args, runtime: &R, request: &Request) -> Result<()> {
    let bundle = Bundle::new(".");
    let group = runtime.group(&annotations(&bundle)?);
    let socket_dir = request.socket_dir.as_deref().unwrap_or(address::DEFAULT_SOCKET_DIR);
    let name = group.as_deref().unwrap_or(&args.id);
    let path = address::socket_path(Path::new(socket_dir), &args.address, &args.namespace, name)?;
    let at = address::unix(&path);
    if socket_dir != address::DEFAULT_SOCKET_DIR {
        remember_socket_dir(&bundle, socket_dir)?;
    }
    match claim(&path)? {
        Claim::Bound(listener) => {
            let mut server = None;
            let spawned = spawn_server(args, request, listener, &path).and_then(|process| {
                let pid = server.insert(process).pid().get();
                let cgroup = request.shim_cgroup();
                cgroup.map_or(Ok(()), |cgroup| super::placement::enter_cgroup(&cgroup, pid))
            });
            let answered = spawned.and_then(|()| print(request, &at));
            answered.inspect_err(|_| take_back(server, &path))
        }
        Claim::Taken => {
            // Where `delete` of this member looks for the socket; the server writes its own.
            let file = bundle.file(ADDRESS_FILE);
            fs::write(&file, &at)
                .map_err(|cause| Error::io(format!("write {}", file.display()), cause))?;
            print(request, &at)
        }
    }
}

fn print(request: &Request, at: &str) -> Result<()> {
    let answer = bootstrap::answer(request.structured, at)?;
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(&answer).and_then(|()| stdout.flush());
    // The daemon has died.
    printed.map_err(|cause| Error::io("print the address", cause))
}

/// Ends a server that nobody will ever know of, and frees its name: both would stay.
fn take_back(server: Option<ProcessHandle>, path: &Path) {
    if let Some(server) = server {
        // It may be gone already. It is not asked: it may not listen to signals yet, and would leave
        // its socket.
        let _ = server.signal(Signal::KILL);
    }
    let _ = fs::remove_file(path);
}

/// Leaves word of where the sockets are for a `delete` to come, perhaps of containerd's own shim,
/// which is not told.
fn remember_socket_dir(bundle: &Bundle, socket_dir: &str) -> Result<()> {
    let link = bundle.file(SOCKET_DIR_LINK);
    match std::os::unix::fs::symlink(socket_dir, &link) {
        // A start that is repeated after a failure.
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|cause| Error::io(format!("symlink {}", link.display()), cause)),
    }
}

/// Takes a socket's name, unless somebody listens there.
///
/// The name appears only when the socket behind it is listened on already, by a hard link. So a
/// refused connection means that the listener is gone, and removing what is left is right; that is
/// done under a lock of the directory, and a server that leaves removes its name before it stops
/// listening. However many race, one listens.
fn claim(path: &Path) -> Result<Claim> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let attempt = |what: &str| {
        let what = format!("{what} {}", path.display());
        move |cause| Error::io(what, cause)
    };
    let beside = directory.join(format!(".{}", std::process::id()));
    let mut bound = bind(&beside);
    if bound.as_ref().is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound) {
        let before = umask(Mode::from_bits_truncate(0o022));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        umask(before);
        made.map_err(attempt("make the directory of"))?;
        bound = bind(&beside);
    }
    if bound.as_ref().is_err_and(|cause| cause.kind() == io::ErrorKind::AddrInUse) {
        // Left by a process of the same number that died half way.
        fs::remove_file(&beside).map_err(attempt("clear the place of"))?;
        bound = bind(&beside);
    }
    let listener = bound.map_err(attempt("bind"))?;
    let claimed = link(&beside, path, directory);
    // Linked or not, the second name has served.
    let _ = fs::remove_file(&beside);
    match claimed {
        Ok(true) => Ok(Claim::Bound(listener)),
        Ok(false) => Ok(Claim::Taken),
        Err(cause) => Err(attempt("link")(cause)),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // Before anybody could connect, and in a process of one thread.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Gives a listening socket its name; false if somebody else listens there.
fn link(from: &Path, to: &Path, directory: &Path) -> io::Result<bool> {
    for _ in 0..ATTEMPTS {
        match fs::hard_link(from, to) {
            Ok(()) => return Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
        if is_served(to) {
            return Ok(false);
        }
        let lock = Flock::lock(File::open(directory)?, FlockArg::LockExclusive);
        let _lock = lock.map_err(|(_, cause)| io::Error::from(cause))?;
        // Looked at again: whoever had the lock before may have removed the stale name, and a new
        // one may stand there by now or at any moment. Only a name whose listener is gone is
        // removed; one that is not there is left to whoever is about to take it.
        if is_stale(to) {
            match fs::remove_file(to) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Err(io::Error::from(io::ErrorKind::AddrInUse))
}

/// Whether somebody listens; a full backlog is somebody as well.
pub(crate) fn is_served(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(cause) => {
            !matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
    }
}

/// Whether there is a name behind which nobody listens any more.
fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

/// Spawns the server with the listener as descriptor 3. It leads a session of its own before this
/// process answers: whoever then ends what it left in its group does not mean it.
fn spawn_server(
    args: &Args,
    request: &Request,
    listener: UnixListener,
    path: &Path,
) -> Result<ProcessHandle> {
    let program = std::env::current_exe();
    let program = program.map_err(|cause| Error::io("find this program's file", cause))?;
    let name = own_name(&program);
    let mut server = Program::at(program, name)
        .args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address])
        .env(SOCKET_ENV, path)
        .descriptor(listener.into())
        .surviving();
    if args.debug || request.debug {
        server = server.args(["-debug"]);
    }
    let (stdin, end) =
        to_server(request.options.as_ref()).map_err(|cause| Error::io("make a pipe", cause))?;
    server = server.streams(Streams { stdin: Some(stdin), ..Streams::default() });
    if let Some(events) = &request.events_address {
        server = server.env("TTRPC_ADDRESS", events);
    }
    if let Some(grpc) = &request.grpc_address {
        server = server.env("GRPC_ADDRESS", grpc);
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|wanted| !wanted.is_empty()) {
        // Inherited by the server.
        sys::sched_core_create().map_err(|cause| Error::io("prctl(PR_SCHED_CORE)", cause))?;
    }
    let made = spawn::spawn_blocking(server, &mut Stack::new())?;
    // Closed with everything else when this process ends. Until then the server waits: on a busy
    // host the daemon would wait for both.
    mem::forget(end);
    Ok(made.process)
}

/// A pipe that holds the options in the form in which `-info` reads them, and its writing end. Options
/// that it does not take at once the server gets with Create alone.
fn to_server(options: Option<&Payload>) -> io::Result<(Stream, OwnedFd)> {
    let (mut reader, mut writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(options) = options {
        let bytes = convert::any(options.clone()).write_to_bytes().map_err(io::Error::other)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        if !rustix::io::write(&writer, &bytes).is_ok_and(|count| count == bytes.len()) {
            (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        }
    }
    Ok((reader.into(), writer))
}

/// The name this program was called by: it says which runtime is meant.
fn own_name(program: &Path) -> OsString {
    std::env::args_os().next().unwrap_or_else(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_served_is_joined_and_a_stale_one_taken_over() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("made/on/demand/socket");
        let Claim::Bound(listener) = claim(&path).expect("free") else { panic!("nobody is there") };
        assert!(matches!(claim(&path).expect("served"), Claim::Taken));
        drop(listener);
        assert!(path.exists(), "stale");
        let Claim::Bound(_listener) = claim(&path).expect("stale") else {
            panic!("nobody is there")
        };
        let left = fs::read_dir(path.parent().expect("has one")).expect("read").count();
        assert_eq!(left, 1, "only the socket");
    }

    #[test]
    fn the_server_reads_the_options_and_waits_for_the_end_of_start() {
        let read = |options: Option<&Payload>| {
            let (reader, writer) = to_server(options).expect("pipe");
            rustix::io::ioctl_fionbio(&reader, true).expect("descriptor");
            let mut reader = File::from(OwnedFd::from(reader));
            let mut bytes = vec![0; 1 << 20];
            let count = io::Read::read(&mut reader, &mut bytes).unwrap_or_default();
            bytes.truncate(count);
            let more = io::Read::read(&mut reader, &mut [0]);
            assert_eq!(more.expect_err("not at its end").kind(), io::ErrorKind::WouldBlock);
            drop(writer);
            assert_eq!(io::Read::read(&mut reader, &mut [0]).expect("its end"), 0);
            bytes
        };
        let options = |size| Payload { type_url: "t".to_owned(), value: vec![7; size] };
        assert!(read(None).is_empty());
        assert_eq!(read(Some(&options(300)))[..3], [10, 1, b't'], "an Any");
        assert!(read(Some(&options(1 << 20))).is_empty(), "half of it is none");
    }

    #[test]
    fn of_many_that_race_for_a_stale_name_one_listens() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().expect("temporary folder");
            let path = folder.path().join("socket");
            drop(UnixListener::bind(&path).expect("bind"));
            // A child of a test beside this one has a copy until it executes.
            while is_served(&path) {
                std::thread::yield_now();
            }
            let racing = (0..8).map(|number| {
                let (path, beside) = (path.clone(), folder.path().join(format!(".{number}")));
                std::thread::spawn(move || {
                    let listener = UnixListener::bind(&beside).expect("bind");
                    let directory = path.parent().expect("has one");
                    link(&beside, &path, directory).expect("link").then_some(listener)
                })
            });
            let racing: Vec<_> = racing.collect();
            let bound: Vec<_> = racing.into_iter().map(|one| one.join().expect("thread")).collect();
            assert_eq!(bound.iter().flatten().count(), 1);
            assert!(is_served(&path));
        }
    }
}
