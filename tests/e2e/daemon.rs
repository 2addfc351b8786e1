//! One daemon without a service manager: it starts on demand, leaves when idle, and adopts containers that live on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use harness::fixtures::{self, APP};
use harness::image::Image;
use harness::{Root, Supervisor, eventually, leak, run, wait};
use nix::sys::signal::Signal;

use crate::run::{nothing_is_kept, supervisor};
use crate::stock::A_MOMENT;

#[test]
fn twenty_clients_at_the_same_instant_start_one_daemon_and_all_succeed() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let archive = Image::busybox("example.test/small:1").write(&root.path().join("small.tar"));
    let barrier = std::sync::Barrier::new(20);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (supervisor, archive, barrier) = (&supervisor, &archive, &barrier);
            scope.spawn(move || {
                barrier.wait();
                // Readers and writers alike.
                if number % 2 == 0 {
                    let _ = supervisor.run(&["ps"]).success();
                } else {
                    supervisor.import(archive);
                }
            });
        }
    });
    let _ = supervisor.daemon();
    assert!(supervisor.run(&["images"]).success().out().contains("example.test/small:1"));
    let _ = supervisor.run(&["run", "--rm", "example.test/small:1", "/bin/true"]).success();
}

#[test]
fn twenty_containers_at_the_same_instant_on_a_daemon_not_yet_started() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    supervisor.stop(Signal::SIGTERM);
    let barrier = std::sync::Barrier::new(20);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (supervisor, barrier) = (&supervisor, &barrier);
            scope.spawn(move || {
                let script = format!("exit {number}");
                barrier.wait();
                let words = ["run", "--rm", APP, "/bin/sh", "-c", &script];
                let _ = supervisor.run(&words).ended_with(number);
            });
        }
    });
    let _ = supervisor.daemon();
    nothing_is_kept(&supervisor);
}

#[test]
fn a_daemon_started_on_demand_is_detached_from_who_started_it() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    // Returning at all shows that the daemon holds none of the client's streams.
    let mut client = supervisor.cli(&["ps"]);
    client.env("SECRET_OF_THE_CLIENT", "x").current_dir(root.path());
    let _ = run(&mut client).success();
    let pid = supervisor.daemon();
    let proc = |name: &str| format!("/proc/{pid}/{name}");
    assert_eq!(fs::read_link(proc("cwd")).expect("it runs"), std::path::Path::new("/"));
    for stream in ["fd/0", "fd/1"] {
        assert_eq!(
            fs::read_link(proc(stream)).expect("it is open"),
            std::path::Path::new("/dev/null")
        );
    }
    let environment = fs::read(proc("environ")).expect("it runs");
    assert!(!String::from_utf8_lossy(&environment).contains("SECRET_OF_THE_CLIENT"));
    // The sixth field is the session's leader.
    let session: Option<i32> = harness::proc::stat(pid, 6);
    assert_eq!(session, Some(pid));
    let socket = fs::metadata(supervisor.socket()).expect("it listens");
    assert_eq!(socket.mode() & 0o007, 0, "no other user may connect");
}

#[test]
fn a_quiet_daemon_leaves_and_the_next_start_adopts_what_lives_on() {
    let root = Root::new();
    let supervisor = supervisor_that_leaves_soon(&root);
    let (lives, ends) = (root.id("lives"), root.id("ends"));
    let run = |id: &str, script: &str| {
        let _ = supervisor.run(&["run", "-d", "--id", id, APP, "/bin/sh", "-c", script]).success();
    };
    run(&lives, "sleep 600");
    run(&ends, "sleep 4; exit 42");
    let bundle = supervisor.state().join("tasks").join(root.namespace()).join(&ends);
    let init = fs::read_to_string(bundle.join("init.pid")).expect("the shim keeps it there");
    let init = init.parse().expect("a process");
    // On a slow machine it may have left already.
    let first = supervisor.daemons();
    eventually(wait::SOON, "the daemon leaves", || supervisor.daemons().is_empty().then_some(()));
    assert!(!supervisor.socket().exists(), "it takes its socket along");
    assert!(harness::containerd::shim_of(&lives).is_some(), "containers live on in their shims");
    // One container ends while no daemon runs.
    eventually(wait::SOON, "it ends", || leak::state(init).is_none().then_some(()));

    let listed = supervisor.run(&["ps", "-a"]).success().out();
    assert!(supervisor.daemons().iter().all(|daemon| !first.contains(daemon)));
    let line =
        |id: &str| listed.lines().find(|line| line.contains(id)).unwrap_or_default().to_lowercase();
    assert!(line(&lives).contains("running"), "{listed}");
    assert!(
        !line(&ends).contains("running") && line(&ends).contains(&ends.to_lowercase()),
        "{listed}"
    );
    let done = supervisor.run(&["wait", &ends]);
    assert_eq!(done.success().out(), "42");
    let done = supervisor.run(&["exec", &lives, "/bin/sh", "-c", "echo still here"]).success();
    assert_eq!(done.out(), "still here");
    let _ = supervisor.run(&["rm", &ends]).success();
    let _ = supervisor.run(&["rm", "-f", &lives]).success();
    nothing_is_kept(&supervisor);
}

fn supervisor_that_leaves_soon(root: &Root) -> Supervisor<'_> {
    let supervisor = Supervisor::new(root).with_idle_timeout(1);
    supervisor.import(&fixtures::images().app());
    supervisor
}

#[test]
fn an_attached_client_keeps_a_daemon_on_demand_from_leaving() {
    let root = Root::new();
    let supervisor = supervisor_that_leaves_soon(&root);
    let done =
        supervisor.run(&["run", "--rm", APP, "/bin/sh", "-c", "sleep 4; echo after; exit 6"]);
    assert_eq!(done.ended_with(6).out(), "after");
}

#[test]
fn a_daemon_started_by_hand_stays() {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root).with_idle_timeout(1);
    supervisor.serve();
    let pid = supervisor.daemon();
    // One that was started on demand later, with the same timeout, has left.
    let elsewhere = Root::new();
    let on_demand = Supervisor::new(&elsewhere).with_idle_timeout(1);
    let _ = on_demand.run(&["ps"]).success();
    eventually(wait::SOON, "a daemon on demand has left", || {
        on_demand.daemons().is_empty().then_some(())
    });
    assert_eq!(supervisor.daemon(), pid);
    let _ = supervisor.run(&["ps"]).success();
    supervisor.stop(Signal::SIGTERM);
    assert!(!supervisor.socket().exists(), "it takes its socket along");
}

#[test]
fn a_daemon_killed_outright_loses_no_image_no_exit_and_no_container() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    let (lives, ends) = (root.id("lives"), root.id("ends"));
    let run = |supervisor: &Supervisor<'_>, id: &str, script: &str| {
        let _ = supervisor.run(&["run", "-d", "--id", id, APP, "/bin/sh", "-c", script]).success();
    };
    run(&supervisor, &lives, "sleep 600");
    run(&supervisor, &ends, "until [ -e /end ]; do sleep 0.05; done; exit 7");
    let tasks = harness::run(&mut supervisor.ctr(&["tasks", "ls"])).success().out();
    let line = tasks.lines().find(|line| line.starts_with(&ends)).expect("it runs");
    let pid: i32 =
        line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("its pid");
    supervisor.stop(Signal::SIGKILL);
    fs::write(format!("/proc/{pid}/root/end"), "").expect("it runs");
    eventually(wait::SOON, "a container ends without a daemon", || {
        matches!(leak::state(pid), None | Some('Z' | 'X')).then_some(())
    });
    assert_eq!(supervisor.run(&["wait", &ends]).success().out(), "7");
    let _ = supervisor.run(&["exec", &lives, "/bin/true"]).success();
    assert!(supervisor.run(&["images"]).success().out().contains(APP));
    let _ = supervisor.run(&["rm", &ends]).success();
    let _ = supervisor.run(&["rm", "-f", &lives]).success();
    let _ = supervisor.run(&["run", "--rm", APP, "/bin/true"]).success();
    nothing_is_kept(&supervisor);
}

#[test]
fn a_daemon_killed_while_containers_start_leaves_none_half_made() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    for round in 0..4_u64 {
        let ids: Vec<String> = (0..6).map(|_| root.id("h")).collect();
        std::thread::scope(|scope| {
            for id in &ids {
                let mut client =
                    supervisor.cli(&["run", "-d", "--id", id, APP, "/bin/sleep", "600"]);
                scope.spawn(move || run(&mut client));
            }
            wait::pass(Duration::from_millis(30 + round * 25));
            for pid in supervisor.daemons() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        });
        // Each can be removed, whether or not it started, and nothing else is there.
        for id in &ids {
            let done = supervisor.run(&["rm", "-f", id]);
            assert!(done.code() == 0 || done.err().contains("no container"), "{done:?}");
        }
        nothing_is_kept(&supervisor);
    }
    supervisor.stop(Signal::SIGTERM);
}

#[test]
fn a_shim_killed_outright_is_reported_once_as_137_and_leaves_nothing() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("k");
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sleep", "600"]).success();
    let shim = harness::containerd::shim_of(&id).expect("a shim runs for it");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), Signal::SIGKILL).expect("it runs");
    let done = supervisor.run(&["wait", &id]);
    assert_eq!(done.success().out(), "137");
    let _ = supervisor.run(&["rm", &id]).success();
    nothing_is_kept(&supervisor);
}

#[test]
fn stock_ctr_imports_and_runs_against_our_daemon() {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words));
    let version = ctr(&["version"]).success();
    assert!(version.out().contains("Server:"), "{version:?}");
    let archive = fixtures::images().app();
    let archive = archive.to_str().expect("a plain path");
    let _ = ctr(&["images", "import", archive]).success();
    assert!(ctr(&["images", "ls", "-q"]).success().out().contains(APP));
    // ctr's own spec has a cgroup per namespace, which is never removed.
    root.tolerate_namespace_cgroup();
    let fifos = root.dir("fifo");
    let fifos = fifos.to_str().expect("a plain path");
    for runtime in ["io.containerd.youki.v1", "io.containerd.runc.v2"] {
        let id = root.id("c");
        let words = ["run", "--rm", "--runtime", runtime, "--fifo-dir", fifos, APP, &id];
        let script = format!("echo from ctr; {A_MOMENT}; exit 42");
        let done = ctr(&[&words[..], &["/bin/sh", "-c", &script]].concat());
        assert_eq!(done.ended_with(42).out(), "from ctr");
    }
    let plugins = ctr(&["plugins", "ls"]).success();
    assert!(plugins.out().contains("overlayfs"), "{plugins:?}");
    let _ = ctr(&["images", "rm", APP]).success();
    assert_eq!(ctr(&["images", "ls", "-q"]).success().out(), "");
    nothing_is_kept(&supervisor);
}
