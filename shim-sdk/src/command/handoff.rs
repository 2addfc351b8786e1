//! What `start` and the server that it spawns must agree on.
//!
//! `start` passes the listening socket as descriptor 3 and its path in the environment. The server
//! writes its address to a file in the bundle, where `delete` finds it.

#[cfg(unix)]
use std::{io, os::unix::net::UnixStream, path::Path};

/// The file in the bundle with the server's address; containerd's own shims read it too.
pub(super) const ADDRESS_FILE: &str = "address";

/// The environment variable with the path of the server's socket, or the name of its pipe.
pub(super) const SOCKET_ENV: &str = "SHIM_SOCKET";

/// Whether a process listens at a socket. If its backlog is full, one does.
#[cfg(unix)]
pub(super) fn is_served(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(cause) => {
            !matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
    }
}
