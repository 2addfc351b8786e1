//! How a runtime reports what happens to a container between calls.

use tokio::sync::mpsc;

use crate::ContainerId;
use crate::event::{Event, EventQueue};

/// Reports events of one container.
///
/// It can be cloned, and used from any thread. It never waits.
#[derive(Debug, Clone)]
pub struct Notifier {
    container: ContainerId,
    events: EventQueue,
    notes: mpsc::UnboundedSender<Note>,
}

/// A report that the shim must act on.
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

    /// The kernel killed a process of the container because memory ran out. The event is published
    /// at once, so it comes before init's exit if it is reported before that exit is handled.
    pub fn oom(&self) {
        self.events.push(Event::OutOfMemory { container: self.container.clone() });
    }

    /// The container cannot continue, for example because its virtual machine has ended. The SDK
    /// kills its processes and reports their exits as usual.
    pub fn fatal(&self, reason: impl Into<String>) {
        let note = Note { container: self.container.clone(), reason: reason.into() };
        // The receiver is gone only when the shim stops.
        let _ = self.notes.send(note);
    }
}
