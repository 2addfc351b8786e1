//! Where a server listens: a named pipe, and the log.

use std::fs::{self, File, OpenOptions};
use std::io;

use protos::ttrpc::ttrpc::asynchronous::transport::Listener;

use super::args::Args;
use super::handoff::{ADDRESS_FILE, SOCKET_ENV};
use crate::wire::socket;
use crate::{Bundle, Error, Payload, Result, log_fifo};

/// The name of the pipe that a server listens on.
pub(super) struct Endpoint {
    pipe: String,
}

/// The runtime options that `start` was given are not passed to the server.
pub(super) fn options_from_start() -> Result<Option<Payload>> {
    Ok(None)
}

impl Endpoint {
    /// Takes over what `start` prepared: a name, because a listening pipe cannot be inherited.
    pub(super) fn take_over(args: &Args) -> Result<Self> {
        let pipe = std::env::var(SOCKET_ENV)
            .map_err(|_| Error::invalid(format!("{SOCKET_ENV} does not name a pipe to serve")))?;
        log_fifo::install(open_log(), args.debug);
        if let Err(cause) = fs::write(ADDRESS_FILE, &pipe) {
            log::warn!("write {ADDRESS_FILE}: {cause}");
        }
        Ok(Self { pipe })
    }

    /// Accepts connections from now on. To be called once, within the event loop.
    pub(super) fn listen(&mut self) -> io::Result<Listener> {
        socket::listen(&self.pipe)
    }

    /// Does nothing: Windows removes a pipe's name with its server.
    pub(super) fn remove_path(&self) {}
}

/// Opens the log, a file in the bundle. The pipe that the daemon would read is not implemented yet.
fn open_log() -> Option<File> {
    OpenOptions::new().create(true).append(true).open("log").ok()
}

/// Does nothing: a dead server has no pipe.
pub(super) fn remove_socket(_bundle: &Bundle) {}
