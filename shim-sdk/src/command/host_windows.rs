//! A server's place on its host: the pipe it serves, and the log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::rc::Rc;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;

use super::args::Args;
use super::serve::{ADDRESS_FILE, SOCKET_ENV};
use crate::process::shim::ShimState;
use crate::wire::socket;
use crate::{Bundle, Error, Payload, Result, Runtime, log_fifo};

/// Where a server listens.
pub(super) struct Place {
    pipe: String,
}

/// The runtime options that `start` was given are not handed on.
pub(super) fn options() -> Result<Option<Payload>> {
    Ok(None)
}

/// Takes over what `start` prepared: a name, since a pipe cannot be handed on.
pub(super) fn take_place(args: &Args) -> Result<Place> {
    let pipe = std::env::var(SOCKET_ENV)
        .map_err(|_| Error::invalid(format!("{SOCKET_ENV} does not name a pipe to serve")))?;
    log_fifo::install(open_log(), args.debug);
    if let Err(cause) = fs::write(ADDRESS_FILE, &pipe) {
        log::warn!("write {ADDRESS_FILE}: {cause}");
    }
    Ok(Place { pipe })
}

/// The log is a file in the bundle. The pipe that the daemon would read is to come.
fn open_log() -> Option<File> {
    OpenOptions::new().create(true).append(true).open("log").ok()
}

/// Nothing here is made by the event loop's own calls.
pub(super) fn take_lead() -> Result<()> {
    Ok(())
}

impl Place {
    /// Accepts connections from now on. To be called once, within the event loop.
    pub(super) fn listen(&mut self) -> io::Result<Listener> {
        socket::listen(&self.pipe)
    }

    /// A pipe's name goes with its server.
    pub(super) fn give_up(&self) {}
}

/// A dead server's pipe is gone.
pub(super) fn remove_socket(_bundle: &Bundle) {}

/// There are no signals.
pub(super) fn watch_signals<R: Runtime>(_shim: &Rc<ShimState<R>>) -> Result<()> {
    Ok(())
}

/// There are no signals that could end a clean-up.
pub(super) fn heed_no_signal() -> Result<()> {
    Ok(())
}
