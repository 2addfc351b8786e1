//! Processes: the handle a runtime signals them by, their states, and the table of all of them.

#[cfg(feature = "serve")]
pub(crate) mod container;
#[cfg(feature = "serve")]
mod delete;
#[cfg(feature = "serve")]
mod exec;
#[cfg(unix)]
mod handle;
#[cfg(windows)]
#[path = "handle_windows.rs"]
mod handle;
#[cfg(feature = "serve")]
pub(crate) mod init;
#[cfg(feature = "serve")]
pub(crate) mod lifecycle;
#[cfg(feature = "serve")]
mod process_state;
#[cfg(feature = "serve")]
mod refusal;
#[cfg(feature = "serve")]
pub(crate) mod shim;
#[cfg(all(feature = "serve", unix))]
pub(crate) mod start_time;
#[cfg(all(feature = "serve", windows))]
#[path = "start_time_windows.rs"]
pub(crate) mod start_time;

#[cfg(all(test, feature = "serve", unix))]
mod tests;

pub use handle::ProcessHandle;
#[cfg(all(feature = "serve", windows))]
pub(crate) use handle::keep;
