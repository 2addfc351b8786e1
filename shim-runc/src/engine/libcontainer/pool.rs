//! Which helper answers which call.
//!
//! ```text
//!   call of container A ──> A's turn ──> a place ──> an idle helper, or a new one ──> answer
//!   call of container B ──> B's turn ──> a place ──> ...
//! ```
//!
//! A call may hang for as long as its deadline: for a hook, a slow storage, or because the container
//! stops what joins it. So each call under way has a helper to itself, and only the calls of one
//! container wait for each other.
//!
//! Promise: calls of one container are made in their order; a call that hangs delays no other
//! container's by more than [`SLOW`]. There is one helper for each container at most, [`PLACES`] that
//! are busy in earnest, and [`HELPERS`] in all: 32 that hang cost a shim about 40 MB, and the 33rd call
//! waits for the first of their deadlines. Between calls one idle helper is kept, which leaves by
//! itself when it has been quiet.
//! Not here: what a helper is asked (the engine), whether it answers (`connection`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, Semaphore, SemaphorePermit};

use super::connection::{AskError, Connection};
use super::helper_executable::Image;

/// How many calls are made at the same time. More would only take each other's processor.
const PLACES: usize = 4;

/// A call that takes longer is not busy but waits, and gives its place to another.
const SLOW: Duration = Duration::from_millis(250);

/// How many helpers there are at most.
const HELPERS: usize = 32;

/// The helpers of one shim.
#[derive(Debug)]
pub(super) struct Pool {
    image: Image,
    idle: RefCell<Vec<Connection>>,
    places: Semaphore,
    helpers: Semaphore,
    /// Calls that wait for a place.
    waiting: Cell<usize>,
    lanes: RefCell<HashMap<String, Rc<Lane>>>,
}

/// The calls of one container.
#[derive(Debug, Default)]
pub(super) struct Lane {
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
    place: RefCell<Option<SemaphorePermit<'a>>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            image: Image::default(),
            idle: RefCell::default(),
            places: Semaphore::new(PLACES),
            helpers: Semaphore::new(HELPERS),
            waiting: Cell::new(0),
            lanes: RefCell::default(),
        }
    }
}

impl Pool {
    /// The lane of a container.
    pub(super) fn lane(&self, id: &str) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        Rc::clone(lanes.entry(id.to_owned()).or_default())
    }

    /// Forgets a container that is gone.
    pub(super) fn forget(&self, id: &str) {
        let mut lanes = self.lanes.borrow_mut();
        // Whoever still waits in it keeps it.
        if lanes.get(id).is_some_and(|lane| Rc::strong_count(lane) == 1) {
            lanes.remove(id);
        }
    }

    /// Makes a helper ready ahead of its first call, if there is none.
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

    /// Waits for the container's turn, and for a place.
    ///
    /// # Cancel safety
    ///
    /// What was waited for is given back.
    pub(super) async fn call<'a>(&'a self, lane: &'a Lane) -> Call<'a> {
        let turn = lane.turn.lock().await;
        let counted = Counted::new(&self.waiting);
        // Neither semaphore is ever closed.
        let helper = self.helpers.acquire().await.ok();
        let place = self.places.acquire().await.ok();
        drop(counted);
        Call { pool: self, _turn: turn, _helper: helper, place: RefCell::new(place) }
    }
}

impl Lane {
    /// The container's init has ended: what is made in it now cannot succeed.
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

    /// Takes back a helper that has answered. One more than is needed is told to leave.
    pub(super) fn give_back(&self, helper: Connection) {
        let mut idle = self.pool.idle.borrow_mut();
        if idle.is_empty() || idle.len() < self.pool.waiting.get() {
            idle.push(helper);
        }
        // Otherwise it is dropped here, and sees the end of its socket.
    }

    /// Gives the place to another call once this one has taken long. Never returns.
    pub(super) async fn make_room(&self) -> std::convert::Infallible {
        tokio::time::sleep(SLOW).await;
        self.place.borrow_mut().take();
        std::future::pending().await
    }
}

/// Counts for as long as it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
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
                (0..PLACES).map(|number| pool.lane(&number.to_string())).collect();
            let mut calls = Vec::new();
            for lane in &hanging {
                calls.push(pool.call(lane).await);
            }
            let lane = pool.lane("other");
            let other = async {
                let began = std::time::Instant::now();
                drop(pool.call(&lane).await);
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
            let lane = pool.lane("c");
            let first = pool.call(&lane).await;
            let second = tokio::time::timeout(SLOW, pool.call(&lane)).await;
            assert!(second.is_err());
            drop(first);
            pool.call(&lane).await;
        });
    }

    #[test]
    fn the_number_of_helpers_is_bounded() {
        in_time(async {
            let pool = Pool::default();
            let lanes: Vec<_> =
                (0..=HELPERS).map(|number| pool.lane(&number.to_string())).collect();
            let mut calls = Vec::new();
            for lane in &lanes[..HELPERS] {
                let call = pool.call(lane).await;
                call.place.borrow_mut().take();
                calls.push(call);
            }
            assert!(tokio::time::timeout(SLOW, pool.call(&lanes[HELPERS])).await.is_err());
            calls.pop();
            pool.call(&lanes[HELPERS]).await;
        });
    }

    #[test]
    fn a_lane_that_has_ended_says_so_to_those_who_wait_and_to_those_who_come_later() {
        in_time(async {
            let lane = Lane::default();
            let end = async {
                tokio::task::yield_now().await;
                lane.end();
            };
            tokio::join!(lane.ended(), end);
            lane.ended().await;
            assert!(lane.has_ended());
        });
    }

    #[test]
    fn a_container_that_is_gone_is_forgotten() {
        let pool = Pool::default();
        drop(pool.lane("c"));
        pool.forget("c");
        assert!(pool.lanes.borrow().is_empty());
    }
}
