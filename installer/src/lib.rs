//! Binaries from images into a managed directory, and the safe extraction of image layers.
//!
//! - [`extract`]: one layer of an image onto a directory, whatever the archive says. The
//!   supervisor's unpack uses it too.
//! - [`merged`]: what overlay layers show together, looked up without mounting them.
//!
//! Nothing here talks to a daemon, a registry or a database: callers bring readers and paths.

pub mod error;
pub mod extract;
pub mod merged;

pub use error::Kind;
