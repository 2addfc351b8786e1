//! `start`: spawns a server, waits until it listens, prints the address.
//!
//! A listening pipe cannot be passed to another process, so the server makes it. Its name is
//! printed when the server answers there.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::args::Args;
use super::handoff::SOCKET_ENV;
use super::start_params::annotations;
use crate::wire::bootstrap::{self, StartParams};
use crate::{Bundle, Error, Kind, Result, Runtime, address};

/// How long a server may take until it listens.
const READY: Duration = Duration::from_secs(5);
/// How often to check.
const LOOK: Duration = Duration::from_millis(5);

/// DETACHED_PROCESS and CREATE_NEW_PROCESS_GROUP of CreateProcess: the server has no console, and
/// the daemon's Ctrl-C does not reach it.
const DETACHED: u32 = 0x0000_0008 | 0x0000_0200;

/// ERROR_PIPE_BUSY: a process serves the pipe, and has no instance free now.
const PIPE_BUSY: i32 = 231;

/// Answers `start`.
pub(crate) fn start<R: Runtime>(args: &Args, runtime: &R, params: &StartParams) -> Result<()> {
    if params.shim_cgroup().is_some() {
        return Err(Error::unimplemented("the option ShimCgroup on Windows"));
    }
    let group = runtime.group(&annotations(&Bundle::new("."))?);
    let name = group.as_deref().unwrap_or(&args.id);
    let pipe = address::pipe(&args.address, &args.namespace, name);
    let spawned = if is_served(&pipe) { None } else { Some(spawn_server(args, params, &pipe)?) };
    if let Some(mut server) = spawned {
        wait_until_served(&mut server, &pipe)?;
    }
    let answer = bootstrap::answer(params.structured, &pipe)?;
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(&answer).and_then(|()| stdout.flush());
    printed.map_err(|cause| Error::io("print the address", cause))
}

/// Whether a process listens.
fn is_served(pipe: &str) -> bool {
    match OpenOptions::new().read(true).write(true).open(pipe) {
        Ok(_) => true,
        Err(cause) => cause.raw_os_error() == Some(PIPE_BUSY),
    }
}

fn spawn_server(args: &Args, params: &StartParams, pipe: &str) -> Result<Child> {
    let program = std::env::current_exe();
    let program = program.map_err(|cause| Error::io("find this program's file", cause))?;
    let mut command = Command::new(program);
    command.args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]);
    if args.debug || params.debug {
        command.arg("-debug");
    }
    command.env(SOCKET_ENV, pipe);
    if let Some(events) = &params.events_address {
        command.env("TTRPC_ADDRESS", events);
    }
    if let Some(grpc) = &params.grpc_address {
        command.env("GRPC_ADDRESS", grpc);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.creation_flags(DETACHED);
    command.spawn().map_err(|cause| Error::io("spawn the server", cause))
}

/// Waits until the server answers. It is an error if the server ends or takes too long; then it is
/// killed.
fn wait_until_served(server: &mut Child, pipe: &str) -> Result<()> {
    let begin = Instant::now();
    while !is_served(pipe) {
        let ended = server.try_wait().map_err(|cause| Error::io("wait for the server", cause))?;
        if let Some(status) = ended {
            // Another server of the group may have taken the name first.
            if is_served(pipe) {
                return Ok(());
            }
            return Err(Error::new(Kind::Unavailable, format!("the server ended: {status}")));
        }
        if begin.elapsed() > READY {
            // It may have ended by itself.
            let _ = server.kill();
            let text = format!("the server does not listen at {pipe} within {READY:?}");
            return Err(Error::new(Kind::DeadlineExceeded, text));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
