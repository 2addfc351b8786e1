//! A server's place on its host: the listener it is given, the log, its name, signals.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::stat::{Mode, umask};
use protos::ttrpc::ttrpc::asynchronous::transport::Listener;
use tokio::io::Interest;

use super::args::Args;
use super::serve::{ADDRESS_FILE, SOCKET_ENV};
use super::start::is_served;
use super::{info, placement};
use crate::process::shim::ShimState;
use crate::wire::socket;
use crate::{Bundle, Error, Payload, Result, Runtime, address, file, log_fifo, spawn, sys};

/// The most of a file with a server's address that is read; an address is a path of at most 108.
const MAX_ADDRESS_BYTES: u64 = 4096;

/// Where a server listens.
pub(super) struct Place {
    listener: Option<UnixListener>,
    socket: Option<PathBuf>,
}

/// The runtime options that `start` was given, if it left any. Returns when `start` has ended: whoever
/// waits for its answer comes first.
pub(super) fn options() -> Result<Option<Payload>> {
    if std::env::var_os(SOCKET_ENV).is_none() {
        // Somebody else's standard input may never end.
        return Ok(None);
    }
    let options = info::options()?;
    let null = || Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?);
    null().map_err(|cause| Error::io("let go of the standard input", cause))?;
    Ok(options)
}

/// Takes over what `start` prepared. To be called before anything else opens a descriptor.
pub(super) fn take_place(args: &Args) -> Result<Place> {
    sys::close_inherited();
    let listener = sys::take_listener()
        .map_err(|cause| Error::io("take over the listener, descriptor 3", cause))?;
    sys::one_malloc_arena();
    // Whoever started us may have had a narrower one; directories and sockets set their own modes.
    umask(Mode::from_bits_truncate(0o022));
    let socket = std::env::var_os(SOCKET_ENV).map(PathBuf::from);
    log_fifo::install(open_log(Path::new("log")), args.debug);
    placement::adjust_oom_score();
    if let Some(socket) = &socket
        && let Err(cause) = fs::write(ADDRESS_FILE, address::unix(socket))
    {
        log::warn!("write {ADDRESS_FILE}: {cause}");
    }
    Ok(Place { listener: Some(listener), socket })
}

/// Opens the daemon's fifo for the log, for reading as well; where there is none nobody wants to
/// read.
fn open_log(path: &Path) -> Option<File> {
    let fifo = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NONBLOCK).open(path);
    let fifo = fifo.ok()?;
    // For what is written without the logger: a panic's last words. It stays non-blocking.
    let _ = rustix::stdio::dup2_stderr(&fifo);
    Some(fifo)
}

/// Lets the event loop run before what it serves.
pub(super) fn take_lead() -> Result<()> {
    spawn::start_thread()
}

impl Place {
    /// Accepts connections from now on. To be called once, within the event loop.
    pub(super) fn listen(&mut self) -> io::Result<Listener> {
        let listener = self.listener.take();
        socket::listen(listener.ok_or(io::ErrorKind::NotConnected)?)
    }

    /// Gives up the name, which goes before the listener: a refused connection must mean that
    /// nobody is there.
    pub(super) fn give_up(&self) {
        if let Some(socket) = &self.socket
            && let Err(cause) = fs::remove_file(socket)
        {
            log::debug!("remove {}: {cause}", socket.display());
        }
    }
}

/// Removes a dead server's socket; a socket that is served belongs to a group that lives on.
pub(super) fn remove_socket(bundle: &Bundle) {
    let Ok(at) = file::read_regular(&bundle.file(ADDRESS_FILE), MAX_ADDRESS_BYTES) else { return };
    let Ok(at) = String::from_utf8(at) else { return };
    if let Some(path) = address::unix_path(at.trim())
        && !is_served(path)
    {
        // Somebody else may have been faster.
        let _ = fs::remove_file(path);
    }
}

/// Tells the shim of signals: SIGUSR1 asks what it is doing, SIGTERM and SIGINT ask it to leave.
pub(super) fn watch_signals<R: Runtime>(shim: &Rc<ShimState<R>>) -> Result<()> {
    on_signals(&[libc::SIGUSR1], {
        let shim = Rc::clone(shim);
        move || shim.dump()
    })?;
    on_signals(&[libc::SIGTERM, libc::SIGINT], {
        let shim = Rc::clone(shim);
        move || shim.stop_server()
    })
}

/// Lets SIGTERM and SIGINT, which end a server, pass: half a clean-up helps nobody, and the daemon
/// asks once. Handlers, unlike signals that are ignored, are not passed on to what is executed.
pub(crate) fn heed_no_signal() -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::flag::register(signal, Arc::default())
            .map_err(|cause| Error::io("catch signals", cause))?;
    }
    Ok(())
}

/// Calls back for each of some signals.
fn on_signals(signals: &[i32], mut call: impl FnMut() + 'static) -> Result<()> {
    let attempt = |cause: io::Error| Error::io("watch for signals", cause);
    let (mut reader, writer) = UnixStream::pair().map_err(attempt)?;
    reader.set_nonblocking(true).map_err(attempt)?;
    for &signal in signals {
        let writer = writer.try_clone().map_err(attempt)?;
        signal_hook::low_level::pipe::register(signal, writer).map_err(attempt)?;
    }
    let arrived = reader.try_clone().map_err(attempt)?;
    let arrived = sys::async_fd(arrived.into(), Interest::READABLE).map_err(attempt)?;
    tokio::task::spawn_local(async move {
        let mut drained = [0; 16];
        while let Ok(mut ready) = arrived.readable().await {
            ready.clear_ready();
            if reader.read(&mut drained).is_ok_and(|read| read > 0) {
                call();
            }
        }
    });
    Ok(())
}
