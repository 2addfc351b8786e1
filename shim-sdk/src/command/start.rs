//! `start`: binds the socket, passes it to a server, prints the address.
//!
//! The listener exists before the server does, so a client that has the address can connect while
//! the server still starts. Work that the address does not need is left to the server, because the
//! daemon waits for `start`.

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
use super::handoff::{ADDRESS_FILE, SOCKET_ENV, is_served};
use super::start_params::annotations;
use crate::sys::{self, Stack};
use crate::wire::bootstrap::{self, StartParams};
use crate::wire::convert;
use crate::{
    Bundle, Error, Payload, ProcessHandle, Program, Result, Runtime, Signal, Stream, Streams,
    address, spawn,
};

/// The link in the bundle to a socket directory other than the default one. The name is
/// containerd's.
const SOCKET_DIR_LINK: &str = "s";

/// How often taking the socket's path is tried again after a lost race.
const ATTEMPTS: u32 = 8;

/// The result of claiming a socket's path.
enum Claim {
    /// This process listens there.
    Bound(UnixListener),
    /// A server of the same group listens there.
    Taken,
}

/// Answers `start`.
pub(crate) fn start<R: Runtime>(args: &Args, runtime: &R, params: &StartParams) -> Result<()> {
    let bundle = Bundle::new(".");
    let group = runtime.group(&annotations(&bundle)?);
    let socket_dir = params.socket_dir.as_deref().unwrap_or(address::DEFAULT_SOCKET_DIR);
    let name = group.as_deref().unwrap_or(&args.id);
    let path = address::socket_path(Path::new(socket_dir), &args.address, &args.namespace, name)?;
    let at = address::unix(&path);
    if socket_dir != address::DEFAULT_SOCKET_DIR {
        remember_socket_dir(&bundle, socket_dir)?;
    }
    match claim(&path)? {
        Claim::Bound(listener) => {
            let mut server = None;
            let spawned = spawn_server(args, params, listener, &path).and_then(|process| {
                let pid = server.insert(process).pid().get();
                let cgroup = params.shim_cgroup();
                cgroup.map_or(Ok(()), |cgroup| super::placement::enter_cgroup(&cgroup, pid))
            });
            let answered = spawned.and_then(|()| print(params, &at));
            answered.inspect_err(|_| take_back(server, &path))
        }
        Claim::Taken => {
            // `delete` of this container looks for the address in its bundle. The server writes the
            // file only in the bundle that it was started in.
            let file = bundle.file(ADDRESS_FILE);
            fs::write(&file, &at)
                .map_err(|cause| Error::io(format!("write {}", file.display()), cause))?;
            print(params, &at)
        }
    }
}

fn print(params: &StartParams, at: &str) -> Result<()> {
    let answer = bootstrap::answer(params.structured, at)?;
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(&answer).and_then(|()| stdout.flush());
    // It fails when the daemon has died.
    printed.map_err(|cause| Error::io("print the address", cause))
}

/// Kills a server whose address no client got, and removes its socket.
fn take_back(server: Option<ProcessHandle>, path: &Path) {
    if let Some(server) = server {
        // It may have ended already. SIGKILL, and the socket is removed below: a server without
        // signal handlers yet would not remove it at SIGTERM.
        let _ = server.signal(Signal::KILL);
    }
    let _ = fs::remove_file(path);
}

/// Records the socket directory in the bundle for a later `delete`. That may be containerd's own
/// shim, which gets the directory in no other way.
fn remember_socket_dir(bundle: &Bundle, socket_dir: &str) -> Result<()> {
    let link = bundle.file(SOCKET_DIR_LINK);
    match std::os::unix::fs::symlink(socket_dir, &link) {
        // An earlier start failed after making it.
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|cause| Error::io(format!("symlink {}", link.display()), cause)),
    }
}

/// Listens at a path, unless another process does.
///
/// The socket is bound and listened on under another name, then linked to the path. So a refused
/// connection means that the listener is gone, and the path may be removed. That is done under a
/// lock of the directory. A server that stops removes its path before it closes the listener. So of
/// many processes that race, exactly one listens.
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
        // Left by a dead process with the same pid.
        fs::remove_file(&beside).map_err(attempt("remove the old file beside"))?;
        bound = bind(&beside);
    }
    let listener = bound.map_err(attempt("bind"))?;
    let claimed = link(&beside, path, directory);
    // Linked or not, the other name is not needed any more.
    let _ = fs::remove_file(&beside);
    match claimed {
        Ok(true) => Ok(Claim::Bound(listener)),
        Ok(false) => Ok(Claim::Taken),
        Err(cause) => Err(attempt("link")(cause)),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // The umask gives the socket mode 0600 from the start. This process has one thread.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Links a listening socket to its path. Returns false if another process listens there.
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
        // Checked again: the previous holder of the lock may have removed the stale path, and a new
        // socket may be there now. Only a path without a listener is removed.
        if is_stale(to) {
            match fs::remove_file(to) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Err(io::Error::from(io::ErrorKind::AddrInUse))
}

/// Whether the path exists and its listener is gone.
fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

/// Spawns the server with the listener as descriptor 3. It calls setsid(2) before this process
/// answers, so a daemon that kills this process's group does not kill the server.
fn spawn_server(
    args: &Args,
    params: &StartParams,
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
    if args.debug || params.debug {
        server = server.args(["-debug"]);
    }
    let (stdin, end) =
        to_server(params.options.as_ref()).map_err(|cause| Error::io("make a pipe", cause))?;
    server = server.streams(Streams { stdin: Some(stdin), ..Streams::default() });
    if let Some(events) = &params.events_address {
        server = server.env("TTRPC_ADDRESS", events);
    }
    if let Some(grpc) = &params.grpc_address {
        server = server.env("GRPC_ADDRESS", grpc);
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|wanted| !wanted.is_empty()) {
        // Inherited by the server.
        sys::sched_core_create().map_err(|cause| Error::io("prctl(PR_SCHED_CORE)", cause))?;
    }
    let made = spawn::spawn_blocking(server, &mut Stack::new())?;
    // Closed by the kernel when this process ends. The server waits for that, so that on a busy
    // host it does not compete with this process, for which the daemon waits.
    mem::forget(end);
    Ok(made.process)
}

/// A pipe that holds the options in the encoding that `-info` reads, and its writing end. Options
/// too large for the pipe are left out; the server gets them with Create.
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

/// The name that this program was called by. It contains the runtime's name.
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
        let Claim::Bound(listener) = claim(&path).expect("free") else {
            panic!("no shim listens there")
        };
        assert!(matches!(claim(&path).expect("served"), Claim::Taken));
        drop(listener);
        assert!(path.exists(), "stale");
        let Claim::Bound(_listener) = claim(&path).expect("stale") else {
            panic!("no shim listens there")
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
