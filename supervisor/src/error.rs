//! Why the daemon could not be started, reached or kept running.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// The daemon's own failures; those of its domains have enums of their own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{what} must be run as root")]
    NotRoot { what: &'static str },
    #[error("{what} {path}: {cause}")]
    File { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("root directory {root} is held by another supervisor{}", holder(.pid))]
    Held { root: PathBuf, pid: Option<u32> },
    #[error(
        "root directory {root} was last served from another mount namespace, whose mounts cannot \
         be seen from here: start the supervisor where it ran before, or stop its containers there"
    )]
    OtherMountNamespace { root: PathBuf },
    #[error("{what}: {cause}")]
    System { what: &'static str, cause: io::Error },
    #[error("supervisor did not start: {reason}; its log is {log}")]
    DidNotStart { reason: String, log: PathBuf },
    #[error("serve on {address}: {cause}")]
    Serve { address: PathBuf, cause: tonic::transport::Error },
    #[error("open {what}: {cause}")]
    Open { what: &'static str, cause: String },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
