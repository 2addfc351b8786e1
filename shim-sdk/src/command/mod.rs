//! The command line. One program prints its version, starts a server, runs as that server, or
//! cleans up after a dead one.
//!
//! See containerd's `core/runtime/v2/README.md`, "Commands".

pub(crate) mod args;
mod delete;
#[cfg(unix)]
mod endpoint;
#[cfg(windows)]
#[path = "endpoint_windows.rs"]
mod endpoint;
mod handoff;
mod info;
#[cfg(unix)]
mod placement;
mod serve;
#[cfg(unix)]
mod signals;
#[cfg(windows)]
#[path = "signals_windows.rs"]
mod signals;
#[cfg(unix)]
mod start;
#[cfg(windows)]
#[path = "start_windows.rs"]
mod start;
mod start_params;

use std::process::ExitCode;

use crate::{Bundle, ContainerId, Error, Payload, Result, Runtime};
use args::{Action, Args};

/// The role of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Prints its version or its description.
    Describe,
    /// Starts a server and prints its address.
    Start,
    /// Runs as the server.
    Serve,
    /// Cleans up after a server that died.
    Delete,
}

/// The circumstances in which a runtime is made.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The role of this process.
    pub role: Role,
    /// containerd's namespace; empty for [`Role::Describe`].
    pub namespace: String,
    /// The container that the shim is started for, or the group's first.
    pub id: Option<ContainerId>,
    /// The bundle of that container.
    pub bundle: Option<Bundle>,
    /// Runtime options, if `-info` or `start` got them. A server may get those of its `start`, to
    /// prepare; the options of a container are those in its [`Create`](crate::Create).
    pub options: Option<Payload>,
    /// Whether the daemon asked for debug logs.
    pub debug: bool,
}

/// Runs a shim. `main` calls only this.
///
/// `make` makes the runtime. Every role calls it, so it should be cheap: the daemon waits for
/// `start` and `-info`.
pub fn run<R: Runtime>(make: impl FnOnce(&Launch) -> Result<R>) -> ExitCode {
    match act(make) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A shim's only message on stderr: the daemon shows it to the user.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("{}", error.report());
            }
            ExitCode::FAILURE
        }
    }
}

fn act<R: Runtime>(make: impl FnOnce(&Launch) -> Result<R>) -> Result<()> {
    let args = Args::parse(std::env::args_os().skip(1))?;
    let launch = |role, bundle, options| -> Result<Launch> {
        let id = if args.id.is_empty() { None } else { Some(ContainerId::new(args.id.clone())?) };
        Ok(Launch {
            role,
            namespace: args.namespace.clone(),
            id,
            bundle,
            options,
            debug: args.debug,
        })
    };
    match args.action {
        Action::Version => {
            let description = make(&launch(Role::Describe, None, None)?)?.describe();
            print_version(&description);
            Ok(())
        }
        Action::Info => {
            let options = info::options()?;
            let runtime = make(&launch(Role::Describe, None, options.clone())?)?;
            info::print(&runtime.describe(), options)
        }
        Action::Start => {
            let params = start_params::read_params(&args)?;
            let options = params.options.clone();
            let launch = launch(Role::Start, Some(Bundle::new(".")), options)?;
            named(&launch)?;
            start::start(&args, &make(&launch)?, &params)
        }
        Action::Serve => {
            let bundle = delete::absolute(Bundle::new("."));
            let launch = launch(Role::Serve, Some(bundle), endpoint::options_from_start()?)?;
            serve::serve(&args, || make(&launch))
        }
        Action::Delete => {
            signals::ignore_termination()?;
            let bundle = delete::absolute(delete::bundle(&args)?);
            let launch = launch(Role::Delete, Some(bundle.clone()), None)?;
            delete::delete(named(&launch)?, &bundle, make(&launch)?)
        }
    }
}

/// The id, for commands that need one.
fn named(launch: &Launch) -> Result<&ContainerId> {
    launch.id.as_ref().ok_or_else(|| Error::invalid("shim id cannot be empty"))
}

#[allow(clippy::print_stdout)] // containerd reads the version there
fn print_version(description: &crate::Description) {
    let program = std::env::args_os().next().unwrap_or_default();
    println!("{}:", program.to_string_lossy());
    println!("  Version:  {}", description.version);
    println!("  Revision: {}", description.revision);
    println!();
}
