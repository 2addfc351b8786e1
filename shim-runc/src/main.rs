//! `containerd-shim-runc-v2` and, under its other name, `containerd-shim-youki-v1`.

mod cgroup;
mod checkpoint;
mod container;
mod engine;
mod error;
mod oom;
mod options;
mod shim;
mod stats;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_default();
    if args.next().is_some_and(|argument| argument == engine::libcontainer::HELPER_ARGUMENT) {
        return engine::libcontainer::run_helper();
    }
    shim_sdk::run(|launch| shim::Shim::new(&argv0, launch))
}
