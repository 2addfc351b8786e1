//! The allocator that counts, and the counters of an instrumented build.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Constants, and nothing to drop: reading them allocates nothing.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// The system's allocator, which counts what each thread holds.
struct Counting;

/// Counts `bytes` more; false when that would be far beyond what the input may hold.
fn count(bytes: isize) -> bool {
    let live = LIVE.get() + bytes;
    if live > LIMIT.get() {
        return false;
    }
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
    true
}

// SAFETY: every call is passed on to the system's allocator with what was given, or answered with
// null, which says that there is no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !count(size as isize - layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The measuring of one input.
pub(crate) struct Measured {
    live: isize,
    clock: Duration,
}

impl Measured {
    /// Begins. Ten times `memory_bytes` are not given any more: the process ends, with its input kept,
    /// before the machine runs out of memory.
    pub(crate) fn begin(memory_bytes: usize) -> Self {
        let live = LIVE.get();
        PEAK.set(live);
        LIMIT.set(live.saturating_add_unsigned(memory_bytes.saturating_mul(10)));
        Self { live, clock: clock() }
    }

    /// The most that was held at one time, and the processor time taken.
    pub(crate) fn end(self) -> (usize, Duration) {
        LIMIT.set(isize::MAX);
        let peak = usize::try_from(PEAK.get() - self.live).unwrap_or(0);
        (peak, clock().saturating_sub(self.clock))
    }
}

/// This thread's processor time: a machine with other work does not make an input slow.
fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .expect("threads have a clock")
}

/// How often each piece of code of the instrumented crates ran.
#[cfg(fuzz_coverage)]
pub(crate) fn counters<'a>() -> &'a mut [u64] {
    unsafe extern "C" {
        // Made by the linker: the bounds of the section in which the compiler keeps its counters.
        static mut __start___llvm_prf_cnts: u64;
        static mut __stop___llvm_prf_cnts: u64;
    }
    let (start, stop) = (&raw mut __start___llvm_prf_cnts, &raw mut __stop___llvm_prf_cnts);
    // SAFETY: both bound one section of whole, aligned counters. tests/fuzz.sh runs one target at a
    // time, so nothing else counts while the slice is looked at, except in threads of the target,
    // whose counts may be lost.
    unsafe { std::slice::from_raw_parts_mut(start, stop.offset_from_unsigned(start)) }
}
