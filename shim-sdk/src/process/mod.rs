//! Processes: the handle a runtime signals them by, their states, and the table of all of them.

mod handle;

pub use handle::ProcessHandle;
