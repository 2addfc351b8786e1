//! Write a containerd shim by writing a few methods.
//!
//! Implement [`Runtime`] and call [`run`] from `main`: the result is a shim that containerd 1.6 to
//! 2.x can drive. What every shim must get right is done here, once: the command line and the
//! start-up dialects of every containerd, the task service, the table of processes and which
//! request is valid when, standard streams, exits and the order of events, the journal, and
//! cleaning up after a crash.
//!
//! Linux is what all of this is written for. For Windows the SDK compiles, with the same traits: the
//! task service on a named pipe, processes by their handles, the client's pipes as streams. Mounts,
//! terminals, loggers, signals that do not end a process, and the option ShimCgroup answer
//! UNIMPLEMENTED there; nothing of it has been run yet.
//!
//! Without the `serve` feature only that is built which both ends of the protocol must agree on.
#![cfg_attr(not(feature = "serve"), allow(dead_code))]

pub mod address;
pub mod bundle;
pub mod error;
mod exit;
pub mod group;
mod id;
pub mod journal;
mod kind;
pub mod mount;
mod process;
pub mod resolve;
mod signal;
mod sys;

#[cfg(feature = "serve")]
mod command;
#[cfg(feature = "serve")]
mod event;
#[cfg(feature = "serve")]
mod log_fifo;
#[cfg(feature = "serve")]
mod notifier;
#[cfg(all(feature = "serve", unix))]
mod reaper;
#[cfg(all(feature = "serve", windows))]
#[path = "reaper_windows.rs"]
mod reaper;
#[cfg(feature = "serve")]
pub mod runtime;
#[cfg(all(feature = "serve", unix))]
pub mod spawn;
#[cfg(all(feature = "serve", windows))]
#[path = "spawn_windows.rs"]
pub mod spawn;
#[cfg(feature = "serve")]
pub mod stdio;
#[cfg(feature = "serve")]
mod wire;

pub use bundle::Bundle;
pub use error::{Error, Result};
pub use exit::Exit;
pub use id::{ContainerId, ExecId, Pid, is_identifier};
pub use journal::Journal;
pub use kind::Kind;
pub use mount::Mount;
pub use process::ProcessHandle;
pub use resolve::resolve;
pub use signal::Signal;

#[cfg(feature = "serve")]
pub use command::{Launch, Role, run};
#[cfg(feature = "serve")]
pub use notifier::Notifier;
#[cfg(feature = "serve")]
pub use runtime::{Capabilities, Checkpoint, Create, Created, Description, Exec, Payload, Runtime};
#[cfg(feature = "serve")]
pub use spawn::spawn_process;
#[cfg(all(feature = "serve", unix))]
pub use spawn::{Child, Output, spawn};
#[cfg(feature = "serve")]
pub use stdio::{Io, Stream, Streams};
