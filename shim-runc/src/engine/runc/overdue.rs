//! Ends a call of the runtime that takes too long, with everything that it has started.
//!
//! Promise: the runtime and what descends from it are dead when this returns. What has made itself
//! nobody's child before is not found here: it is in the container's groups, where a delete finds it.
//! See kill(2), proc(5) on `/proc/PID/task/TID/children`, setsid(2).

use std::fs;
use std::time::Duration;

use rustix::process::{Pid as Number, Signal, kill_process, kill_process_group};
use shim_sdk::Pid;

/// How often, a millisecond apart, it is looked whether what was killed has gone.
const LOOKS: usize = 5000;

/// Kills the runtime and its descendants.
pub(super) async fn end(runtime: Pid) {
    let Some(runtime) = i32::try_from(runtime.get()).ok().and_then(Number::from_raw) else {
        return;
    };
    // It leads a session, and so a group. Stopped first, so that it starts nothing while this looks.
    // It has not been reaped: the number is its own.
    let _ = kill_process_group(runtime, Signal::STOP);
    let _ = kill_process(runtime, Signal::STOP);
    let mut all = vec![runtime];
    let mut seen = 0;
    while let Some(process) = all.get(seen) {
        let children = children(*process);
        for child in &children {
            let _ = kill_process(*child, Signal::STOP);
        }
        all.extend(children);
        seen += 1;
    }
    let _ = kill_process_group(runtime, Signal::KILL);
    // The last first: none is reaped, and its number free, before it is killed here.
    for process in all.iter().rev() {
        let _ = kill_process(*process, Signal::KILL);
    }
    for _ in 0..LOOKS {
        if !all.iter().any(|process| is_alive(*process)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log::warn!("runtime {runtime:?}, or what it has started, does not end");
}

fn children(process: Number) -> Vec<Number> {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let lists = fs::read_dir(tasks).into_iter().flatten().flatten();
    let lists = lists.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let numbers = |list: String| -> Vec<_> {
        list.split_ascii_whitespace()
            .filter_map(|pid| Number::from_raw(pid.parse().ok()?))
            .collect()
    };
    lists.flat_map(numbers).collect()
}

/// Whether a process is there and no zombie.
fn is_alive(process: Number) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
