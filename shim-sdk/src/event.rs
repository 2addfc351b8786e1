//! Events of containers, and their queue.
//!
//! `process/` pushes events; the publisher (`wire/publish.rs`) sends them to the daemon. Pushing is
//! synchronous and never waits, so events are in the order in which they were decided.
//!
//! Promise: the queue is bounded. If it is full because the daemon is away, the oldest event that
//! is no exit and no deletion is dropped, with a warning in the log.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::stdio::Stdio;
use crate::{ContainerId, ExecId, Exit, Mount, Pid};

/// The most events that wait for the daemon.
const MAX_WAITING: usize = 2048;

/// An event of a container.
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
    /// Whether a client that never got it could wait without end.
    fn is_final(&self) -> bool {
        matches!(self, Self::Exited { .. } | Self::Deleted { .. })
    }
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) at: SystemTime,
    pub(crate) event: Event,
}

/// The queue. Its clones are the same queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<VecDeque<Stamped>>,
    /// Wakes the publisher for a new event.
    arrived: Notify,
    /// Wakes the tasks that wait for an empty queue.
    emptied: Notify,
    /// Wakes a publisher that waits before its next try.
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
        // notify_one() stores a permit if no task waits yet, so this wakeup cannot be lost.
        self.0.arrived.notify_one();
    }

    /// The oldest event. It stays in the queue until [`EventQueue::pop`].
    ///
    /// # Cancel safety
    ///
    /// It may be dropped: it takes nothing from the queue.
    pub(crate) async fn first(&self) -> Stamped {
        loop {
            if let Some(first) = self.lock().front() {
                return first.clone();
            }
            self.0.emptied.notify_waiters();
            self.0.arrived.notified().await;
        }
    }

    /// Removes an event that was delivered, unless a full queue has dropped it already.
    pub(crate) fn pop(&self, delivered: &Stamped) {
        let mut waiting = self.lock();
        if waiting.front() == Some(delivered) {
            waiting.pop_front();
        }
    }

    /// Waits until every event is delivered. The publisher tries at once.
    pub(crate) async fn drained(&self) {
        self.0.hurried.notify_one();
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            // Enabled before the check, so that a wakeup in between is not lost.
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until a task calls [`EventQueue::drained`].
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
        // No code under the lock can panic in the middle of a change.
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
