//! Where a server listens: it takes over the listener that `start` made, and gives up its name.
//!
//! Also: reads the options from `start`, and opens the daemon's log fifo.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use protos::ttrpc::ttrpc::asynchronous::transport::Listener;

use super::args::Args;
use super::handoff::{ADDRESS_FILE, SOCKET_ENV, is_served};
use super::{info, placement};
use crate::wire::socket;
use crate::{Bundle, Error, Payload, Result, address, file, log_fifo, sys};

/// The limit for reading the address file; a socket's path has at most 108 bytes.
const MAX_ADDRESS_BYTES: u64 = 4096;

/// A server's listener and its name.
pub(super) struct Endpoint {
    listener: Option<UnixListener>,
    /// The socket's path, unless the server was started by hand.
    socket: Option<PathBuf>,
}

/// Reads the runtime options that `start` was given, if it passed any. Returns only when `start`
/// has ended, because the daemon waits for that process.
pub(super) fn options_from_start() -> Result<Option<Payload>> {
    if std::env::var_os(SOCKET_ENV).is_none() {
        // Started by hand: standard input may have no end.
        return Ok(None);
    }
    let options = info::options()?;
    let null = || Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?);
    null().map_err(|cause| Error::io("replace standard input by /dev/null", cause))?;
    Ok(options)
}

impl Endpoint {
    /// Takes over what `start` prepared. To be called before anything else opens a descriptor.
    pub(super) fn take_over(args: &Args) -> Result<Self> {
        sys::close_inherited();
        let listener = sys::take_listener()
            .map_err(|cause| Error::io("take over the listener, descriptor 3", cause))?;
        sys::one_malloc_arena();
        // A narrower umask may be inherited; directories and sockets set their own modes.
        umask(Mode::from_bits_truncate(0o022));
        let socket = std::env::var_os(SOCKET_ENV).map(PathBuf::from);
        log_fifo::install(open_log(Path::new("log")), args.debug);
        placement::adjust_oom_score();
        if let Some(socket) = &socket
            && let Err(cause) = fs::write(ADDRESS_FILE, address::unix(socket))
        {
            log::warn!("write {ADDRESS_FILE}: {cause}");
        }
        Ok(Self { listener: Some(listener), socket })
    }

    /// Accepts connections from now on. To be called once, within the event loop.
    pub(super) fn listen(&mut self) -> io::Result<Listener> {
        let listener = self.listener.take();
        socket::listen(listener.ok_or(io::ErrorKind::NotConnected)?)
    }

    /// Removes the socket's path. To be called while the listener is still open: a refused
    /// connection must mean that there is no server.
    pub(super) fn remove_path(&self) {
        if let Some(socket) = &self.socket
            && let Err(cause) = fs::remove_file(socket)
        {
            log::debug!("remove {}: {cause}", socket.display());
        }
    }
}

/// Opens the daemon's fifo for the log. It is opened for reading as well, so that opening does not
/// fail without a reader. Without a fifo there is no log.
fn open_log(path: &Path) -> Option<File> {
    let fifo = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NONBLOCK).open(path);
    let fifo = fifo.ok()?;
    // A panic writes its message to stderr. The descriptor stays non-blocking.
    let _ = rustix::stdio::dup2_stderr(&fifo);
    Some(fifo)
}

/// Removes a dead server's socket. A socket with a listener belongs to a group that is still
/// served, and stays.
pub(super) fn remove_socket(bundle: &Bundle) {
    let Ok(at) = file::read_regular(&bundle.file(ADDRESS_FILE), MAX_ADDRESS_BYTES) else { return };
    let Ok(at) = String::from_utf8(at) else { return };
    if let Some(path) = address::unix_path(at.trim())
        && !is_served(path)
    {
        // Another process may have removed it first.
        let _ = fs::remove_file(path);
    }
}
