//! Write a containerd shim by writing a few methods.
//!
//! Implement [`Runtime`] and call [`run`] from `main`: the result is a shim that containerd 1.6 to
//! 2.x can drive. What every shim must get right is done here, once: the command line and the
//! start-up dialects of every containerd, the task service, the table of processes and which
//! request is valid when, standard streams, exits and the order of events, the journal, and
//! cleaning up after a crash.
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
#[cfg(unix)]
mod sys;

#[cfg(feature = "serve")]
mod command;
#[cfg(feature = "serve")]
mod event;
#[cfg(all(feature = "serve", unix))]
mod log_fifo;
#[cfg(feature = "serve")]
mod notifier;
#[cfg(all(feature = "serve", unix))]
mod reaper;
#[cfg(feature = "serve")]
pub mod runtime;
#[cfg(all(feature = "serve", unix))]
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
#[cfg(all(feature = "serve", unix))]
pub use spawn::{Child, Output, spawn, spawn_process};
#[cfg(feature = "serve")]
pub use stdio::{Io, Stream, Streams};
