//! What `run` is asked for.

use std::path::PathBuf;

use oci_spec::runtime::Mount;

use crate::cli::spec::{self, Network};

const RUNTIME: &str = "io.containerd.youki.v1";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Remove the container when it exits
    #[arg(long, conflicts_with = "detach")]
    pub(super) rm: bool,
    /// Leave the container running and print its id
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
    pub(super) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long, conflicts_with = "detach")]
    pub(super) tty: bool,
    /// Id of the container [default: random]
    #[arg(long, visible_alias = "id")]
    pub(super) name: Option<String>,
    /// Runtime, by name or absolute path
    #[arg(long, default_value = RUNTIME)]
    pub(super) runtime: String,
    /// Set a variable, or take it from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", visible_alias = "cwd")]
    pub(super) workdir: Option<PathBuf>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Replace the image's entrypoint (and drop its command)
    #[arg(long, value_name = "COMMAND")]
    pub(super) entrypoint: Option<String>,
    /// Mount something, as type=bind,src=SOURCE,dst=DESTINATION,options=rbind:ro
    #[arg(long = "mount", value_name = "SPEC", value_parser = spec::parse_mount)]
    pub(super) mounts: Vec<Mount>,
    /// Bind a directory or file of the host
    #[arg(
        short,
        long = "volume",
        value_name = "SOURCE:DESTINATION[:OPTIONS]",
        value_parser = spec::parse_volume
    )]
    pub(super) volumes: Vec<Mount>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(super) read_only: bool,
    /// Host name of the container [default: its id]
    #[arg(long)]
    pub(super) hostname: Option<String>,
    /// Network
    #[arg(long, visible_alias = "network", value_enum, default_value_t = Network::None)]
    pub(super) net: Network,
    /// Where a detached container's output goes: file://PATH or binary://PATH
    #[arg(long, value_name = "URI", requires = "detach")]
    pub(super) log_uri: Option<String>,
    /// Image, by name, or an OCI or docker archive
    pub(super) image: String,
    /// Command and arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) args: Vec<String>,
}
