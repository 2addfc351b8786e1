//! The protocol: bootstrap, the task service, events, status codes. Generated types are used only
//! here.

pub(crate) mod bootstrap;
mod connection;
pub(crate) mod convert;
mod method;
pub(crate) mod publish;
pub(crate) mod server;
#[cfg(unix)]
pub(crate) mod socket;
#[cfg(windows)]
#[path = "socket_windows.rs"]
pub(crate) mod socket;
pub(crate) mod status;
pub(crate) mod task;

#[cfg(all(test, unix))]
mod tests;
