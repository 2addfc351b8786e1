//! Prepares the kernel for a process that will soon change its control group.
//!
//! A write to `cgroup.procs` takes a kernel lock that stops every fork. When the lock has not been
//! used for a while, the kernel first waits for an RCU grace period: 5 to 20 ms, in the middle of a
//! runtime's create or exec. Here a short-lived thread takes the lock when the runtime is about to
//! start, by moving itself to the group that it is in. The grace period passes while the runtime
//! loads.
//!
//! After its use the lock is fast for about one grace period more. If it was fast at once, another
//! process had just used it, and that time may be over when the runtime needs it. So the thread
//! takes it again, until it has waited for a grace period itself.
//!
//! Promise: only time depends on this. The caller does not wait, no process changes its group, and
//! an error has no effect.
//! See cgroups(7), and the kernel's cgroup_threadgroup_rwsem.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::find;

/// A thread that opens and writes one file needs little.
const STACK_BYTES: usize = 32 << 10;

/// A longer wait was for a grace period; to move a thread takes 0.1 ms.
const WAITED: Duration = Duration::from_millis(2);

/// Less than a grace period.
const AGAIN: Duration = Duration::from_millis(4);

/// How often the thread takes the lock at most. A runtime moves its process within so many times
/// [`AGAIN`] and one grace period; more would only make the lock fast for other processes.
const TIMES: u8 = 3;

/// How many more times the thread will take the lock; 0 without a thread. One thread serves all
/// calls.
static LEFT: AtomicU8 = AtomicU8::new(0);

/// Where the shim's own threads are listed. Should the shim be moved later, the thread alone goes
/// where the shim was.
static OWN_THREADS: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Begins, and comes back at once.
pub(crate) fn get_ready() {
    let Some(list) = OWN_THREADS.get_or_init(find::own_threads) else { return };
    if LEFT.swap(TIMES, Ordering::AcqRel) > 0 {
        return;
    }
    let work = move || {
        if let Err(cause) = stay_ready(list) {
            log::debug!("write to {}: {cause}", list.display());
        }
        LEFT.store(0, Ordering::Release);
    };
    let thread = thread::Builder::new().name("cgroup-ahead".to_owned()).stack_size(STACK_BYTES);
    if let Err(cause) = thread.spawn(work) {
        log::debug!("start a thread: {cause}");
        LEFT.store(0, Ordering::Release);
    }
}

/// Asks for the lock until it was waited for, or often enough.
fn stay_ready(list: &Path) -> io::Result<()> {
    let another = |left: u8| left.checked_sub(1);
    while LEFT.fetch_update(Ordering::AcqRel, Ordering::Acquire, another).is_ok() {
        let began = Instant::now();
        stay(list)?;
        if began.elapsed() > WAITED {
            break;
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// Moves the calling thread to the group that lists it. By its number: a thread that calls itself 0
/// needs no lock.
fn stay(list: &Path) -> io::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    OpenOptions::new().write(true).open(list)?.write_all(thread.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_that_moves_to_where_it_is_stays_there() {
        let groups = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        let before = groups();
        let list = find::own_threads().expect("this host has control groups");
        stay(&list).unwrap();
        assert_eq!(groups(), before);
        let own = rustix::thread::gettid().as_raw_nonzero().to_string();
        assert!(fs::read_to_string(list).unwrap().lines().any(|listed| listed == own));
    }

    #[test]
    fn the_thread_is_over_soon_and_another_may_follow() {
        for _ in 0..3 {
            get_ready();
            let began = Instant::now();
            while LEFT.load(Ordering::Acquire) > 0 {
                assert!(began.elapsed().as_secs() < 10, "it does not end");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
