//! The life of a container, as `ctr` shows it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use harness::terminal::Terminal;
use harness::{Root, eventually, programs, run, wait};
use serde_json::{Value, json};

use super::client::Client;
use super::{StockContainerd, with_engines};
use crate::engine::Engine;
use crate::grpc::wait_for;

with_engines! {
    runc: Runc {
        a_container_lives_its_whole_life_and_its_events_come_in_order
        signals_reach_the_process_they_are_for_and_all_of_them_when_asked
        a_terminal_is_resized_while_it_runs
        metrics_are_what_runc_itself_reports
        limits_are_changed_while_it_runs
        a_checkpoint_that_criu_refuses_says_so_and_leaves_the_container_running
        running_out_of_memory_is_told_before_the_exit_it_causes
    }
    crun: Crun {
        a_container_lives_its_whole_life_and_its_events_come_in_order
        signals_reach_the_process_they_are_for_and_all_of_them_when_asked
        a_terminal_is_resized_while_it_runs
        running_out_of_memory_is_told_before_the_exit_it_causes
    }
    youki: Youki {
        a_container_lives_its_whole_life_and_its_events_come_in_order
        signals_reach_the_process_they_are_for_and_all_of_them_when_asked
    }
}

/// Runs until a signal ends it, and then ends with 44.
const PATIENT: &str = "trap 'exit 44' TERM; while :; do sleep 0.05; done";

fn a_container_lives_its_whole_life_and_its_events_come_in_order(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let watch = stock.watch();
    let id = stock.detached(&[], PATIENT);
    assert_eq!(stock.status(&id), "RUNNING");
    let record = Path::new("/run/containerd/runc").join(root.namespace()).join(&id);
    match engine {
        Engine::Crun => assert!(record.join("status").is_file(), "crun keeps its record here"),
        Engine::Runc => assert!(record.join("state.json").is_file(), "runc keeps its record here"),
        Engine::Youki | Engine::Stock => {}
    }

    let done = run(&mut stock.exec(&id, "e1", "echo inside; exit 5")).ended_with(5);
    assert_eq!(done.out(), "inside");
    let mut missing = stock.containerd.ctr(&["task", "exec", "--exec-id", "e2", "--fifo-dir"]);
    missing.arg(root.dir("fifo")).args([&id, "/no/such/command"]);
    run(&mut missing).ended_with(1).complains_of(&["/no/such/command"]);

    let _ = stock.ctr(&["task", "pause", &id]).success();
    assert_eq!(stock.status(&id), "PAUSED");
    run(&mut stock.exec(&id, "e3", "true")).ended_with(1).complains_of(&["paused"]);
    let _ = stock.ctr(&["task", "resume", &id]).success();
    assert_eq!(stock.status(&id), "RUNNING");

    let removal = stock.ctr(&["task", "rm", &id]).ended_with(1);
    removal.complains_of(&["must be stopped before deletion"]);
    let _ = stock.ctr(&["task", "kill", "--signal", "SIGTERM", &id]).success();
    stock.becomes(&id, "STOPPED");
    let again = stock.ctr(&["task", "kill", &id]).ended_with(1);
    again.complains_of(&["not found"]);
    stock.ctr(&["task", "rm", &id]).success().complains_of(&["exit code 44"]);
    let _ = stock.ctr(&["containers", "rm", &id]).success();

    watch.wait_for(&id, "delete");
    let told = watch.words(&id);
    let mut expected = vec!["create", "start"];
    expected.extend(["exec-added:e1", "exec-started:e1", "exit:e1"]);
    // It was there, and could not be started.
    expected.extend(["exec-added:e2"]);
    expected.extend(["paused", "resumed", "exit", "delete"]);
    // What is on record of the exec that failed differs between releases, and tells nobody of a
    // process.
    let told: Vec<&str> =
        told.iter().map(String::as_str).filter(|word| *word != "exit:e2").collect();
    assert_eq!(told, expected);
    let exits: Vec<u64> = watch
        .of(&id)
        .iter()
        .filter(|(topic, body)| topic == "exit" && body["id"] == id.as_str())
        .filter_map(|(_, body)| body["exit_status"].as_u64())
        .collect();
    assert_eq!(exits, [44]);
}

fn signals_reach_the_process_they_are_for_and_all_of_them_when_asked(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let script = "trap 'exit 44' TERM; trap 'echo told >/told' USR1; echo up >/up; \
                  while :; do sleep 0.05; done";
    let id = stock.detached(&[], script);
    let there = |exec: &str, file: &str| {
        // Made, it may still be empty.
        let look = format!("until [ -s {file} ]; do sleep 0.05; done; cat {file}");
        run(&mut stock.exec(&id, exec, &look)).success().out()
    };
    assert_eq!(there("look", "/up"), "up");
    std::thread::scope(|scope| {
        let wait = |name: &'static str, script: &'static str| {
            let mut exec = stock.exec(&id, name, script);
            scope.spawn(move || run(&mut exec))
        };
        let one = wait("one", "trap 'exit 3' USR1; echo one >/one; while :; do sleep 0.05; done");
        let two = wait("two", "echo two >/two; exec sleep 600");
        assert_eq!((there("look1", "/one"), there("look2", "/two")), ("one".into(), "two".into()));
        let listed = stock.ctr(&["task", "ps", &id]).success().out();
        assert!(listed.contains("one") && listed.contains("two"), "{listed}");
        // One exec by its id, and no other process.
        let words = ["task", "kill", "--signal", "SIGTERM", "--exec-id", "two", &id];
        let _ = stock.ctr(&words).success();
        let _ = two.join().expect("no panic").ended_with(143);
        stock.ctr(&words).ended_with(1).complains_of(&["not found"]);
        assert_eq!(stock.status(&id), "RUNNING");
        // All of them.
        let _ = stock.ctr(&["task", "kill", "--all", "--signal", "SIGUSR1", &id]).success();
        let _ = one.join().expect("no panic").ended_with(3);
    });
    assert_eq!(there("look3", "/told"), "told");
    let _ = stock.ctr(&["task", "kill", "--all", "--signal", "SIGKILL", &id]).success();
    stock.becomes(&id, "STOPPED");
    stock.ctr(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
    let _ = stock.ctr(&["containers", "rm", &id]).success();
}

fn a_terminal_is_resized_while_it_runs(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let (command, id) = stock.run(&["--rm", "--tty"], script);
    let terminal = Terminal::start(&command);
    terminal.shows("ready");
    resized(&terminal, 44, 101);
    // An exec's own terminal is another one.
    let mut exec = stock.containerd.ctr(&["task", "exec", "--tty", "--exec-id", "e", "--fifo-dir"]);
    exec.arg(root.dir("fifo")).args([&id, "/bin/sh", "-c", script]);
    let second = Terminal::start(&exec);
    second.shows("ready");
    resized(&second, 21, 77);
    assert!(!terminal.screen().contains("21 77"), "{}", terminal.screen());
    // One after the other: a ctr whose exec is gone with its container leaves the exec's fifos.
    for (mut terminal, process) in [(second, &["--exec-id", "e"][..]), (terminal, &[])] {
        let kill = [&["task", "kill", "--signal", "SIGKILL"], process, &[&id]].concat();
        let _ = stock.ctr(&kill).success();
        assert_eq!(terminal.end(), 137);
    }
}

/// Changes a terminal's size until the container says so: ctr does not see a change that comes
/// between its first look and its watching for the signal.
#[track_caller]
fn resized(terminal: &Terminal, rows: u16, columns: u16) {
    eventually(wait::SOON, "the container has the terminal's size", || {
        terminal.resize(rows, columns - 1);
        terminal.resize(rows, columns);
        let size = format!("{rows} {columns}\r");
        wait::until(wait::QUIET, || terminal.screen().contains(&size).then_some(()))
    });
}

/// What is in a cgroup v1 `Metrics` message as `ctr` prints it, by runc's names.
const MEMORY: &[(&str, &str)] = &[
    ("cache", "cache"),
    ("rss", "rss"),
    ("rss_huge", "rss_huge"),
    ("mapped_file", "mapped_file"),
    ("dirty", "dirty"),
    ("writeback", "writeback"),
    ("pg_pg_in", "pgpgin"),
    ("pg_pg_out", "pgpgout"),
    ("pg_fault", "pgfault"),
    ("pg_maj_fault", "pgmajfault"),
    ("inactive_anon", "inactive_anon"),
    ("active_anon", "active_anon"),
    ("inactive_file", "inactive_file"),
    ("active_file", "active_file"),
    ("unevictable", "unevictable"),
    ("hierarchical_memory_limit", "hierarchical_memory_limit"),
    ("hierarchical_swap_limit", "hierarchical_memsw_limit"),
    ("total_cache", "total_cache"),
    ("total_rss", "total_rss"),
    ("total_rss_huge", "total_rss_huge"),
    ("total_mapped_file", "total_mapped_file"),
    ("total_dirty", "total_dirty"),
    ("total_writeback", "total_writeback"),
    ("total_pg_pg_in", "total_pgpgin"),
    ("total_pg_pg_out", "total_pgpgout"),
    ("total_pg_fault", "total_pgfault"),
    ("total_pg_maj_fault", "total_pgmajfault"),
    ("total_inactive_anon", "total_inactive_anon"),
    ("total_active_anon", "total_active_anon"),
    ("total_inactive_file", "total_inactive_file"),
    ("total_active_file", "total_active_file"),
    ("total_unevictable", "total_unevictable"),
];

/// Both as one flat list under runc's names, without what is zero: protobuf does not write it.
pub(super) fn flat(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flat(&format!("{prefix}/{name}"), value, into);
            }
        }
        Value::Null => {}
        Value::Number(number) if number.as_u64() == Some(0) => {}
        Value::Array(items) if items.is_empty() => {}
        other => {
            into.insert(prefix.to_owned(), other.clone());
        }
    }
}

fn metrics_are_what_runc_itself_reports(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    // It uses some of everything, and is paused, so that both look at the same.
    let script = "dd if=/dev/zero of=/f bs=64k count=32 2>/dev/null; cat /f >/dev/null; \
                  i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo up >/up; sleep 600";
    let flags = ["--memory-limit", "67108864", "--cpus", "0.9"];
    let id = stock.detached(&flags, script);
    let up = stock.containerd.bundle(&id).join("rootfs/up");
    eventually(wait::SOON, "it has used what it uses", || up.exists().then_some(()));
    let _ = stock.ctr(&["task", "pause", &id]).success();

    let state = Path::new("/run/containerd/runc").join(root.namespace());
    let mut runc = root.command(programs::system("runc"));
    runc.arg("--root").arg(state).args(["events", "--stats", &id]);
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    // A page that the kernel writes back in between is no fault of either.
    eventually(wait::SOON, "two looks at the same", || {
        let before = run(&mut runc).success().out();
        let out = stock.ctr(&["task", "metrics", "--format", "json", &id]).success().out();
        if run(&mut runc).success().out() != before {
            return None;
        }
        let metrics: Value = serde_json::from_str(&out).expect("ctr writes JSON");
        let stats: Value = serde_json::from_str(&before).expect("runc writes JSON");
        let data = &stats["data"];
        flat("pids", &metrics["pids"], &mut ours);
        flat("pids", &data["pids"], &mut theirs);
        for (name, runcs) in
            [("total", "total"), ("user", "user"), ("kernel", "kernel"), ("per_cpu", "percpu")]
        {
            flat(&format!("cpu/{name}"), &metrics["cpu"]["usage"][name], &mut ours);
            flat(&format!("cpu/{name}"), &data["cpu"]["usage"][runcs], &mut theirs);
        }
        for (name, runcs) in [
            ("periods", "periods"),
            ("throttled_periods", "throttledPeriods"),
            ("throttled_time", "throttledTime"),
        ] {
            flat(&format!("throttling/{name}"), &metrics["cpu"]["throttling"][name], &mut ours);
            flat(&format!("throttling/{name}"), &data["cpu"]["throttling"][runcs], &mut theirs);
        }
        for (name, runcs) in MEMORY {
            flat(&format!("memory/{name}"), &metrics["memory"][name], &mut ours);
            flat(&format!("memory/{name}"), &data["memory"]["raw"][runcs], &mut theirs);
        }
        for (name, runcs) in [
            ("usage", "usage"),
            ("swap", "swap"),
            ("kernel", "kernel"),
            ("kernel_tcp", "kernelTCP"),
        ] {
            flat(&format!("memory/{name}"), &metrics["memory"][name], &mut ours);
            flat(&format!("memory/{name}"), &data["memory"][runcs], &mut theirs);
        }
        Some(())
    });
    assert_eq!(ours, theirs);
    assert_eq!(ours["memory/usage/limit"], json!(67_108_864));
    assert!(ours["cpu/total"].as_u64() > Some(1_000_000), "{ours:?}");
    assert!(ours.len() > 20, "{ours:?}");
    let _ = stock.ctr(&["task", "resume", &id]).success();
    stock.remove(&id);
}

fn limits_are_changed_while_it_runs(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let id = stock.detached(&["--memory-limit", "67108864"], "exec sleep 600");
    let limit = |controller: &str, file: &str| {
        let group = Path::new("/sys/fs/cgroup").join(controller).join(root.namespace()).join(&id);
        fs::read_to_string(group.join(file)).expect("the container's own cgroup").trim().to_owned()
    };
    assert_eq!(limit("memory", "memory.limit_in_bytes"), "67108864");
    wait_for(async {
        let client = Client::connect(&stock.containerd, root.namespace()).await;
        let resources = json!({
            "memory": { "limit": 33_554_432 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
            "pids": { "limit": 77 },
        });
        client.update(&id, &resources).await.expect("Update");
        // Too much for anybody is refused, by the kernel's word.
        let refused = client.update(&id, &json!({ "cpu": { "cpus": "4000" } })).await;
        let refused = refused.expect_err("there is no such processor");
        assert!(refused.message().contains("cpuset.cpus"), "{refused:?}");
    });
    assert_eq!(limit("memory", "memory.limit_in_bytes"), "33554432");
    assert_eq!(limit("cpu", "cpu.shares"), "512");
    assert_eq!(limit("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(limit("pids", "pids.max"), "77");
    stock.remove(&id);
}

fn a_checkpoint_that_criu_refuses_says_so_and_leaves_the_container_running(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let id = stock.detached(&[], "exec sleep 600");
    // Debian's criu does not know this kernel's vdso; where there is none at all, runc says so.
    let images = root.dir("images");
    let work = root.dir("criu");
    let mut command = stock.containerd.ctr(&["task", "checkpoint", "--image-path"]);
    command.arg(&images).arg("--work-path").arg(&work).arg(&id);
    let done = run(&mut command);
    if done.code() == 0 {
        assert!(images.join("core-1.img").is_file(), "a checkpoint has init's image");
    } else {
        done.complains_of(&["checkpoint failed", "criu"]);
        let log = work.join("dump.log");
        if log.exists() {
            // criu ran; what it said stays with the bundle, and the message says where.
            let kept = stock.containerd.bundle(&id).join("criu-dump.log");
            assert!(done.err().contains(&kept.display().to_string()), "{done:?}");
            let said = fs::read_to_string(&kept).expect("the message names it");
            assert!(said.contains("Error"), "{said}");
        }
    }
    assert_eq!(stock.status(&id), "RUNNING");
    let _ = run(&mut stock.exec(&id, "e1", "exit 6")).ended_with(6);
    stock.remove(&id);
}

fn running_out_of_memory_is_told_before_the_exit_it_causes(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let watch = stock.watch();
    let script = "sleep 0.2; exec tail -c 200000000 /dev/zero";
    let id = stock.detached(&["--memory-limit", "16777216"], script);
    stock.becomes(&id, "STOPPED");
    stock.ctr(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
    let _ = stock.ctr(&["containers", "rm", &id]).success();
    watch.wait_for(&id, "delete");
    assert_eq!(watch.words(&id), ["create", "start", "oom", "exit", "delete"]);
    // One that was never short of it is not said to have been.
    let id = stock.detached(&["--memory-limit", "67108864"], "exit 3");
    stock.becomes(&id, "STOPPED");
    stock.remove(&id);
    watch.wait_for(&id, "delete");
    assert_eq!(watch.words(&id), ["create", "start", "exit", "delete"]);
}
