//! Write a containerd shim by writing a few methods.
//!
//! A *shim* is the process that containerd starts for a container (or a pod's group of them), and
//! that keeps the container when containerd restarts. Implement [`Runtime`] and call [`run`] from
//! `main`: the result is a shim that containerd 1.6 to 2.x can drive. What every shim must get right
//! is done here, once: the command line and the start-up dialects of every containerd, the task
//! service, the table of processes and which request is valid when, standard streams, exits and the
//! order of events, the journal, and cleaning up after a crash.
//!
//! # Terms
//!
//! - *daemon*: containerd, or whatever else starts the shim; *client*: whoever calls its task
//!   service, mostly the daemon.
//! - *bundle*: the directory that holds a container's `config.json` (an OCI runtime spec) and its
//!   `rootfs`.
//! - *container*: what [`Runtime::create`] made from a bundle, until [`Runtime::delete`].
//! - *process*: the container's *init*, or an *exec*, a further process inside it.
//! - *pid*: a process as the host numbers it ([`Pid`]); a [`ProcessHandle`] cannot come to mean
//!   another process.
//! - *exit*: a status as a shell has it (128 and the signal's number after a signal) and a time
//!   ([`Exit`]).
//! - *streams*: what a process reads and writes ([`Io`]); the SDK copies between them and the
//!   places that the client named.
//! - *journal*: what the shim has written down in the bundle, for the day it is killed
//!   ([`Journal`]).
//! - *group*: the containers that share one shim, such as those of a Kubernetes pod.
//!
//! # A whole shim
//!
//! A program of the name `containerd-shim-NAME-VN` is the runtime `io.containerd.NAME.VN`: put it on
//! containerd's PATH, or name its path. This one, `examples/skeleton_shim`, runs a container as a
//! plain process of the host:
//!
//! ```no_run
#![doc = include_str!("../../examples/skeleton_shim/main.rs")]
//! ```
//!
//! Its `Cargo.toml` needs `shim-sdk` and `oci-spec`, and nothing else. Try it with
//! `ctr run --rm --runtime /path/to/containerd-shim-skeleton-v1 IMAGE NAME COMMAND`, and check it
//! against the whole contract (`CONTRACT.md` in this crate's folder) with this repository's
//! `shimcheck`, which needs no containerd.
//!
//! # What happens when
//!
//! The client's request, the state it is valid in, the method that does it, and the event that tells
//! of it. In another state the SDK refuses it, in containerd's words, before a method is called.
//!
//! | Request | Valid | Method | Event |
//! |---|---|---|---|
//! | Create | the id is free | [`create`](Runtime::create) | create |
//! | Start | created | [`start`](Runtime::start) | start |
//! | Exec | created, running | none: it is noted down | exec-added |
//! | Start of an exec | the same, once for an exec | [`exec`](Runtime::exec) | exec-started |
//! | Kill | created, running, paused | [`signal`](Runtime::signal), for all [`signal_all`](Runtime::signal_all) | |
//! | Pause, Resume | running, paused | [`pause`](Runtime::pause), [`resume`](Runtime::resume) | paused, resumed |
//! | Update | created, running, paused | [`update`](Runtime::update) | |
//! | Checkpoint | running, paused | [`checkpoint`](Runtime::checkpoint) | |
//! | Pids, Stats | created to stopped | [`pids`](Runtime::pids), [`stats`](Runtime::stats) | |
//! | State, Wait, Connect, ResizePty, CloseIO | any | none | |
//! | Delete | created (init is killed first), stopped | [`delete`](Runtime::delete) | delete |
//! | Delete of an exec | not started, ended | none | |
//! | Shutdown | no container is left | none: the shim leaves | |
//! | init ends | | [`init_exited`](Runtime::init_exited) | exit, after those of its execs |
//! | `delete` on the command line | the shim is dead | [`clean_up`](Runtime::clean_up) | none: the daemon tells |
//!
//! A created container takes execs before its init runs. Requests of one container may overlap as
//! far as this table lets them: a Kill during a Start, two execs at once. Those that change the same
//! state do not: two Starts, or a Delete and a Start, never reach the runtime together.
//!
//! # Errors
//!
//! A method answers an [`Error`]: a [`Kind`], which becomes the status code of the same name (the
//! client tells NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED and UNAVAILABLE
//! apart), and a message for the user, with its causes. A failed method leaves things as they were
//! before it; then the request may be made again. A method that a runtime lacks is left out: its
//! request is answered UNIMPLEMENTED, and `-info` does not promise it
//! ([`Description::capabilities`]).
//!
//! # Time and threads
//!
//! Methods run on the shim's one thread, several at once, with no lock around them; so a method
//! must not block: what takes long runs in a helper ([`spawn`](crate::spawn())) or on
//! `tokio::task::spawn_blocking`. None is dropped half way: a client's deadline ends the client's
//! waiting, not the method. Limits of their own have only [`init_exited`](Runtime::init_exited)
//! (10 s), [`pids`](Runtime::pids) (1 s) and [`clean_up`](Runtime::clean_up) (4.5 s, since the
//! daemon waits 5). Containers may be made in one shim side by
//! side; keep what belongs to one in [`Runtime::Container`].
//!
//! The server is a session of its own and, where the host allows it, has a niceness 10 below the one
//! that it came with, so that it answers while runtimes keep every processor busy. What
//! [`spawn`](crate::spawn()) and [`spawn_process`] start has the niceness that the server came with,
//! and is a session of its own, too.
//!
//! # Processes
//!
//! The SDK is the parent and the reaper of everything that the shim starts, and the subreaper of
//! what those leave behind. A runtime answers with pids and never waits for them: exits reach the
//! SDK by the pid, also one that came before the method had answered. Use [`spawn_process`] for a
//! container's process and [`spawn`](crate::spawn()) for a helper; a second reaper
//! (`std::process::Child::wait`, `tokio::process`) would find nothing.
//!
//! # When the shim is killed
//!
//! The daemon runs the shim's binary as `delete` in the bundle. The SDK kills the init that the
//! journal knows, calls [`clean_up`](Runtime::clean_up), unmounts the root file system, removes the
//! socket, and answers with the exit that the journal knows, or 137.
//!
//! # Logging
//!
//! The macros of the `log` crate go to the daemon's log, from `info` up, with `-debug` from `debug`
//! up; logging never blocks. Nothing else may be written to standard output.
//!
//! # Platforms
//!
//! Linux is what all of this is written for. For Windows the SDK compiles, with the same traits: the
//! task service on a named pipe, processes by their handles, the client's pipes as streams. Mounts,
//! terminals, loggers, signals that do not end a process, and the option ShimCgroup answer
//! UNIMPLEMENTED there; nothing of it has been run yet.
//!
//! Without the feature `serve` the crate has only what a shim and a daemon must agree on.

pub mod address;
pub mod bundle;
pub mod error;
mod exit;
pub mod file;
pub mod group;
mod id;
pub mod journal;
mod kind;
pub mod mount;
mod process;
pub mod shim_path;
mod signal;
mod sys;

#[cfg(feature = "serve")]
mod command;
#[cfg(feature = "serve")]
mod event;
#[cfg(feature = "serve")]
mod log_fifo;
#[cfg(feature = "serve")]
pub mod messages;
#[cfg(feature = "serve")]
mod notifier;
#[cfg(feature = "serve")]
mod reaper;
#[cfg(feature = "serve")]
pub mod runtime;
#[cfg(feature = "serve")]
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
pub use signal::Signal;

#[cfg(all(feature = "serve", unix))]
pub use spawn::{Child, Output, spawn, spawn_now};
#[cfg(feature = "serve")]
pub use {
    command::{Launch, Role, run},
    notifier::Notifier,
    runtime::{Capabilities, Checkpoint, Create, Created, Description, Exec, Payload, Runtime},
    spawn::{Program, spawn_process},
    stdio::{Io, Stream, Streams},
};
