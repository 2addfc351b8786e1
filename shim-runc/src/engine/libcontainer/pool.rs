//! Selects the helper for each call.
//!
//! ```text
//!   call of container A ──> A's turn ──> a busy slot ──> an idle helper, or a new one ──> answer
//!   call of container B ──> B's turn ──> a busy slot ──> ...
//! ```
//!
//! A call may hang until its deadline: a hook or the storage is slow, or the container stops a process
//! that joins it. So each call has a helper of its own while it runs, and only calls of the same
//! container wait for each other.
//!
//! Promise: calls of one container are made in their order. A call that hangs delays calls of other
//! containers by [`SLOW`] at most. Each container has one helper at most; [`BUSY_HELPERS`] are busy at a
//! time, and [`HELPERS`] exist. 32 helpers that hang cost a shim about 40 MB; the 33rd call waits for the
//! first deadline. Between calls one idle helper is kept, which exits by itself after a quiet time.
//! Not here: what a helper is asked (the engine), whether it answers (`connection`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, Semaphore, SemaphorePermit};

use super::connection::{AskError, Connection};
use super::helper_executable::Image;

/// How many calls run at the same time. More would only compete for the processors.
const BUSY_HELPERS: usize = 4;

/// A call that takes longer waits for something and uses no processor. It gives up its busy slot.
const SLOW: Duration = Duration::from_millis(250);

/// The greatest number of helpers.
const HELPERS: usize = 32;

/// The helpers of one shim.
#[derive(Debug)]
pub(super) struct Pool {
    image: Image,
    idle: RefCell<Vec<Connection>>,
    busy: Semaphore,
    helpers: Semaphore,
    /// The number of calls that wait for a helper and a busy slot.
    waiting: Cell<usize>,
    queues: RefCell<HashMap<String, Rc<CallQueue>>>,
}

/// The calls of one container.
#[derive(Debug, Default)]
pub(super) struct CallQueue {
    turn: Mutex<()>,
    has_ended: Cell<bool>,
    end: Notify,
}

/// The right to make one call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pool: &'a Pool,
    _turn: MutexGuard<'a, ()>,
    _helper: Option<SemaphorePermit<'a>>,
    busy_slot: RefCell<Option<SemaphorePermit<'a>>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            image: Image::default(),
            idle: RefCell::default(),
            busy: Semaphore::new(BUSY_HELPERS),
            helpers: Semaphore::new(HELPERS),
            waiting: Cell::new(0),
            queues: RefCell::default(),
        }
    }
}

impl Pool {
    /// The queue of a container.
    pub(super) fn queue(&self, id: &str) -> Rc<CallQueue> {
        let mut queues = self.queues.borrow_mut();
        Rc::clone(queues.entry(id.to_owned()).or_default())
    }

    /// Forgets a container that is gone.
    pub(super) fn forget(&self, id: &str) {
        let mut queues = self.queues.borrow_mut();
        // A call that still waits in the queue keeps it.
        if queues.get(id).is_some_and(|queue| Rc::strong_count(queue) == 1) {
            queues.remove(id);
        }
    }

    /// Starts a helper before its first call, if there is none.
    pub(super) fn prepare(&self) -> Result<(), AskError> {
        if self.idle.borrow().is_empty() && self.helpers.available_permits() == HELPERS {
            let helper = Connection::spawn(&self.image)?;
            self.idle.borrow_mut().push(helper);
        }
        Ok(())
    }

    /// Calls a function with the helper that is ready, if one is.
    pub(super) fn with_idle<T>(&self, use_it: impl FnOnce(&Connection) -> T) -> Option<T> {
        self.idle.borrow().last().map(use_it)
    }

    /// Waits for the container's turn, for a helper and for a busy slot.
    ///
    /// # Cancel safety
    ///
    /// The turn and the permits are released.
    pub(super) async fn call<'a>(&'a self, queue: &'a CallQueue) -> Call<'a> {
        let turn = queue.turn.lock().await;
        let counted = WaitingCall::new(&self.waiting);
        // Neither semaphore is ever closed.
        let helper = self.helpers.acquire().await.ok();
        let busy_slot = self.busy.acquire().await.ok();
        drop(counted);
        Call { pool: self, _turn: turn, _helper: helper, busy_slot: RefCell::new(busy_slot) }
    }
}

impl CallQueue {
    /// Records that the container's init has ended: a new process in the container cannot start.
    pub(super) fn end(&self) {
        self.has_ended.set(true);
        self.end.notify_waiters();
    }

    /// Whether the container's init has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Waits for the end of the container's init.
    pub(super) async fn ended(&self) {
        loop {
            let end = self.end.notified();
            if self.has_ended() {
                return;
            }
            end.await;
        }
    }
}

impl Call<'_> {
    /// An idle helper, or a new one.
    pub(super) fn helper(&self) -> Result<Connection, AskError> {
        loop {
            let idle = self.pool.idle.borrow_mut().pop();
            match idle {
                Some(helper) if helper.has_ended() => {}
                Some(helper) => return Ok(helper),
                None => return Connection::spawn(&self.pool.image),
            }
        }
    }

    /// Takes back a helper that has answered. A helper that no call needs is dropped.
    pub(super) fn give_back(&self, helper: Connection) {
        let mut idle = self.pool.idle.borrow_mut();
        if idle.is_empty() || idle.len() < self.pool.waiting.get() {
            idle.push(helper);
        }
        // A helper that is dropped reads the end of its socket and exits.
    }

    /// Releases the busy slot after [`SLOW`]. Never returns.
    pub(super) async fn make_room(&self) -> std::convert::Infallible {
        tokio::time::sleep(SLOW).await;
        self.busy_slot.borrow_mut().take();
        std::future::pending().await
    }
}

/// Counts a waiting call until it is dropped.
struct WaitingCall<'a>(&'a Cell<usize>);

impl<'a> WaitingCall<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limit = Duration::from_secs(20);
        runtime.block_on(async { tokio::time::timeout(limit, test).await.expect("in time") });
    }

    #[test]
    fn calls_that_hang_delay_those_of_other_containers_by_a_moment() {
        in_time(async {
            let pool = Pool::default();
            let hanging: Vec<_> =
                (0..BUSY_HELPERS).map(|number| pool.queue(&number.to_string())).collect();
            let mut calls = Vec::new();
            for queue in &hanging {
                calls.push(pool.call(queue).await);
            }
            let queue = pool.queue("other");
            let other = async {
                let began = std::time::Instant::now();
                drop(pool.call(&queue).await);
                began.elapsed()
            };
            let room = async {
                for call in &calls {
                    tokio::select! {
                        never = call.make_room() => match never {},
                        () = tokio::time::sleep(SLOW * 2) => {}
                    }
                }
            };
            let (took, ()) = tokio::join!(other, room);
            assert!(took >= SLOW / 2 && took < SLOW * 2, "{took:?}");
        });
    }

    #[test]
    fn calls_of_one_container_wait_for_each_other() {
        in_time(async {
            let pool = Pool::default();
            let queue = pool.queue("c");
            let first = pool.call(&queue).await;
            let second = tokio::time::timeout(SLOW, pool.call(&queue)).await;
            assert!(second.is_err());
            drop(first);
            pool.call(&queue).await;
        });
    }

    #[test]
    fn the_number_of_helpers_is_bounded() {
        in_time(async {
            let pool = Pool::default();
            let queues: Vec<_> =
                (0..=HELPERS).map(|number| pool.queue(&number.to_string())).collect();
            let mut calls = Vec::new();
            for queue in &queues[..HELPERS] {
                let call = pool.call(queue).await;
                call.busy_slot.borrow_mut().take();
                calls.push(call);
            }
            assert!(tokio::time::timeout(SLOW, pool.call(&queues[HELPERS])).await.is_err());
            calls.pop();
            pool.call(&queues[HELPERS]).await;
        });
    }

    #[test]
    fn a_lane_that_has_ended_says_so_to_those_who_wait_and_to_those_who_come_later() {
        in_time(async {
            let queue = CallQueue::default();
            let end = async {
                tokio::task::yield_now().await;
                queue.end();
            };
            tokio::join!(queue.ended(), end);
            queue.ended().await;
            assert!(queue.has_ended());
        });
    }

    #[test]
    fn a_container_that_is_gone_is_forgotten() {
        let pool = Pool::default();
        drop(pool.queue("c"));
        pool.forget("c");
        assert!(pool.queues.borrow().is_empty());
    }
}
