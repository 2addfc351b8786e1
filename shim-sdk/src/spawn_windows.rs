//! Processes that a runtime makes; the SDK learns their exits from their handles.

use std::os::windows::io::OwnedHandle;
use std::process::Command;

use crate::process::keep;
use crate::{Error, Kind, Pid, Result};

/// Spawns the process of a container; the SDK learns its exit from the pid that the runtime
/// answers with. It outlives the shim if that is killed; `delete` ends what is in the journal.
pub fn spawn_process(command: &mut Command) -> Result<Pid> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|cause| Error::io(format!("spawn {name}"), cause))?;
    let pid = Pid::new(child.id())
        .ok_or_else(|| Error::new(Kind::Internal, format!("spawn {name}: no pid")))?;
    keep(pid, OwnedHandle::from(child));
    Ok(pid)
}
