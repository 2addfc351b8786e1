//! How a runtime tells of what happens to a container between calls.

use tokio::sync::mpsc;

use crate::ContainerId;
use crate::event::{Event, EventQueue};

/// Reports what the kernel, or the runtime itself, does to one container.
///
/// May be cloned, and used from any thread; never waits.
#[derive(Debug, Clone)]
pub struct Notifier {
    container: ContainerId,
    events: EventQueue,
    notes: mpsc::UnboundedSender<Note>,
}

/// What a runtime reported that the core must act on.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) container: ContainerId,
    pub(crate) reason: String,
}

impl Notifier {
    pub(crate) fn new(
        container: ContainerId,
        events: EventQueue,
        notes: mpsc::UnboundedSender<Note>,
    ) -> Self {
        Self { container, events, notes }
    }

    /// The container that is reported on.
    pub fn container(&self) -> &ContainerId {
        &self.container
    }

    /// The kernel killed a process of the container for want of memory. Published at once, so
    /// that what is reported before init's exit is handled is told before it.
    pub fn oom(&self) {
        self.events.push(Event::OutOfMemory { container: self.container.clone() });
    }

    /// The container cannot go on, say because its virtual machine is gone: its processes are
    /// killed, and their exits reported as usual.
    pub fn fatal(&self, reason: impl Into<String>) {
        let note = Note { container: self.container.clone(), reason: reason.into() };
        // The core is gone only when the shim is leaving.
        let _ = self.notes.send(note);
    }
}
