//! Standard streams: what a runtime is given, and where it comes from and goes to.
//!
//! The client names a place for each stream; a runtime gets plain streams, or a terminal's console
//! socket, and passes them to the process it makes. All copying, and the logger behind a
//! `binary://` place, is the SDK's.

mod io;
mod place;

#[cfg(unix)]
mod attached;
#[cfg(windows)]
#[path = "attached_windows.rs"]
mod attached;
#[cfg(unix)]
mod console;
#[cfg(unix)]
mod copy;
#[cfg(unix)]
mod logger;
#[cfg(unix)]
mod output;

#[cfg(windows)]
pub(crate) use attached::end_loggers;
pub(crate) use attached::{Attached, Owner, open};
pub use io::{Io, Stream, Streams, Terminal};
#[cfg(unix)]
pub(crate) use logger::end_all as end_loggers;
