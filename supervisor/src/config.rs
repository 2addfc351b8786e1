//! Where the daemon keeps things and how it behaves: flags over the configuration file over
//! defaults.
//!
//! Promise: the daemon and every client that is given the same flags arrive at the same paths, so
//! that they meet; a key that is not known is an error that names the nearest known one.
//! The file is TOML at [`FILE`]; `[plugins.opt] path` and `[proxy_plugins.NAME]` mean what they
//! mean in containerd.

mod file;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

pub(crate) use file::ProxyPlugin;

/// The configuration file that is read when no other is named; it may be absent.
pub(crate) const FILE: &str = "/etc/supervisor/config.toml";
/// What must survive a reboot.
pub(crate) const ROOT: &str = "/var/lib/supervisor";
/// What must not.
pub(crate) const STATE: &str = "/run/supervisor";
/// Where installed binaries are shown.
pub(crate) const OPT: &str = "/opt/containerd";
/// How long a daemon that was started on demand stays without clients.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The namespace of a client that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// The directory of our clients' fifos, below the state directory.
pub(crate) const FIFO_DIRECTORY: &str = "fifo";

/// A unix socket's path has at most this many bytes.
const SOCKET_PATH_BYTES: usize = 107;

/// The heading of the options that every command has, below the command's own.
pub(crate) const GLOBAL_OPTIONS: &str = "Global options";

/// The flags that every command shares, and that decide which daemon it speaks to.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// Directory of everything that survives a reboot [default: /var/lib/supervisor]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of sockets, bundles and fifos [default: /run/supervisor, with a suffix when --root is given]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The daemon's socket [default: supervisor.sock in the state directory]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "SOCKET")]
    pub(crate) address: Option<PathBuf>,
    /// Configuration file [default: /etc/supervisor/config.toml, if there]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of installed binaries [default: /opt/containerd]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "DIR")]
    pub(crate) opt: Option<PathBuf>,
    /// Seconds without clients after which a daemon started on demand leaves [default: 60]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "SECONDS")]
    pub(crate) idle_timeout: Option<u64>,
}

/// Everything decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DaemonConfig {
    /// Survives a reboot: metadata, content, snapshots.
    pub(crate) root: PathBuf,
    /// Does not: sockets, bundles, fifos.
    pub(crate) state: PathBuf,
    /// The gRPC socket.
    pub(crate) address: PathBuf,
    /// The managed directory of installed binaries.
    pub(crate) opt: PathBuf,
    /// Plugins outside this process, by name.
    pub(crate) proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// How long a daemon that was started on demand stays without clients.
    pub(crate) idle_timeout: Duration,
    /// The file that was named by a flag, to be named to a daemon started on demand too.
    file: Option<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("parse configuration {path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("{path}: unknown key {key}{}", nearest(.near))]
    UnknownKey { path: PathBuf, key: String, near: Option<String> },
    #[error("{path}: {key} must be {want}")]
    WrongType { path: PathBuf, key: String, want: &'static str },
    #[error("resolve directory {path}")]
    Resolve {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "socket path {path} has {bytes} bytes, a unix socket takes {SOCKET_PATH_BYTES}: choose a \
         shorter --state or --address"
    )]
    SocketPath { path: PathBuf, bytes: usize },
}

fn nearest(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!(", did you mean {near}?")).unwrap_or_default()
}

impl DaemonConfig {
    /// Decides everything from the flags, the file and the defaults, in that order.
    pub(crate) fn resolve(flags: &Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => file::read(path)?,
            None => file::read_if_there(Path::new(FILE))?,
        };
        let named_root = flags.root.clone().or(file.root);
        let root = canonical(named_root.as_deref().unwrap_or(Path::new(ROOT)))?;
        let state = match flags.state.clone().or(file.state) {
            Some(state) => canonical(&state)?,
            None => default_state(&root),
        };
        let address = match flags.address.clone().or(file.address) {
            Some(address) => absolute(strip_scheme(&address))?,
            None => state.join("supervisor.sock"),
        };
        let bytes = address.as_os_str().len().max(event_address(&state).as_os_str().len());
        if bytes > SOCKET_PATH_BYTES {
            return Err(ConfigError::SocketPath { path: address, bytes });
        }
        let opt = absolute(&flags.opt.clone().or(file.opt).unwrap_or_else(|| OPT.into()))?;
        let idle = flags.idle_timeout.map(Duration::from_secs).or(file.idle_timeout);
        Ok(Self {
            root,
            state,
            address,
            opt,
            proxy_plugins: file.proxy_plugins,
            idle_timeout: idle.unwrap_or(IDLE_TIMEOUT),
            file: flags.config.as_deref().map(absolute).transpose()?,
        })
    }

    /// The socket on which shims deliver events: the same for a root and state as long as they are.
    pub(crate) fn event_address(&self) -> PathBuf {
        event_address(&self.state)
    }

    /// Where our clients make the fifos of processes in the foreground. The daemon removes those of
    /// clients that are gone.
    pub(crate) fn fifo_directory(&self) -> PathBuf {
        fifo_directory(&self.state)
    }

    /// The directory that a runtime started by our clients keeps its records in. It is below the
    /// state directory, so that daemons with different roots do not share a runtime's records.
    pub(crate) fn runtime_root(&self, runtime: &str) -> PathBuf {
        self.state.join(runtime)
    }

    /// The command line of a daemon that arrives at this same configuration.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: &Path| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        flag("--root", &self.root);
        flag("--state", &self.state);
        flag("--address", &self.address);
        flag("--opt", &self.opt);
        if let Some(file) = &self.file {
            flag("--config", file);
        }
        flag("--idle-timeout", Path::new(&self.idle_timeout.as_secs().to_string()));
        arguments
    }
}

/// See [`DaemonConfig::fifo_directory`].
pub(crate) fn fifo_directory(state: &Path) -> PathBuf {
    state.join(FIFO_DIRECTORY)
}

fn event_address(state: &Path) -> PathBuf {
    state.join("supervisor.sock.ttrpc")
}

/// Roots other than the default one have a state directory each.
fn default_state(root: &Path) -> PathBuf {
    if root == Path::new(ROOT) {
        return STATE.into();
    }
    let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("{STATE}-{}", hex::encode(&hash[..6])))
}

/// Clients write addresses with and without a scheme.
fn strip_scheme(address: &Path) -> &Path {
    address.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(address, Path::new)
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|cause| ConfigError::Resolve { path: path.to_owned(), cause })
}

/// The path with every link resolved as far as it exists; what does not exist yet is kept as it is,
/// so that a root has the same name before and after it is made.
fn canonical(path: &Path) -> Result<PathBuf, ConfigError> {
    let whole = absolute(path)?;
    let mut existing = whole.as_path();
    let mut rest = Vec::new();
    loop {
        match existing.canonicalize() {
            Ok(mut resolved) => {
                resolved.extend(rest.into_iter().rev());
                return Ok(resolved);
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let Some(Component::Normal(name)) = existing.components().next_back() else {
                    return Err(ConfigError::Resolve { path: whole, cause });
                };
                rest.push(name);
                existing = existing.parent().unwrap_or(Path::new("/"));
            }
            Err(cause) => return Err(ConfigError::Resolve { path: whole, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(root: &str) -> Flags {
        Flags { root: Some(root.into()), config: Some("/dev/null".into()), ..Flags::default() }
    }

    #[test]
    fn a_root_of_ones_own_has_a_state_directory_of_its_own() {
        let one = DaemonConfig::resolve(&flags("/nonexistent/one")).unwrap();
        let two = DaemonConfig::resolve(&flags("/nonexistent/two")).unwrap();
        assert!(one.state.to_str().unwrap().starts_with("/run/supervisor-"));
        assert_ne!(one.state, two.state);
        assert_eq!(one.address, one.state.join("supervisor.sock"));
        let usual = DaemonConfig::resolve(&flags(ROOT)).unwrap();
        assert_eq!(usual.state, Path::new(STATE));
    }

    #[test]
    fn a_root_has_one_name_before_and_after_it_is_made_and_through_links() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        let before = DaemonConfig::resolve(&flags(root.to_str().unwrap())).unwrap();
        std::fs::create_dir(&root).unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        let after = DaemonConfig::resolve(&flags(link.to_str().unwrap())).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn the_arguments_lead_to_the_same_configuration() {
        let config = DaemonConfig::resolve(&Flags {
            state: Some("/nonexistent/state".into()),
            opt: Some("/nonexistent/opt".into()),
            idle_timeout: Some(3),
            ..flags("/nonexistent/root")
        })
        .unwrap();
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            flags: Flags,
        }
        let arguments = [OsString::from("supervisor")].into_iter().chain(config.arguments());
        let flags = Command::parse_from(arguments).flags;
        assert_eq!(DaemonConfig::resolve(&flags).unwrap(), config);
    }

    #[test]
    fn a_socket_path_that_the_kernel_refuses_is_refused_first() {
        let long = format!("/{}", "x".repeat(120));
        let error = DaemonConfig::resolve(&Flags { state: Some(long.into()), ..flags("/r") });
        assert!(matches!(error, Err(ConfigError::SocketPath { .. })));
    }
}
