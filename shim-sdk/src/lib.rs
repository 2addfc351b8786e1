//! Write a containerd shim by writing a few methods.
//!
//! A *shim* is the process that containerd starts for a container, or for the containers of a pod.
//! It keeps them while containerd restarts. Implement [`Runtime`] and call [`run`] from `main`: the
//! result is a shim for containerd 1.6 to 2.x. The SDK does what every shim must do: the command
//! line and the start-up formats of every containerd, the task service, the table of processes and
//! which request is valid in which state, standard streams, exits and the order of events, the
//! journal, and the clean-up after a crash.
//!
//! # Terms
//!
//! - *daemon*: the process that starts the shim, such as containerd; *client*: a process that calls
//!   its task service, mostly the daemon.
//! - *bundle*: the directory that holds a container's `config.json` (an OCI runtime spec) and its
//!   `rootfs`.
//! - *container*: made by [`Runtime::create`] from a bundle, until [`Runtime::delete`].
//! - *process*: the container's *init*, or an *exec*, a further process inside it.
//! - *pid*: a process id in the host's pid namespace ([`Pid`]). A pid may be reused; a
//!   [`ProcessHandle`] always means the same process.
//! - *exit*: a status as a shell reports it (128 plus the signal's number after a signal) and a
//!   time ([`Exit`]).
//! - *streams*: standard input, output and error of a process ([`Io`]). The SDK copies between them
//!   and the fifos, files or loggers that the client names.
//! - *journal*: the shim's record of a container in the bundle, for the case that the shim is
//!   killed ([`Journal`]).
//! - *group*: the containers that share one shim, such as those of a Kubernetes pod.
//!
//! # A whole shim
//!
//! A program with the name `containerd-shim-NAME-VN` is the runtime `io.containerd.NAME.VN`. Put it
//! in containerd's PATH, or give its path as the runtime. This one, `examples/skeleton_shim`, runs
//! a container as a plain process of the host:
//!
//! ```no_run
#![doc = include_str!("../../examples/skeleton_shim/main.rs")]
//! ```
//!
//! Its `Cargo.toml` needs only `shim-sdk` and `oci-spec`. Try it with
//! `ctr run --rm --runtime /path/to/containerd-shim-skeleton-v1 IMAGE NAME COMMAND`. Check it
//! against the whole contract (`CONTRACT.md` in this crate's folder) with this repository's
//! `shimcheck`, which needs no containerd.
//!
//! # Requests, states and events
//!
//! For each request: the states in which it is valid, the method that the SDK calls, and the event
//! that it publishes. In another state the SDK refuses the request with containerd's message, and
//! calls no method.
//!
//! | Request | Valid | Method | Event |
//! |---|---|---|---|
//! | Create | the id is free | [`create`](Runtime::create) | create |
//! | Start | created | [`start`](Runtime::start) | start |
//! | Exec | created, running | none: the SDK records it | exec-added |
//! | Start of an exec | the same, once per exec | [`exec`](Runtime::exec) | exec-started |
//! | Kill | created, running, paused | [`signal`](Runtime::signal); with `all` [`signal_all`](Runtime::signal_all) | |
//! | Pause, Resume | running, paused | [`pause`](Runtime::pause), [`resume`](Runtime::resume) | paused, resumed |
//! | Update | created, running, paused | [`update`](Runtime::update) | |
//! | Checkpoint | running, paused | [`checkpoint`](Runtime::checkpoint) | |
//! | Pids, Stats | created to stopped | [`pids`](Runtime::pids), [`stats`](Runtime::stats) | |
//! | State, Wait, Connect, ResizePty, CloseIO | any | none | |
//! | Delete | created (init is killed first), stopped | [`delete`](Runtime::delete) | delete |
//! | Delete of an exec | not started, ended | none | |
//! | Shutdown | no container is left | none: the shim stops | |
//! | init ends | | [`init_exited`](Runtime::init_exited) | exit, after those of its execs |
//! | `delete` on the command line | the shim is dead | [`clean_up`](Runtime::clean_up) | none: the daemon publishes it |
//!
//! A created container accepts execs before its init runs. Requests for one container may overlap
//! where this table allows it: a Kill during a Start, two execs at once. Requests that change the
//! same state do not overlap: two calls of `start`, or `start` and `delete`, never run at the same
//! time for one container.
//!
//! # Errors
//!
//! A method returns an [`Error`]: a [`Kind`], which becomes the status code of the same name
//! (clients distinguish NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED and
//! UNAVAILABLE), and a message for the user, with its causes. After a failed method everything is
//! as before it, so the client may repeat the request. A runtime that lacks a feature does not
//! implement its method: the SDK answers UNIMPLEMENTED, and `-info` does not list it
//! ([`Description::capabilities`]).
//!
//! # Time and threads
//!
//! Methods run on the shim's single thread. Several may be in progress at once, without a lock. So
//! a method must not block: long work runs in a helper process ([`spawn`](crate::spawn())) or in
//! `tokio::task::spawn_blocking`. The SDK does not drop a method before it returns: at the client's
//! deadline only the client stops waiting. Only three methods have a limit:
//! [`init_exited`](Runtime::init_exited) (10 s), [`pids`](Runtime::pids) (1 s) and
//! [`clean_up`](Runtime::clean_up) (4.5 s, because the daemon waits 5 s). Several containers may be
//! made in one shim at the same time; keep the state of each in [`Runtime::Container`].
//!
//! The server has its own session. Where the host allows it, its niceness is 10 lower than the one
//! it was started with, so that it answers while runtimes keep every processor busy. Processes
//! started by [`spawn`](crate::spawn()) and [`spawn_process`] have the original niceness and their
//! own session.
//!
//! # Processes
//!
//! The SDK is the parent and the reaper of every process that the shim starts, and the subreaper of
//! their orphans. A runtime returns pids and never waits for them. The SDK sees each exit by its
//! pid, also an exit before the method has returned. Use [`spawn_process`] for a container's
//! process and [`spawn`](crate::spawn()) for a helper. A second reaper
//! (`std::process::Child::wait`, `tokio::process`) would find no child.
//!
//! # When the shim is killed
//!
//! The daemon runs the shim's binary with `delete` in the bundle. The SDK kills the init that the
//! journal names, calls [`clean_up`](Runtime::clean_up), unmounts the root file system, removes the
//! socket, and answers with the exit from the journal, or 137.
//!
//! # Logging
//!
//! The macros of the `log` crate write to the daemon's log: level `info` and above, with `-debug`
//! also `debug`. Logging never blocks. A runtime must not write to standard output.
//!
//! # Platforms
//!
//! The SDK is for Linux. It compiles for Windows with the same traits (the task service on a named
//! pipe, processes by handle, the client's pipes as streams), but has not been run there yet.
//! Mounts, terminals, loggers, signals that do not end a process, and the option ShimCgroup are
//! UNIMPLEMENTED on Windows.
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
