//! Standard streams: opens what the client names, and copies between that and the process.
//!
//! The client gives a path or URI for each stream. A runtime gets plain streams, or a terminal's
//! console socket, and passes them to the process that it makes. The SDK copies, and starts the
//! logger of a `binary://` URI.

mod io;
mod uri;

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
mod open;
#[cfg(unix)]
mod output;

pub(crate) use attached::Attached;
#[cfg(windows)]
pub(crate) use attached::{end_loggers, open};
pub(crate) use io::Owner;
pub use io::{Io, Stream, Streams, Terminal};
#[cfg(unix)]
pub(crate) use logger::end_all as end_loggers;
#[cfg(unix)]
pub(crate) use open::open;
pub(crate) use uri::Stdio;
