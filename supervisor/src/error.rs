//! Why the daemon could not be started, reached or kept running.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::text::{QUOTED_BYTES, escaped};

/// The daemon's own failures; those of its domains have enums of their own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{what} must be run as root")]
    NotRoot { what: &'static str },
    #[error("{what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "directory {path} has things of others in it ({}): choose a directory of its own for the \
         supervisor", escaped(&.other.to_string_lossy(), QUOTED_BYTES)
    )]
    Foreign { path: PathBuf, other: std::ffi::OsString },
    #[error(
        "the supervisor at {address} serves {}, not the root directory {root}: give the --root \
         or the --address of the one that is meant", named(.served)
    )]
    OtherRoot { address: PathBuf, root: PathBuf, served: Option<PathBuf> },
    #[error(
        "the supervisor at {address} takes no connection or does not answer: waited {seconds} s; \
         it may be stopped or hang (its pid is in {lock})"
    )]
    Silent { address: PathBuf, lock: PathBuf, seconds: u64 },
    #[error("root directory {root} is held by another supervisor{}", holder(.pid))]
    Held { root: PathBuf, pid: Option<u32> },
    #[error(
        "root directory {root} was last served from another mount namespace, whose mounts cannot \
         be seen from here: start the supervisor where it ran before, or stop its containers there"
    )]
    OtherMountNamespace { root: PathBuf },
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("supervisor did not start: {reason}; its log is {log}")]
    DidNotStart { reason: String, log: PathBuf },
    #[error("serve on {address}")]
    Serve {
        address: PathBuf,
        #[source]
        cause: tonic::transport::Error,
    },
    /// A store that was found damaged, or could not be read.
    #[error("open {what}")]
    Open {
        what: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn named(root: &Option<PathBuf>) -> String {
    match root {
        Some(root) => format!("the root directory {}", root.display()),
        None => "a root directory that it does not name".to_owned(),
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
