//! Binaries from images into a managed directory, and the safe extraction of image layers.
//!
//! # Terms
//!
//! - *managed directory*: by default `/opt/containerd`; its `bin` and `lib` show the current set.
//! - *generation*: one complete set of files with the receipts of what is in it.
//! - *switch*: the renaming of one symbolic link, which makes another generation the current one.
//!
//! An installation has three steps: [`plan`] decides what lands where and refuses before anything
//! is written; stage makes a new generation beside the current one and verifies each file; switch
//! syncs it and makes it the current one. Uninstalling and rolling back are the same switch.
//! [`ManagedDirectory`] does all of them under a lock.
//!
//! ```text
//! /opt/containerd/bin      -> current/bin
//!                 lib      -> current/lib
//!                 current  -> generations/7
//!                 generations/7/{bin,lib,receipts.json}
//! ```
//!
//! - [`layer`]: applies one layer of an image to a directory, whatever the archive says. The
//!   supervisor's unpack uses it too.
//! - [`budget`]: what a transfer may cost; one for everything that it does.
//! - [`remove`]: directory trees of any depth removed, without recursion.
//! - [`layer::merged`]: what overlay layers show together, looked up without mounting them.
//!
//! Nothing here talks to a daemon, a registry or a database: callers bring readers and paths.

pub mod budget;
pub mod error;
mod kind;
pub mod layer;
mod managed;
pub mod plan;
mod receipt;
pub mod remove;
mod stage;
mod switch;
#[cfg(test)]
mod tests;

pub use error::InstallError;
pub use kind::Kind;
pub use managed::ManagedDirectory;
pub use plan::{Image, Layer, Options, Plan};
pub use receipt::{InstalledFile, Receipt};
