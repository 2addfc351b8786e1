//! Calls that hang, helpers that die, and who is not to notice.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::super::wire::{HelperReply, HelperRequest};
use super::super::{BorrowedStreams, in_memory};
use super::fixture::{Fixture, children, on_the_shims_thread, process, read, wait};
use crate::process_tree::kill_all;

/// What a call may take that waits for none that hangs, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A hook that takes long, or for as long as it is let.
fn slow_hook(seconds: u32) -> serde_json::Value {
    json!({"prestart": [{"path": "/bin/busybox", "args": ["sleep", seconds.to_string()]}]})
}

/// Whether a process has this command line, once those that were killed have had their time.
fn runs(command_line: &str) -> bool {
    std::thread::sleep(Duration::from_millis(100));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
    lines.any(|line| line == command_line.as_bytes())
}

/// Stops whatever joins its pid namespace.
const STOPS_ALL: &str = "
    while :; do for p in /proc/[0-9]*; do
        [ $p = /proc/1 ] || kill -STOP ${p#/proc/} 2>/dev/null
    done; done";

#[test]
fn a_create_that_hangs_delays_no_other_container() {
    on_the_shims_thread(async {
        // One container's hook held up every other create, exec and delete of its pod.
        let mut slow = Fixture::new(&["true"]);
        slow.spec["hooks"] = slow_hook(8);
        let mut other = Fixture::new(&["sh", "-c", "echo here"]);
        other.share_engine(&slow);
        let quick = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let began = Instant::now();
            assert_eq!(other.run().await, (0, "here\n".to_owned()));
            began.elapsed()
        };
        let (created, took) = tokio::join!(slow.create(), quick);
        let (init, _output) = created.unwrap();
        assert!(took < SOON, "{took:?}");
        slow.delete(true).await;
        assert_eq!(wait(init), 137);
    });
}

#[test]
fn a_container_that_stops_what_joins_it_delays_no_other_and_its_end_is_told_in_time() {
    on_the_shims_thread(async {
        let mut hostile = Fixture::new(&["sh", "-c", STOPS_ALL]);
        let (init, _output) = hostile.create().await.unwrap();
        hostile.start().await.unwrap();
        let mut other = Fixture::new(&["sh", "-c", "echo here"]);
        other.share_engine(&hostile);
        let engine = std::rc::Rc::clone(&hostile.engine);
        let id = hostile.id.clone();
        let overtaken = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let began = Instant::now();
            assert_eq!(other.run().await, (0, "here\n".to_owned()));
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
            let began = Instant::now();
            wait(init);
            // As the SDK does when it has seen the exit.
            engine.pool.queue(&id).end();
            began
        };
        let (made, began) = tokio::join!(hostile.exec(process(&["sleep", "50"])), overtaken);
        // An exec that was made in the last moment has ended with its container.
        if let Ok((pid, _)) = made {
            assert_eq!(wait(pid), 137);
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let error = hostile.exec(process(&["true"])).await.unwrap_err();
        assert!(error.contains("cannot exec in a stopped container"), "{error}");
        hostile.delete(false).await;
    });
}

#[test]
fn a_helper_that_dies_takes_along_only_what_it_cloned() {
    on_the_shims_thread(async {
        // Two daemons of a container in the host's pid namespace, whose parent had ended, were
        // killed as strays: the shim was their parent, and their control groups were not its own.
        let mut waiting = Fixture::new(&["sh", "-c", "echo waited"]);
        let (init, output) = waiting.create().await.unwrap();
        let mut container = Fixture::new(&["true"]);
        container.share_engine(&waiting);
        let hook = 100_000 + std::process::id();
        container.spec["hooks"] = slow_hook(hook);
        let mut daemon =
            std::process::Command::new("/bin/busybox").args(["sleep", "60"]).spawn().unwrap();
        let groups = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
        let group = groups.lines().find_map(|line| line.split_once(":pids:")).unwrap().1;
        let procs = format!("/sys/fs/cgroup/pids{group}/cgroup.procs");
        fs::write(procs, daemon.id().to_string()).unwrap();
        let engine = std::rc::Rc::clone(&container.engine);
        let helper = engine.helper_pid().await;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            kill_process(helper, Signal::STOP).unwrap();
        };
        let (created, ()) = tokio::join!(container.create(), killing);
        let error = created.unwrap_err();
        assert!(error.contains("stopped from outside"), "{error}");
        container.assert_nothing_left();
        assert!(!runs(&format!("sleep\0{hook}\0")), "the hook that it ran");
        assert!(daemon.try_wait().unwrap().is_none(), "it was killed");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        // Nor what the same helper had made before.
        waiting.start().await.unwrap();
        assert_eq!(read(output), "waited\n");
        assert_eq!(wait(init), 0);
        waiting.delete(false).await;
    });
}

#[test]
fn a_process_that_was_handed_over_outlives_its_helper() {
    // It was still in the helper's process group when a stopped helper was killed, so a start that
    // had succeeded ended with SIGKILL.
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        for _ in 0..100 {
            let process = in_memory(process(&["true"]).to_string().as_bytes()).unwrap();
            let request = HelperRequest::Exec {
                root: container.engine.root.clone(),
                id: container.id.clone(),
                streams: BorrowedStreams::default().named(),
            };
            let fds = [process.as_fd()];
            let answer = container.engine.ask(&container.id, &request, &fds).await.unwrap();
            let HelperReply::Executed { pid } = answer.reply else { panic!() };
            let helper = container.engine.helper_pid().await;
            kill_all(helper);
            // 1 if the helper was killed before it let the process go.
            assert!(matches!(wait(pid), 0 | 1));
        }
        container.delete(true).await;
        assert_eq!(wait(init), 137);
    });
}

#[test]
fn of_many_helpers_one_stays() {
    on_the_shims_thread(async {
        let mut first = Fixture::new(&["true"]);
        first.spec["hooks"] = json!({});
        let mut second = Fixture::new(&["true"]);
        let mut third = Fixture::new(&["true"]);
        second.share_engine(&first);
        third.share_engine(&first);
        let (one, two, three) = tokio::join!(first.create(), second.create(), third.create());
        let inits = [one.unwrap().0, two.unwrap().0, three.unwrap().0];
        let began = Instant::now();
        let helpers = || {
            let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm"));
            let is_helper =
                |pid: &i32| name(pid).is_ok_and(|name| name.trim() == "shim-libcontain");
            children().into_iter().filter(|pid| !inits.contains(pid) && is_helper(pid)).count()
        };
        while helpers() > 1 {
            assert!(began.elapsed() < SOON, "{} helpers", helpers());
            tokio::time::sleep(Duration::from_millis(5)).await;
            // Reaps those that have left.
            let _ = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        }
        for container in [&first, &second, &third] {
            container.delete(true).await;
        }
        for init in inits {
            assert_eq!(wait(init), 137);
        }
    });
}
