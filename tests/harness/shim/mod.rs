//! Drives one shim as its daemon would, without a daemon.
//!
//! A daemon is four things to a shim: the parent that executes it ([`launch`]), the client of its socket
//! ([`ttrpc`], [`task`]), the receiver of its events ([`events`]), and the maker of the bundle and
//! its streams ([`bundle`], [`stream`]). Each is here on its own, so that each can be taken away,
//! slowed down or made to answer wrongly. Nothing here is shared with the code under test but the message
//! types: the client and the event endpoint frame ttrpc themselves.
//!
//! Everything returns what went wrong instead of asserting it, and nothing waits without a limit.

pub mod bundle;
pub mod events;
pub mod launch;
pub mod namespace;
pub mod stream;
pub mod task;
pub mod ttrpc;

pub use bundle::Bundle;
pub use events::Events;
pub use launch::{Dialect, Invocation, Reply};
pub use stream::Stream;
pub use task::Task;
pub use ttrpc::{CallError, Client, Code};

pub use crate::wait::until;
