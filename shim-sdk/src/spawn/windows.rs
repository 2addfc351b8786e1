//! Processes of containers. The SDK waits for them by their handles.

use std::os::windows::io::OwnedHandle;
use std::process::{Command, Stdio};

use super::program::{Executable, OutputMode};
use crate::process::keep;
use crate::{Error, Kind, Pid, Program, Result};

/// Spawns the process of a container. The SDK watches the pid that the runtime returns. The process
/// survives a killed shim; `delete` ends the processes in the journal.
pub async fn spawn_process(program: Program) -> Result<Pid> {
    let name = program.name();
    let spawned = command(program).spawn();
    let child = spawned.map_err(|cause| Error::io(format!("spawn {name}"), cause))?;
    let pid = Pid::new(child.id())
        .ok_or_else(|| Error::new(Kind::Internal, format!("spawn {name}: no pid")))?;
    keep(pid, OwnedHandle::from(child));
    Ok(pid)
}

fn command(program: Program) -> Command {
    let Executable::Named(name) = program.executable;
    let mut command = Command::new(name);
    command.args(program.arguments);
    if program.bare {
        command.env_clear();
    }
    for (name, value) in program.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = program.directory {
        command.current_dir(directory);
    }
    let output = |output: OutputMode| match output {
        OutputMode::Null | OutputMode::Captured => Stdio::null(),
        OutputMode::Given(stream) => Stdio::from(stream),
    };
    command.stdin(program.stdin.map_or_else(Stdio::null, Stdio::from));
    command.stdout(output(program.stdout)).stderr(output(program.stderr));
    command
}
