//! Binaries from images into a managed directory, and the safe extraction of image layers.
//!
//! # Terms
//!
//! - *managed directory*: by default `/opt/containerd`; its `bin` and `lib` show the current set.
//! - *generation*: one complete set of files with the receipts of what is in it.
//! - *switch*: the renaming of one symbolic link, which makes another generation the current one.
//!
//! Installing is [`plan`] (what lands where, everything refused before anything is written),
//! stage (a new generation beside the current one, each file verified), commit (synced, then
//! switched). Uninstalling and rolling back are the same switch. [`Opt`] does all three under a
//! lock.
//!
//! ```text
//! /opt/containerd/bin      -> current/bin
//!                 lib      -> current/lib
//!                 current  -> generations/7
//!                 generations/7/{bin,lib,receipts.json}
//! ```
//!
//! - [`extract`]: one layer of an image onto a directory, whatever the archive says. The
//!   supervisor's unpack uses it too.
//! - [`budget`]: what a transfer may cost; one for everything that it does.
//! - [`remove`]: directory trees of any depth removed, without recursion.
//! - [`merged`]: what overlay layers show together, looked up without mounting them.
//!
//! Nothing here talks to a daemon, a registry or a database: callers bring readers and paths.

pub mod budget;
mod commit;
pub mod error;
pub mod extract;
pub mod merged;
mod opt;
pub mod plan;
mod receipt;
pub mod remove;
mod stage;
#[cfg(test)]
mod tests;

pub use error::{InstallError, Kind};
pub use opt::Opt;
pub use plan::{Image, Layer, Options, Plan};
pub use receipt::{InstalledFile, Receipt};
