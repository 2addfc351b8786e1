//! The supervisor: containerd's gRPC API over shims, and the command line that speaks it.
//!
//! One binary. `supervisor serve` is the daemon ([`daemon`]); every other command ([`cli`]) is a
//! client of its socket and starts it when nothing listens.

mod any;
mod api;
mod check;
mod cli;
mod config;
mod container;
mod content;
mod creator;
mod daemon;
mod domain;
mod error;
mod events;
mod gc;
mod image;
mod install;
mod lease;
mod metadata;
mod namespace;
mod quarantine;
mod snapshot;
mod task;
mod text;
mod transfer;

fn main() -> std::process::ExitCode {
    cli::main()
}
