//! The daemon: one owner of a root directory, from its lock to its last connection.
//!
//! Promise: a root has one daemon at a time (flock on `root/lock`, close-on-exec, for life); a
//! daemon that was started on demand leaves when it has had no clients for a while, and no client
//! that reached its socket is left unanswered; one that was started by hand or by systemd stays.
//! Containers do not depend on it: they live in their shims, and [`crate::task`] adopts them.
//! Not here: what is served ([`crate::api`]).

mod authority;
mod autostart;
mod detach;
mod listener;
mod lock;
mod log;
mod maintenance;
mod retry;
mod root;
mod serve;
mod sys;

pub(crate) use autostart::{connect, is_listening, went_away};
pub(crate) use log::log_to_stderr;
pub(crate) use retry::{Idempotent, RetryingChannel};
pub(crate) use serve::serve;

/// Whether the daemon leaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Started by hand or by a service manager.
    Stay,
    /// Started by a client: detached, and ends when no client needs it.
    OnDemand,
}
