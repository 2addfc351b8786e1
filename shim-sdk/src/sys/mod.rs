//! System calls that no crate wraps safely. Each wrapper bears its man page's name.
#![allow(unsafe_code)]

#[cfg(feature = "serve")]
mod fd;
mod pidfd;
#[cfg(feature = "serve")]
mod poll;
#[cfg(feature = "serve")]
mod prctl;

#[cfg(feature = "serve")]
pub(crate) use fd::{
    close_inherited, pass_descriptors, pass_listener, received, set_window_size, take_listener,
};
pub(crate) use pidfd::pidfd_send_signal;
#[cfg(feature = "serve")]
pub(crate) use pidfd::{Waited, waitid_any, waitid_pid};
#[cfg(feature = "serve")]
pub(crate) use poll::async_fd;
#[cfg(feature = "serve")]
pub(crate) use prctl::{die_with_parent, one_malloc_arena, sched_core_create, trim_heap};
