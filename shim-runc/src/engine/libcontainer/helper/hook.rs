//! Hooks that run while a container is being created, told the truth about its bundle.
//!
//! For the time of a create libcontainer knows another bundle (`tailored`). Hooks get the
//! container's state on stdin, and the state names the bundle: so each hook is run by this
//! program, which corrects the state and becomes the hook.
//! See the OCI runtime specification, "POSIX-platform Hooks".

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{Hook, HookBuilder};
use nix::sys::signal::Signal;
use rustix::fs::MemfdFlags;

use super::super::{HOOK_ARGUMENT, sys};

/// This program, seen by whichever process is about to run a hook. It is the helper's protected
/// image, and reachable in the container's mount namespace as well.
const OWN_IMAGE: &str = "/proc/self/exe";

/// The largest state that is passed on.
const STATE_BYTES: u64 = 4 * 1024 * 1024;

/// The hook that runs `hook` with this bundle's path in the state, and with this status where
/// libcontainer has another than the specification.
pub(super) fn wrapped(
    hook: &Hook,
    bundle: &Path,
    status: Option<&str>,
) -> Result<Hook, OciSpecError> {
    let path = hook.path().to_string_lossy().into_owned();
    let mut args = vec![
        "containerd-shim-hook".to_owned(),
        HOOK_ARGUMENT.to_owned(),
        bundle.to_string_lossy().into_owned(),
        status.unwrap_or_default().to_owned(),
        path.clone(),
    ];
    match hook.args() {
        Some(given) if !given.is_empty() => args.extend(given.iter().cloned()),
        _ => args.push(path),
    }
    let mut wrapped = HookBuilder::default().path(OWN_IMAGE).args(args);
    if let Some(env) = hook.env() {
        wrapped = wrapped.env(env.clone());
    }
    if let Some(timeout) = hook.timeout() {
        wrapped = wrapped.timeout(timeout);
    }
    wrapped.build()
}

/// Becomes the hook; `arguments` are those after [`HOOK_ARGUMENT`].
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(bundle), Some(status), Some(path)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return ExitCode::FAILURE;
    };
    let become_hook = || {
        // A helper that is killed at its deadline takes the hook along that it waits for. What the
        // hook leaves to run by itself is not meant.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        correct_state(Path::new(&bundle), &status.to_string_lossy())?;
        // A hook must not inherit what Rust does to its own processes.
        sys::reset_signal(Signal::SIGPIPE)?;
        let path = CString::new(path.into_vec())?;
        let arguments = arguments
            .map(|argument| CString::new(argument.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let Err(error) = nix::unistd::execv(&path, &arguments);
        Err::<(), io::Error>(error.into())
    };
    match become_hook() {
        // libcontainer tells the exit status, which is a shell's for a command not found.
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::NotFound => ExitCode::from(127),
        Err(_) => ExitCode::from(126),
    }
}

/// Puts the corrected state in the place of stdin.
fn correct_state(bundle: &Path, status: &str) -> io::Result<()> {
    let mut text = Vec::new();
    io::stdin().take(STATE_BYTES).read_to_end(&mut text)?;
    let mut state: serde_json::Value = serde_json::from_slice(&text)?;
    if let Some(known) = state.get_mut("bundle") {
        *known = bundle.to_string_lossy().into();
    }
    if !status.is_empty() {
        state["status"] = status.into();
    }
    let mut file = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.rewind()?;
    rustix::stdio::dup2_stdin(&file)?;
    Ok(())
}
