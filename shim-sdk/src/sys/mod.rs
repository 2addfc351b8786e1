//! System calls for which no crate has a safe wrapper. A wrapper has the name of its manual page.
#![allow(unsafe_code)] // the crate's only unsafe blocks are in this folder

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
#[cfg_attr(not(feature = "serve"), allow(dead_code))] // one file for both halves: it is short
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
#[cfg(all(feature = "serve", windows))]
pub(crate) use windows::{creation_time, trim_heap, wait_for_exit};
#[cfg(windows)]
pub(crate) use windows::{has_ended, open_process, terminate_process};
