//! What happens to containers, as others are told of it.
//!
//! The queue between the core, which says what happened, and the publisher, which tells the
//! daemon. Pushing is synchronous and never waits, so the order of events is the order in which
//! the core decides.
//!
//! Promise: bounded. When the daemon is away for long, the oldest events other than exits and
//! deletions go first, and how many went is counted.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::stdio::Stdio;
use crate::{ContainerId, ExecId, Exit, Mount, Pid};

/// How many events wait for a daemon that is away.
const MAX_WAITING: usize = 2048;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Created {
        container: ContainerId,
        bundle: PathBuf,
        rootfs: Vec<Mount>,
        stdio: Stdio,
        checkpoint: String,
        pid: Option<Pid>,
    },
    Started {
        container: ContainerId,
        pid: Pid,
    },
    ExecAdded {
        container: ContainerId,
        exec: ExecId,
    },
    ExecStarted {
        container: ContainerId,
        exec: ExecId,
        pid: Pid,
    },
    Exited {
        container: ContainerId,
        exec: Option<ExecId>,
        pid: Option<Pid>,
        exit: Exit,
    },
    Deleted {
        container: ContainerId,
        pid: Option<Pid>,
        exit: Exit,
    },
    OutOfMemory {
        container: ContainerId,
    },
    Paused {
        container: ContainerId,
    },
    Resumed {
        container: ContainerId,
    },
}

impl Event {
    /// Whether losing it would leave a client waiting for ever.
    fn is_final(&self) -> bool {
        matches!(self, Self::Exited { .. } | Self::Deleted { .. })
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) at: SystemTime,
    pub(crate) event: Event,
}

/// The queue's two ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<VecDeque<Stamped>>,
    /// Wakes the publisher for a new event.
    arrived: Notify,
    /// Wakes whoever waits for the queue to be empty.
    emptied: Notify,
    /// Wakes a publisher that waits before it tries again.
    hurried: Notify,
}

impl EventQueue {
    pub(crate) fn push(&self, event: Event) {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            let victim = waiting.iter().position(|waiting| !waiting.event.is_final()).unwrap_or(0);
            if let Some(lost) = waiting.remove(victim) {
                log::warn!("event queue is full; dropped {:?}", lost.event);
            }
        }
        waiting.push_back(Stamped { at: SystemTime::now(), event });
        drop(waiting);
        // A permit is stored when nobody waits yet, so this wakeup cannot be lost.
        self.0.arrived.notify_one();
    }

    /// The oldest event, which stays in the queue until [`EventQueue::pop`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken from the queue.
    pub(crate) async fn first(&self) -> Stamped {
        loop {
            if let Some(first) = self.lock().front() {
                return first.clone();
            }
            self.0.emptied.notify_waiters();
            self.0.arrived.notified().await;
        }
    }

    /// Takes away the event that was delivered, unless it was dropped for room meanwhile.
    pub(crate) fn pop(&self, delivered: &Stamped) {
        let mut waiting = self.lock();
        if waiting.front() == Some(delivered) {
            waiting.pop_front();
        }
    }

    /// Waits until everything is delivered.
    pub(crate) async fn drained(&self) {
        self.0.hurried.notify_one();
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            // Enlisted before the look, so that an emptying in between is not missed.
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until somebody cannot wait for the events to be delivered.
    pub(crate) async fn hurried(&self) {
        self.0.hurried.notified().await;
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Stamped>> {
        // Nothing that runs under the lock can panic half way through a change.
        self.0.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        ContainerId::new("c").expect("valid")
    }

    #[test]
    fn a_full_queue_keeps_the_exits() {
        let queue = EventQueue::default();
        queue.push(Event::Paused { container: id() });
        let exit = Exit::now(1);
        for _ in 1..MAX_WAITING {
            queue.push(Event::Exited { container: id(), exec: None, pid: None, exit });
        }
        queue.push(Event::Deleted { container: id(), pid: None, exit });
        assert_eq!(queue.len(), MAX_WAITING);
        assert!(queue.lock().iter().all(|waiting| waiting.event.is_final()));
    }

    #[tokio::test]
    async fn events_leave_in_the_order_in_which_they_came() {
        let queue = EventQueue::default();
        queue.push(Event::Paused { container: id() });
        queue.push(Event::Resumed { container: id() });
        let first = queue.first().await;
        assert_eq!(queue.first().await, first, "not taken until delivered");
        queue.pop(&first);
        assert_eq!(queue.first().await.event, Event::Resumed { container: id() });
    }
}
