//! Binaries from images into a managed directory, and the safe extraction of image layers.
//!
//! - [`extract`]: one layer of an image onto a directory, whatever the archive says. The
//!   supervisor's unpack uses it too.
//!
//! Nothing here talks to a daemon, a registry or a database: callers bring readers and paths.

pub mod error;
pub mod extract;

pub use error::Kind;
