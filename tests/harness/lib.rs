//! What the end-to-end tests and the measuring programs share.
//!
//! - [`Root`] owns everything one test makes. Every name it hands out carries the root's *token*,
//!   so that a process, mount, cgroup, socket or directory that stays behind can be told from those
//!   of other tests and of the host; dropping the root asserts that nothing did.
//! - [`Containerd`] is a private stock containerd, [`Supervisor`] ours; both live in a root.
//! - [`image`] writes images byte by byte, the bad ones among them; [`fixtures`] has other tools
//!   (umoci, skopeo) make them, once per recipe.
//! - [`shim`] drives a shim as its daemon would, without one.
//! - [`fake_daemon`] plays a daemon's part for a test: shims, bundles and events in one root.
//! - [`disk`] is a file system in a file.
//! - [`tree`] compares directory trees entry by entry.
//!
//! Nothing is skipped: what is missing after set-up makes the test that needs it fail and say so.

pub mod command;
pub mod containerd;
pub mod disk;
pub mod fake_daemon;
pub mod fixtures;
pub mod image;
pub mod leak;
pub mod proc;
pub mod programs;
pub mod root;
pub mod shim;
pub mod supervisor;
pub mod terminal;
pub mod tree;
pub mod wait;

pub use command::{Finished, run, run_with_input};
pub use containerd::Containerd;
pub use disk::Disk;
pub use root::Root;
pub use supervisor::Supervisor;
pub use wait::eventually;
