//! Ends what takes too long, a runtime or a helper, with everything that it has started.
//!
//! Promise: the process and what descends from it are dead when [`end`] returns. A process that has
//! left this tree before (its parent ended) is not found here. It is in the container's groups, where a
//! delete finds it.
//! See kill(2), proc(5) on `/proc/PID/task/TID/children`, setsid(2).

use std::fs;
use std::time::Duration;

use rustix::process::{Pid as Number, Signal, kill_process, kill_process_group};
use shim_sdk::Pid;

/// How often, a millisecond apart, it is looked whether what was killed has gone.
const LOOKS: usize = 5000;

/// Kills a process, which is our child and not reaped, and its descendants; waits until they have
/// ended.
pub(crate) async fn end(process: Pid) {
    let Some(process) = i32::try_from(process.get()).ok().and_then(Number::from_raw) else {
        return;
    };
    let all = kill_all(process);
    for _ in 0..LOOKS {
        if !all.iter().any(|process| is_there(*process)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log::warn!("process {process:?}, or what it has started, does not end");
}

/// Kills a process, which is our child and not reaped, and its descendants; returns them all.
pub(crate) fn kill_all(process: Number) -> Vec<Number> {
    if process.is_init() {
        // Its group, to kill(2), is every process that there is.
        return Vec::new();
    }
    // It leads a session, and so a group. Stopped first, so that it starts nothing while this looks.
    let _ = kill_process_group(process, Signal::STOP);
    let _ = kill_process(process, Signal::STOP);
    let mut all = vec![process];
    let mut seen = 0;
    while let Some(one) = all.get(seen) {
        let children = children(*one);
        for child in &children {
            let _ = kill_process(*child, Signal::STOP);
        }
        all.extend(children);
        seen += 1;
    }
    let _ = kill_process_group(process, Signal::KILL);
    // The last first: none is reaped, and its number free, before it is killed here.
    for one in all.iter().rev() {
        let _ = kill_process(*one, Signal::KILL);
    }
    all
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

/// Whether there is a process of this number, and it is no zombie.
pub(crate) fn is_alive(process: Pid) -> bool {
    i32::try_from(process.get()).ok().and_then(Number::from_raw).is_some_and(is_there)
}

fn is_there(process: Number) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
