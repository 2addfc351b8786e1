//! The command line.

use std::process::ExitCode;

use clap::Parser as _;

use crate::config::{DaemonConfig, Flags};
use crate::daemon::{self, Mode};

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve containerd's API on a unix socket
    Serve {
        /// Detach from the client that starts this daemon, and leave when idle
        #[arg(long, hide = true)]
        on_demand: bool,
    },
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Command::Serve { on_demand } = arguments.command;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mode = if on_demand { Mode::OnDemand } else { Mode::Stay };
    let served = DaemonConfig::resolve(&arguments.flags)
        .map_err(Into::into)
        .and_then(|config| daemon::serve(config, mode));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("supervisor: {error}\n"),
            );
            ExitCode::from(125)
        }
    }
}
