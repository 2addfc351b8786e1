//! System calls that no crate wraps safely. Each wrapper bears its man page's name.
#![allow(unsafe_code)]

#[cfg(all(feature = "serve", unix))]
mod fd;
#[cfg(unix)]
mod pidfd;
#[cfg(all(feature = "serve", unix))]
mod poll;
#[cfg(all(feature = "serve", unix))]
mod prctl;
#[cfg(all(feature = "serve", unix))]
mod spawn;
#[cfg(windows)]
mod windows;

#[cfg(all(feature = "serve", unix))]
pub(crate) use fd::{close_inherited, received, set_window_size, take_listener};
#[cfg(unix)]
pub(crate) use pidfd::pidfd_send_signal;
#[cfg(all(feature = "serve", unix))]
pub(crate) use pidfd::{Waited, is_reaped, waitid_any, waitid_pid};
#[cfg(all(feature = "serve", unix))]
pub(crate) use poll::async_fd;
#[cfg(all(feature = "serve", unix))]
pub(crate) use prctl::{nice, one_malloc_arena, sched_core_create, set_nice, trim_heap};
#[cfg(all(feature = "serve", unix))]
pub(crate) use spawn::{Stack, Start, Started, c_string, spawn};
#[cfg(windows)]
pub(crate) use windows::{creation_time, has_ended, open_process, terminate_process};
#[cfg(all(feature = "serve", windows))]
pub(crate) use windows::{trim_heap, wait_for_exit};
