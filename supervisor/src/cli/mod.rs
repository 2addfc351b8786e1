//! The command line: one file for each command. Each is a client of the daemon's gRPC services.
//!
//! Promise: a command that succeeds exits with 0. One that runs a process in the foreground exits
//! with that process's status; 125 is the command line's own failure, 126 a container's command that
//! cannot be executed, 127 one that does not exist. Messages go to standard error, one line each.
//! Text from elsewhere is printed without control characters and up to a limit. A container's output
//! is not changed.
//! A command uses only what a client of containerd can use: the gRPC services, and the mounts that
//! the Snapshots service returns. It does not know the daemon's directories. Exceptions are the start
//! of the daemon ([`crate::daemon`]), the directory of fifos that both have from [`crate::config`],
//! and our own services, which install binaries and check a root directory.

mod attach;
mod check;
mod client;
mod container;
mod error;
mod exec;
#[cfg(test)]
mod fuzz;
mod images;
mod import;
mod install;
mod kill;
mod ps;
mod resolve;
mod rm;
mod rootfs;
mod run;
mod serve;
mod signals;
mod spec;
mod stdio;
mod stream;
mod sys;
mod table;
mod terminal;
mod unfinished;
mod unpack;
mod version;
mod wait;

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::config::{self, DaemonConfig, Flags};
use crate::text::escaped;
use client::Client;
use error::CliError;

/// The limit of an error that is printed.
const ERROR_BYTES: usize = 4096;
/// The limit of a line of a command's output.
const LINE_BYTES: usize = 1 << 16;

/// Runs containers, and serves containerd's API.
#[derive(clap::Parser)]
#[command(name = "supervisor", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Namespace of containers and images
    #[arg(
        short,
        long,
        global = true,
        help_heading = config::GLOBAL_OPTIONS,
        value_name = "NAME",
        default_value = config::DEFAULT_NAMESPACE
    )]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve containerd's API on a unix socket
    Serve(serve::Arguments),
    /// Run a command in a new container
    Run(Box<run::Arguments>),
    /// List containers
    Ps(ps::Arguments),
    /// Run another command in a running container
    Exec(exec::Arguments),
    /// Send a signal to containers
    Kill(kill::Arguments),
    /// Remove containers
    Rm(rm::Arguments),
    /// Wait until containers stop, and print their exit statuses
    Wait(wait::Arguments),
    /// List or remove images
    Images(images::Arguments),
    /// Import images from an OCI or docker archive
    Import(import::Arguments),
    /// Install the binaries of an image
    Install(install::Arguments),
    /// Remove the binaries that an image installed
    Uninstall(install::UninstallArguments),
    /// Return to the binaries before the last install or uninstall
    Rollback,
    /// Compare the stored data with its records, and repair it
    Check(check::Arguments),
    /// Show the versions of this program and of the daemon
    Version,
}

/// The part of the command line that all commands share.
pub(crate) struct Context {
    pub(crate) config: DaemonConfig,
    pub(crate) namespace: String,
}

impl Context {
    /// Connects. Starts the daemon if none listens.
    async fn client(self) -> Result<Client, CliError> {
        Client::connect(self.config, &self.namespace).await
    }
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            // It quotes arguments, which may hold control characters.
            for line in error.render().to_string().lines() {
                let _ = writeln!(std::io::stderr(), "{}", escaped(line, ERROR_BYTES));
            }
            return ExitCode::from(error::OWN_FAILURE);
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome =
        DaemonConfig::resolve(&arguments.flags).map_err(CliError::from).and_then(|config| {
            let context = Context { config, namespace: arguments.namespace };
            dispatch(arguments.command, context)
        });
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command, context: Context) -> Result<u8, CliError> {
    if let Command::Serve(arguments) = command {
        return serve::run(&arguments, context.config);
    }
    let default = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(default)
        .format(|line, record| {
            let text = record.args().to_string();
            writeln!(line, "[{:<5}] {}", record.level(), escaped(&text, ERROR_BYTES))
        })
        .init();
    match command {
        Command::Serve(_) => Ok(0), // done above
        Command::Run(arguments) => block_on(run::run(*arguments, context)),
        Command::Ps(arguments) => block_on(ps::run(arguments, context)),
        Command::Exec(arguments) => block_on(exec::run(arguments, context)),
        Command::Kill(arguments) => block_on(kill::run(arguments, context)),
        Command::Rm(arguments) => block_on(rm::run(arguments, context)),
        Command::Wait(arguments) => block_on(wait::run(arguments, context)),
        Command::Images(arguments) => block_on(images::run(arguments, context)),
        Command::Import(arguments) => block_on(import::run(arguments, context)),
        Command::Install(arguments) => block_on(install::run(arguments, context)),
        Command::Uninstall(arguments) => block_on(install::uninstall(arguments, context)),
        Command::Rollback => block_on(install::rollback(context)),
        Command::Check(arguments) => block_on(check::run(arguments, context)),
        Command::Version => block_on(version::run(context)),
    }
}

fn block_on(command: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| CliError::io("start the asynchronous runtime", cause))?;
    let outcome = runtime.block_on(command);
    // Does not wait for tasks that still run.
    runtime.shutdown_background();
    outcome
}

/// Prints an error.
fn complain(error: &CliError) {
    let error = error.report();
    let _ = writeln!(std::io::stderr(), "supervisor: {}", escaped(&error, ERROR_BYTES));
}

/// Prints a line. Names in it come from archives and from other clients, so control characters are
/// escaped. A failure to write is ignored: the reader has closed the pipe.
fn say(line: impl std::fmt::Display) {
    let line = line.to_string();
    let _ = writeln!(std::io::stdout(), "{}", escaped(&line, LINE_BYTES));
}

/// Calls `act` for each name. With several names, a failure is printed when it happens.
async fn for_each<F, T>(names: &[String], act: F) -> Result<u8, CliError>
where
    F: Fn(String) -> T,
    T: Future<Output = Result<(), CliError>>,
{
    let mut failed = 0;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            if names.len() == 1 {
                return Err(error);
            }
            complain(&error);
            failed += 1;
        }
    }
    if failed > 0 { Err(CliError::Several { failed, all: names.len() }) } else { Ok(0) }
}

/// Random bytes in hexadecimal, for generated names.
fn random_hex(bytes: usize) -> Result<String, CliError> {
    let mut random = vec![0; bytes];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(|cause| CliError::io("read /dev/urandom", cause))?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn help_shows_the_global_options_last_and_under_their_own_heading() {
        let mut command = Arguments::command();
        command.build();
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help")
        {
            let help = command.render_long_help().to_string();
            let (own, global) = help
                .split_once(&format!("{}:\n", config::GLOBAL_OPTIONS))
                .unwrap_or_else(|| panic!("{} has no global options", command.get_name()));
            assert!(own.contains("--help"), "its own options come first: {help}");
            for option in ["--root", "--state", "--address", "--config", "--opt", "--namespace"] {
                assert!(global.contains(option) && !own.contains(option), "{option}: {help}");
            }
        }
    }
}
