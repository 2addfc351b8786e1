//! Processes: the handle a runtime signals them by, their states, and the table of all of them.

#[cfg(all(feature = "serve", unix))]
pub(crate) mod container;
#[cfg(all(feature = "serve", unix))]
pub(crate) mod core;
#[cfg(all(feature = "serve", unix))]
mod delete;
#[cfg(all(feature = "serve", unix))]
mod exec;
mod handle;
#[cfg(all(feature = "serve", unix))]
pub(crate) mod init;
#[cfg(feature = "serve")]
pub(crate) mod lifecycle;
#[cfg(unix)]
pub(crate) mod start_time;

#[cfg(all(test, feature = "serve", unix))]
mod tests;

pub use handle::ProcessHandle;
