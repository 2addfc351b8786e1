//! Containers through our own supervisor: `run`, `exec`, `ps`, `kill`, `wait`, `rm`.

use std::fs;

use harness::fixtures::{self, APP, CONFIGURED};
use harness::terminal::Terminal;
use harness::{Root, Supervisor, eventually, image, programs, wait};

use crate::engine::{Engine, with_each_engine};
use crate::stock::ON_A_TERMINAL;

with_each_engine! {
    exit_codes_and_deaths_by_signal_come_through
    standard_input_reaches_the_container_and_ends
    a_terminal_has_its_size_and_answers
    a_detached_container_takes_execs_is_killed_and_removed
    a_user_of_the_host_runs_nothing_of_a_container
    eight_mebibytes_written_just_before_exit_arrive_whole
    a_command_that_is_not_found_ends_with_127_and_one_not_executable_with_126
    the_image_config_decides_command_environment_directory_and_user
    flags_override_the_image_config
    the_container_is_confined_as_containers_are_by_default
    many_containers_at_once_all_end_well
}

/// A supervisor that has the application image and starts its daemon on demand.
pub(crate) fn supervisor(root: &Root) -> Supervisor<'_> {
    let supervisor = Supervisor::new(root);
    supervisor.import(&fixtures::images().app());
    supervisor
}

/// The words of `run` up to the image.
fn flags<'a>(engine: Engine, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--runtime", engine.runtime()], more, &[APP]].concat()
}

fn exit_codes_and_deaths_by_signal_come_through(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 137", 137),
        ("f() { f; }; f", 139),
        ("sh -c 'kill -9 $$'; exit $?", 137),
    ] {
        let words = [flags(engine, &["--rm"]), vec!["/bin/sh", "-c", script]].concat();
        let _ = supervisor.run(&words).ended_with(code);
    }
    nothing_is_kept(&supervisor);
}

/// No container, no task, no snapshot in use, seen through containerd's own client; what only the
/// collection of garbage removes may take its time.
pub(crate) fn nothing_is_kept(supervisor: &Supervisor<'_>) {
    let ctr = |words: &[&str]| harness::run(&mut supervisor.ctr(words)).success().out();
    assert_eq!(ctr(&["containers", "ls", "-q"]), "");
    // A daemon that was killed in the middle of one undoes it when it is back.
    eventually(wait::SOON, "no task is there", || {
        ctr(&["tasks", "ls", "-q"]).is_empty().then_some(())
    });
    eventually(wait::SOON, "no snapshot is in use", || {
        (!ctr(&["snapshots", "ls"]).contains("Active")).then_some(())
    });
}

fn standard_input_reaches_the_container_and_ends(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let input: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7 % 251) as u8).collect();
    let words =
        [flags(engine, &["--rm", "-i"]), vec!["/bin/sh", "-c", "sha256sum; exit 3"]].concat();
    let done = supervisor.run_with_input(&words, &input).ended_with(3);
    assert!(done.out().starts_with(&image::hex(&input)), "{done:?}");
    // Without -i there is nothing to read.
    let words = [flags(engine, &["--rm"]), vec!["/bin/sh", "-c", "wc -c"]].concat();
    let done = supervisor.run_with_input(&words, b"unread").success();
    assert_eq!(done.out(), "0");
}

fn a_terminal_has_its_size_and_answers(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let words =
        [flags(engine, &["--rm", "-i", "-t"]), vec!["/bin/sh", "-c", ON_A_TERMINAL]].concat();
    let mut terminal = Terminal::start(&supervisor.cli(&words));
    terminal.shows("/dev/pts/0");
    terminal.shows("33 99");
    terminal.type_in("word\n");
    terminal.shows("got:word");
    assert_eq!(terminal.end(), 7, "{}", terminal.screen());
}

fn a_user_of_the_host_runs_nothing_of_a_container(engine: Engine) {
    // A setuid-root file that a container had made was run by a user of the host, through the bundle.
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("s");
    let script = "cp /bin/busybox /id && chmod 4755 /id && echo >/ready && exec sleep 600";
    let words = [flags(engine, &["-d", "--id", &id]), vec!["/bin/sh", "-c", script]].concat();
    let _ = supervisor.run(&words).success();
    let bundle = supervisor.state().join("tasks").join(root.namespace()).join(&id);
    let rootfs = bundle.join("rootfs");
    eventually(wait::SOON, "the file is there", || rootfs.join("ready").exists().then_some(()));
    // What is above belongs to the tests and to the daemon, and is asked elsewhere.
    for above in bundle.ancestors().skip(1).take_while(|one| one.starts_with(root.path())) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(above, mode).expect("our own");
    }
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let as_user = |program: &std::path::Path| {
        let mut command = root.command(programs::system("setpriv"));
        // setpriv itself keeps its capabilities until it executes.
        command.args(user).args(["/bin/sh", "-c", "exec \"$0\" -u"]).arg(program);
        harness::run(&mut command)
    };
    let done = as_user(&rootfs.join("id"));
    assert_ne!(done.code(), 0, "{done:?}");
    done.complains_of(&["Permission denied"]);
    // It is the bundle that keeps them out. (busybox itself gives up what it does not need.)
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(&bundle, mode).expect("our own");
    let _ = as_user(&rootfs.join("id")).success();
    let _ = supervisor.run(&["rm", "-f", &id]).success();
}

fn a_detached_container_takes_execs_is_killed_and_removed(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("d");
    let words = [flags(engine, &["-d", "--id", &id]), vec!["/bin/sleep", "600"]].concat();
    let _ = supervisor.run(&words).success();
    let shim = harness::containerd::shim_of(&id).expect("a shim runs for it");
    assert_eq!(
        fs::canonicalize(format!("/proc/{shim}/exe")).expect("the shim runs"),
        fs::canonicalize(engine.binary()).expect("it was built"),
        "the container must run under the shim that this test is about"
    );
    let listed = supervisor.run(&["ps"]).success().out();
    let line = listed.lines().find(|line| line.contains(&id)).expect("ps lists it");
    assert!(line.to_lowercase().contains("running"), "{listed}");

    let done = supervisor.run(&["exec", &id, "/bin/sh", "-c", "echo inside; exit 5"]).ended_with(5);
    assert_eq!(done.out(), "inside");
    let _ = supervisor.run(&["exec", &id, "/bin/sh", "-c", "kill -TERM $$"]).ended_with(143);
    let done =
        supervisor.run_with_input(&["exec", "-i", &id, "wc", "-c"], &[b'x'; 100_000]).success();
    assert_eq!(done.out(), "100000");
    let mut terminal = Terminal::start(&supervisor.cli(&[
        "exec",
        "-i",
        "-t",
        &id,
        "/bin/sh",
        "-c",
        "tty; exit 9",
    ]));
    terminal.shows("/dev/pts/");
    assert_eq!(terminal.end(), 9);
    let done = supervisor.run(&["exec", &id, "/bin/no-such"]).ended_with(127);
    done.complains_of(&["/bin/no-such"]);
    let done = supervisor.run(&["exec", &id, "/bin/not-executable"]).ended_with(126);
    done.complains_of(&["/bin/not-executable"]);

    let done = supervisor.run(&["rm", &id]).ended_with(125);
    done.complains_of(&[&id, "running"]);
    let _ = supervisor.run(&["kill", "-s", "KILL", &id]).success();
    let done = supervisor.run(&["wait", &id]);
    assert_eq!(done.success().out(), "137");
    let listed = supervisor.run(&["ps", "-a"]).success().out();
    let line = listed.lines().find(|line| line.contains(&id)).expect("ps -a lists it");
    assert!(!line.to_lowercase().contains("running"), "{listed}");
    let _ = supervisor.run(&["rm", &id]).success();
    nothing_is_kept(&supervisor);
    let done = supervisor.run(&["rm", &id]).ended_with(125);
    done.complains_of(&[&id, "no container"]);

    let id = root.id("f");
    let words = [flags(engine, &["-d", "--id", &id]), vec!["/bin/sleep", "600"]].concat();
    let _ = supervisor.run(&words).success();
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    nothing_is_kept(&supervisor);
}

fn eight_mebibytes_written_just_before_exit_arrive_whole(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let script = "yes 0123456789abcde | head -c 8388608; exit 4";
    let words = [flags(engine, &["--rm"]), vec!["/bin/sh", "-c", script]].concat();
    let done = supervisor.run(&words).ended_with(4);
    assert_eq!(done.stdout.len(), 8 << 20);
    assert!(done.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"));
}

fn a_command_that_is_not_found_ends_with_127_and_one_not_executable_with_126(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    for (command, code) in [
        ("/no/such/command", 127),
        ("no-such-command-on-path", 127),
        ("/bin/not-executable", 126),
        ("/data", 126),
    ] {
        let words = [flags(engine, &["--rm"]), vec![command]].concat();
        supervisor.run(&words).ended_with(code).complains_of(&[command]);
    }
    nothing_is_kept(&supervisor);
}

fn the_image_config_decides_command_environment_directory_and_user(engine: Engine) {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    supervisor.import(&fixtures::images().configured());
    let done =
        supervisor.run(&["run", "--rm", "--runtime", engine.runtime(), CONFIGURED]).success();
    let said = done.out();
    for line in [
        "args:2",
        "arg:one",
        "arg:two words",
        "cwd:/data/work",
        "uid:1234",
        "gid:1235",
        // The groups that list the user in the image's own /etc/group.
        "groups:1235 2000 2001",
        "greeting:hello from the image",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} is missing:\n{said}");
    }
}

fn flags_override_the_image_config(engine: Engine) {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    supervisor.import(&fixtures::images().configured());
    let run = ["run", "--rm", "--runtime", engine.runtime()];
    let words = [
        &run[..],
        &["-e", "EXTRA=more=than one", "-w", "/etc", "-u", "nobody", CONFIGURED, "three", "-x"],
    ]
    .concat();
    let said = supervisor.run(&words).success().out();
    for line in [
        "args:2",
        "arg:three",
        "arg:-x",
        "cwd:/etc",
        "uid:65534",
        "gid:65534",
        "greeting:hello from the image",
        "extra:more=than one",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} is missing:\n{said}");
    }
    let words = [&run[..], &["-u", "77:88", "--entrypoint", "/bin/id", CONFIGURED, "-G"]].concat();
    assert_eq!(supervisor.run(&words).success().out(), "88");
    let words = [&run[..], &["-u", "no-such-user", CONFIGURED]].concat();
    supervisor.run(&words).ended_with(125).complains_of(&["no-such-user"]);
}

fn the_container_is_confined_as_containers_are_by_default(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let inside = |script: &str| {
        let words = [flags(engine, &["--rm"]), vec!["/bin/sh", "-c", script]].concat();
        supervisor.run(&words).success().out()
    };
    let status = inside("cat /proc/self/status");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_else(|| panic!("no {name} in:\n{status}"))
    };
    assert_eq!(field("Seccomp"), "2", "a filter is on");
    // The fourteen capabilities that containerd gives by default.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), "00000000a80425fb", "{set}");
    }
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");

    assert_eq!(inside("echo $$"), "1", "a pid namespace of its own");
    for namespace in ["ipc", "mnt", "net", "pid", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).expect("the host has it");
        let its = inside(&format!("readlink /proc/self/ns/{namespace}"));
        assert_ne!(its, host.display().to_string(), "{namespace}");
    }
    let mounts = inside("cat /proc/mounts");
    for (path, kind) in [
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ] {
        let found = mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(path) && words.next() == Some(kind)
        });
        assert!(found, "{kind} on {path} is missing:\n{mounts}");
    }
    // Masked and read-only paths.
    let shown = inside(
        "for f in kcore keys timer_list sched_debug; do \
                        [ -e /proc/$f ] && wc -c </proc/$f; done; [ -z \"$(ls /sys/firmware)\" ]",
    );
    assert!(shown.lines().count() >= 2 && shown.lines().all(|size| size == "0"), "{shown}");
    for path in
        ["/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity", "/sys/kernel/mm/ksm/run"]
    {
        let said = inside(&format!("(echo 1 >{path}) 2>&1 || true"));
        assert!(said.contains("Read-only"), "{path}: {said}");
    }
    let devices = inside(
        "cd /dev; for d in null zero full random urandom tty; do [ -c $d ] && echo $d; done; echo x >/dev/null",
    );
    assert_eq!(devices.split_whitespace().count(), 6, "{devices}");
    // The device cgroup refuses what was not given, even to who can make the node: mknod passes, opening does not.
    let said = inside("mknod /tmp/mem c 1 1; (cat </tmp/mem) 2>&1 || true");
    assert!(said.contains("not permitted"), "{said}");
    // The profile refuses what containers have no business with.
    let said = inside("unshare -U true 2>&1 || true");
    assert!(said.contains("not permitted"), "{said}");
}

fn many_containers_at_once_all_end_well(engine: Engine) {
    let root = Root::new();
    let supervisor = supervisor(&root);
    std::thread::scope(|scope| {
        for code in 0..12 {
            let supervisor = &supervisor;
            scope.spawn(move || {
                let script = format!("echo number {code}; exit {code}");
                let words = [flags(engine, &["--rm"]), vec!["/bin/sh", "-c", &script]].concat();
                let done = supervisor.run(&words).ended_with(code);
                assert_eq!(done.out(), format!("number {code}"));
            });
        }
    });
    nothing_is_kept(&supervisor);
}

#[test]
fn killing_a_container_ends_a_client_that_waits_for_it() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("k");
    std::thread::scope(|scope| {
        let attached =
            scope.spawn(|| supervisor.run(&["run", "--rm", "--id", &id, APP, "/bin/sleep", "600"]));
        eventually(wait::SOON, "the container runs", || {
            let listed = supervisor.run(&["ps"]);
            listed
                .out()
                .lines()
                .any(|line| line.contains(&id) && line.to_lowercase().contains("running"))
                .then_some(())
        });
        let _ = supervisor.run(&["kill", "-s", "KILL", &id]).success();
        let _ = attached.join().expect("the client ends").ended_with(137);
    });
    nothing_is_kept(&supervisor);
}

#[test]
fn an_interrupt_at_the_client_reaches_the_container() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let script = "trap 'echo interrupted; exit 33' INT; echo ready; while :; do sleep 0.1; done";
    let words = ["run", "--rm", "-i", "-t", APP, "/bin/sh", "-c", script];
    let mut terminal = Terminal::start(&supervisor.cli(&words));
    terminal.shows("ready");
    terminal.type_in("\u{3}");
    terminal.shows("interrupted");
    assert_eq!(terminal.end(), 33, "{}", terminal.screen());
}
