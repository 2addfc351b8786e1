//! `serve`: this process becomes the daemon.

use super::error::CliError;
use crate::config::DaemonConfig;
use crate::daemon::{self, Mode};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Detach from the client that starts this daemon, and leave when idle
    #[arg(long, hide = true)]
    on_demand: bool,
}

pub(crate) fn run(arguments: &Arguments, config: DaemonConfig) -> Result<u8, CliError> {
    daemon::log_to_stderr();
    let mode = if arguments.on_demand { Mode::OnDemand } else { Mode::Stay };
    daemon::serve(config, mode)?;
    Ok(0)
}
