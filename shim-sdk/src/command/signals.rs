//! The signals that a shim handles.
//!
//! See signal(7); the handlers write to a socket pair (the self-pipe trick), and the event loop
//! reads it.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::Interest;

use crate::process::shim::ShimState;
use crate::{Error, Result, Runtime, sys};

/// Calls the shim for signals: SIGUSR1 makes it log its state, SIGTERM and SIGINT make it stop.
pub(super) fn handle_signals<R: Runtime>(shim: &Rc<ShimState<R>>) -> Result<()> {
    on_signals(&[libc::SIGUSR1], {
        let shim = Rc::clone(shim);
        move || shim.dump()
    })?;
    on_signals(&[libc::SIGTERM, libc::SIGINT], {
        let shim = Rc::clone(shim);
        move || shim.stop_server()
    })
}

/// Ignores SIGTERM and SIGINT, which would end a clean-up half way; the daemon asks for it only
/// once. By handlers, because a program that is executed would inherit SIG_IGN.
pub(super) fn ignore_termination() -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::flag::register(signal, Arc::default())
            .map_err(|cause| Error::io("catch signals", cause))?;
    }
    Ok(())
}

/// Calls back for each signal that arrives.
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
