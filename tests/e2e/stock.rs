//! Our shims under stock containerd, driven by stock `ctr`.

use std::fs;

use harness::fixtures::{self, APP};
use harness::terminal::Terminal;
use harness::{Containerd, Root, eventually, image, run, run_with_input, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::engine::{Engine, with_each_engine_and_control};

with_each_engine_and_control! {
    exit_codes_and_deaths_by_signal_come_through
    standard_input_reaches_the_container_and_ends
    a_terminal_has_its_size_and_answers
    a_detached_container_takes_execs_is_killed_and_removed
    eight_mebibytes_written_just_before_exit_arrive_whole
    a_command_that_cannot_run_is_refused_clearly_and_leaves_nothing
    standard_output_and_error_stay_apart
    many_containers_at_once_all_end_well
    a_shim_killed_outright_leaves_nothing_once_its_container_is_removed
}

fn containerd(root: &Root, engine: Engine) -> Containerd<'_> {
    let containerd = Containerd::start(root, engine.shims().as_deref());
    containerd.import(&fixtures::images().app());
    containerd
}

fn exit_codes_and_deaths_by_signal_come_through(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 137", 137),
        // Init cannot signal itself, but the kernel ends it for running out of stack.
        ("f() { f; }; f", 139),
        ("sh -c 'kill -9 $$'; exit $?", 137),
    ] {
        let (mut ctr, _) =
            containerd.ctr_run(engine.runtime(), &["--rm"], APP, &["/bin/sh", "-c", script]);
        let _ = run(&mut ctr).ended_with(code);
    }
    assert_eq!(containerd.run(&["containers", "ls", "-q"]).success().out(), "");
    assert_eq!(
        containerd
            .run(&["snapshots", "ls"])
            .success()
            .out()
            .lines()
            .filter(|line| line.contains("Active"))
            .count(),
        0
    );
}

fn standard_input_reaches_the_container_and_ends(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    let input: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7 % 251) as u8).collect();
    let (mut ctr, _) = containerd.ctr_run(
        engine.runtime(),
        &["--rm"],
        APP,
        &["/bin/sh", "-c", "sha256sum; exit 3"],
    );
    let done = run_with_input(&mut ctr, &input).ended_with(3);
    assert!(done.out().starts_with(&image::hex(&input)), "{done:?}");
}

/// Time for ctr to read: it gives up an end that it is still opening when it hears of the exit.
pub(crate) const A_MOMENT: &str = "sleep 0.5";

/// Clients set the terminal's size when the container runs already.
pub(crate) const ON_A_TERMINAL: &str = "tty; until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; \
                                        done; stty size; read word; echo got:$word; exit 7";

fn a_terminal_has_its_size_and_answers(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    let (ctr, _) = containerd.ctr_run(
        engine.runtime(),
        &["--rm", "--tty"],
        APP,
        &["/bin/sh", "-c", ON_A_TERMINAL],
    );
    let mut terminal = Terminal::start(&ctr);
    terminal.shows("/dev/pts/0");
    terminal.shows("33 99");
    terminal.type_in("word\n");
    terminal.shows("got:word");
    assert_eq!(terminal.end(), 7, "{}", terminal.screen());
}

fn a_detached_container_takes_execs_is_killed_and_removed(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    let (mut ctr, id) =
        containerd.ctr_run(engine.runtime(), &["--detach"], APP, &["/bin/sleep", "600"]);
    let _ = run(&mut ctr).success();
    let shim = containerd.shim(&id);
    assert_eq!(
        fs::canonicalize(format!("/proc/{shim}/exe")).expect("the shim runs"),
        fs::canonicalize(engine.binary()).expect("it was built"),
        "the container must run under the shim that this test is about"
    );
    assert!(containerd.run(&["task", "ls"]).success().out().contains("RUNNING"));

    let fifos = root.dir("fifo");
    let exec = |name: &str, flags: &[&str], script: &str| {
        let mut ctr = containerd.ctr(&["task", "exec", "--exec-id", name, "--fifo-dir"]);
        ctr.arg(&fifos).args(flags).args([&id, "/bin/sh", "-c", script]);
        ctr
    };
    let done = run(&mut exec("e1", &[], "echo inside; exit 5")).ended_with(5);
    assert_eq!(done.out(), "inside");
    let _ = run(&mut exec("e2", &[], "kill -TERM $$")).ended_with(143);
    let done = run_with_input(&mut exec("e3", &[], "wc -c"), &[b'x'; 100_000]).success();
    assert_eq!(done.out(), "100000");
    let mut terminal = Terminal::start(&exec("e4", &["--tty"], "tty; exit 9"));
    terminal.shows("/dev/pts/");
    assert_eq!(terminal.end(), 9);
    // An exec sees the container's processes, not the host's.
    let done = run(&mut exec("e5", &[], "cat /proc/1/cmdline | tr '\\0' ' '")).success();
    assert_eq!(done.out(), "/bin/sleep 600");

    let pids = containerd.run(&["task", "ps", &id]).success();
    assert!(pids.out().lines().count() >= 2, "{pids:?}");
    let _ = containerd.run(&["task", "kill", "--signal", "SIGKILL", &id]).success();
    eventually(wait::SOON, "the task stops", || {
        containerd.run(&["task", "ls"]).out().contains("STOPPED").then_some(())
    });
    containerd.run(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
    let _ = containerd.run(&["containers", "rm", &id]).success();
    assert!(
        harness::containerd::shim_of(&id).is_none() || {
            eventually(wait::SOON, "the shim leaves", || {
                harness::containerd::shim_of(&id).is_none().then_some(true)
            })
        }
    );
}

/// By an exec: of a container's own output `ctr run` loses the rest now and then, whatever the shim,
/// since it stops reading at the exit and before the delete.
fn eight_mebibytes_written_just_before_exit_arrive_whole(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    let flags = ["--detach", "--null-io"];
    let (mut ctr, id) = containerd.ctr_run(engine.runtime(), &flags, APP, &["/bin/sleep", "600"]);
    let _ = run(&mut ctr).success();
    let mut ctr = containerd.ctr(&["task", "exec", "--exec-id", "e1", "--fifo-dir"]);
    ctr.arg(root.dir("fifo")).arg(&id);
    ctr.args(["/bin/sh", "-c", "yes 0123456789abcde | head -c 8388608; exit 4"]);
    let done = run(&mut ctr).ended_with(4);
    assert_eq!(done.stdout.len(), 8 << 20);
    assert!(done.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"));
    let _ = containerd.run(&["task", "kill", "--signal", "SIGKILL", &id]).success();
    eventually(wait::SOON, "the task stops", || {
        containerd.run(&["task", "ls"]).out().contains("STOPPED").then_some(())
    });
    containerd.run(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
    let _ = containerd.run(&["containers", "rm", &id]).success();
}

fn a_command_that_cannot_run_is_refused_clearly_and_leaves_nothing(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    for (command, words) in [
        ("/no/such/command", ["/no/such/command", "no such file"]),
        ("/bin/not-executable", ["/bin/not-executable", "permission denied"]),
    ] {
        let (mut ctr, id) = containerd.ctr_run(engine.runtime(), &["--rm"], APP, &[command]);
        let done = run(&mut ctr);
        assert_ne!(done.code(), 0, "{done:?}");
        done.complains_of(&words);
        assert!(
            harness::containerd::shim_of(&id).is_none() || {
                eventually(wait::SOON, "the shim leaves", || {
                    harness::containerd::shim_of(&id).is_none().then_some(true)
                })
            }
        );
    }
    assert_eq!(containerd.run(&["task", "ls", "-q"]).success().out(), "");
}

fn standard_output_and_error_stay_apart(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    let (mut ctr, _) = containerd.ctr_run(
        engine.runtime(),
        &["--rm"],
        APP,
        &["/bin/sh", "-c", &format!("echo to-out; echo to-err >&2; {A_MOMENT}")],
    );
    let done = run(&mut ctr).success();
    assert_eq!((done.out().as_str(), done.err().as_str()), ("to-out", "to-err"));
}

fn many_containers_at_once_all_end_well(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    std::thread::scope(|scope| {
        for code in 0..12 {
            let containerd = &containerd;
            scope.spawn(move || {
                let script = format!("echo number {code}; {A_MOMENT}; exit {code}");
                let (mut ctr, _) = containerd.ctr_run(
                    engine.runtime(),
                    &["--rm"],
                    APP,
                    &["/bin/sh", "-c", &script],
                );
                let done = run(&mut ctr).ended_with(code);
                assert_eq!(done.out(), format!("number {code}"));
            });
        }
    });
}

fn a_shim_killed_outright_leaves_nothing_once_its_container_is_removed(engine: Engine) {
    let root = Root::new();
    let containerd = containerd(&root, engine);
    // Without streams: those of a dead shim are ctr's to remove, and it has no occasion to.
    let flags = ["--detach", "--null-io"];
    let (mut ctr, id) = containerd.ctr_run(engine.runtime(), &flags, APP, &["/bin/sleep", "600"]);
    let _ = run(&mut ctr).success();
    kill(Pid::from_raw(containerd.shim(&id)), Signal::SIGKILL).expect("the shim runs");
    // containerd notices, has the shim binary clean up, and forgets the task.
    let bundle = containerd.bundle(&id);
    eventually(wait::SOON, "containerd removes the bundle", || (!bundle.exists()).then_some(()));
    eventually(wait::SOON, "it forgets the task", || {
        containerd.run(&["task", "ls", "-q"]).success().out().is_empty().then_some(())
    });
    let _ = containerd.run(&["containers", "rm", &id]).success();
    if engine == Engine::Stock {
        // containerd's own shim leaves the dead one's socket.
        let _ = fs::remove_file(containerd.shim_socket(&id));
    }
}

#[test]
fn the_shim_is_found_by_its_absolute_path_too() {
    for engine in [Engine::Youki, Engine::Runc] {
        let root = Root::new();
        let containerd = Containerd::start(&root, None);
        containerd.import(&fixtures::images().app());
        let path = engine.binary();
        let path = path.to_str().expect("a plain path");
        let script = ["/bin/sh", "-c", "exit 11"];
        let (mut ctr, _) = containerd.ctr_run(path, &["--rm"], APP, &script);
        let _ = run(&mut ctr).ended_with(11);
    }
}

#[test]
fn containers_outlive_a_killed_containerd_and_are_found_again() {
    for engine in [Engine::Youki, Engine::Runc] {
        let root = Root::new();
        let mut containerd = containerd(&root, engine);
        let (mut ctr, id) =
            containerd.ctr_run(engine.runtime(), &["--detach"], APP, &["/bin/sleep", "600"]);
        let _ = run(&mut ctr).success();
        let shim = containerd.shim(&id);
        containerd.stop(Signal::SIGKILL);
        let outlives = wait::holds(wait::QUIET, || harness::leak::state(shim).is_some());
        assert!(outlives, "the shim left with containerd");
        containerd.restart();
        assert_eq!(containerd.shim(&id), shim);
        assert!(containerd.run(&["task", "ls"]).success().out().contains("RUNNING"));
        let _ = containerd.run(&["task", "kill", "--signal", "SIGKILL", &id]).success();
        eventually(wait::SOON, "the task stops", || {
            containerd.run(&["task", "ls"]).out().contains("STOPPED").then_some(())
        });
        containerd.run(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
        let _ = containerd.run(&["containers", "rm", &id]).success();
    }
}
