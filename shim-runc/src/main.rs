//! `containerd-shim-runc-v2` and, under its other name, `containerd-shim-youki-v1`.

mod cgroup;
mod checkpoint;
mod container;
mod create_lock;
mod engine;
mod error;
#[cfg(test)]
mod fuzz;
mod mount_info;
mod oom;
mod options;
mod process_tree;
mod shim;
mod spec;
mod stats;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = engine::libcontainer::run_internal() {
        return code;
    }
    let argv0 = std::env::args_os().next().unwrap_or_default();
    shim_sdk::run(|launch| shim::Shim::new(&argv0, launch))
}
