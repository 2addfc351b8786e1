//! Clients and the daemon that they reach: which user owns it, what it inherits from a client, and what one
//! does when the other one hangs, ends or is foreign.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::fixtures::APP;
use harness::{Root, Supervisor, eventually, run, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{nothing_is_kept, supervisor};

/// A command, run by a shell that has set something for it before.
fn after(root: &Root, setting: &str, command: &Command) -> Command {
    let mut shell = root.command("/bin/sh");
    shell.arg("-c").arg(format!(r#"{setting}; exec "$@""#)).arg("sh");
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

#[test]
fn modes_depend_on_no_umask_and_are_mended_at_each_start() {
    let root = Root::new();
    for umask in ["000", "077", "0777"] {
        let mut supervisor = Supervisor::named(&root, &format!("u{umask}"));
        let (kept, state) = (supervisor.root(), supervisor.state());
        let client = supervisor.cli(&["ps"]);
        let _ = run(&mut after(&root, &format!("umask {umask}"), &client)).success();
        let paths = [
            (kept.clone(), 0o700),
            (kept.join("content"), 0o700),
            (kept.join("snapshots"), 0o700),
            (kept.join("metadata.db"), 0o600),
            (kept.join("lock"), 0o600),
            // Containers in user namespaces pass through it.
            (state.clone(), 0o711),
            (state.join("start.lock"), 0o600),
            (supervisor.socket(), 0o660),
            (state.join("supervisor.sock.ttrpc"), 0o660),
        ];
        for (path, expected) in &paths {
            assert_eq!(mode(path), *expected, "{} with umask {umask}", path.display());
        }
        supervisor.stop(Signal::SIGTERM);
        for (path, _) in &paths {
            if path.exists() {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod");
            }
        }
        let _ = supervisor.run(&["ps"]).success();
        for (path, expected) in &paths {
            assert_eq!(mode(path), *expected, "{} after another start", path.display());
        }
    }
}

#[test]
fn a_directory_of_others_is_not_taken_for_a_root_or_a_state_directory() {
    let root = Root::new();
    for name in ["root", "state"] {
        let supervisor = Supervisor::named(&root, &format!("of-others-{name}"));
        let directory = supervisor.root().with_file_name(name);
        fs::create_dir_all(directory.join("var")).expect("mkdir");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).expect("chmod");
        let refused = supervisor.run(&["ps"]).ended_with(125);
        assert!(refused.err().contains("directory of its own"), "{refused:?}");
        assert_eq!(mode(&directory), 0o1777);
    }
}

#[test]
fn a_daemon_on_demand_takes_nothing_from_its_first_client() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let settings = "ulimit -S -n 64; ulimit -S -c 0; ulimit -S -s 1024; ulimit -S -f 4096; \
                    umask 077; trap '' HUP USR1; echo 500 > /proc/self/oom_score_adj; \
                    cd /tmp; export SUPERVISOR_X=x https_proxy=x RUST_LOG=trace LD_DEBUG_OUTPUT=/x; \
                    exec 7</etc/hostname; \
                    set -- nice -n 10 chrt -b 0 taskset -c 0 ionice -c 3 setarch -R \"$@\"";
    let _ = run(&mut after(&root, settings, &supervisor.cli(&["ps"]))).success();
    let pid = supervisor.daemon();
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    // See proc(5): 19 is the niceness, 41 the policy.
    assert_eq!(harness::proc::stat::<i32>(pid, 19), Some(0), "niceness");
    assert_eq!(harness::proc::stat::<i32>(pid, 41), Some(0), "scheduling policy");
    let own = fs::read_to_string("/proc/self/status").expect("read");
    let cpus = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    assert_eq!(field("Cpus_allowed_list:"), cpus.expect("there").trim());
    assert_eq!(field("Umask:"), "0022");
    // SIGPIPE alone, as programs written in Rust have it.
    assert_eq!(field("SigIgn:"), "0000000000001000");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(read("oom_score_adj").trim(), "0");
    assert_eq!(read("personality").trim(), "00000000");
    let environment = read("environ");
    let names: Vec<_> = environment.split_terminator('\0').collect();
    assert!(matches!(&names[..], [path] if path.starts_with("PATH=/usr/local/sbin:")), "{names:?}");
    let limits = read("limits");
    let possible = fs::read_to_string("/proc/self/limits").expect("read");
    let limit = |limits: &str, name: &str, column: usize| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().nth(column));
        word.map_or(0, |word| word.parse().unwrap_or(u64::MAX))
    };
    for (name, soft) in [
        ("Max open files", 1 << 20),
        ("Max core file size", u64::MAX),
        ("Max stack size", 8 << 20),
        ("Max file size", u64::MAX),
    ] {
        // Without CAP_SYS_RESOURCE no more than the hard limit can be had.
        let hard = limit(&possible, name, 1);
        let got = limit(&limits, name, 0);
        assert!(got == soft || got == soft.min(hard), "{name}: {limits}");
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        assert_ne!(target, Path::new("/etc/hostname"), "an inherited descriptor");
    }
}

/// The signal for a file that is too large ended it, where the limit cannot be raised.
#[test]
fn a_daemon_on_demand_starts_with_a_limit_on_files_that_it_cannot_raise() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let _ = run(&mut after(&root, "ulimit -f 1000", &supervisor.cli(&["ps"]))).success();
    let ignored = fs::read_to_string(format!("/proc/{}/status", supervisor.daemon()))
        .expect("it runs")
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:").map(|mask| mask.trim().to_owned()));
    assert_eq!(ignored.as_deref(), Some("0000000000001000"), "what children would inherit");
}

#[test]
fn a_client_of_another_root_is_refused_and_told_both() {
    let root = Root::new();
    let (one, other) = (Supervisor::named(&root, "one"), Supervisor::named(&root, "other"));
    let _ = one.run(&["ps"]).success();
    let mut client = other.cli(&["ps"]);
    client.arg("--address").arg(one.socket());
    let refused = run(&mut client).ended_with(125);
    for path in [one.root(), other.root(), one.socket()] {
        assert!(refused.err().contains(path.to_str().expect("plain")), "{refused:?}");
    }
    assert!(other.daemons().is_empty(), "and starts none");
}

#[test]
fn a_socket_that_nobody_answers_is_an_error_in_time() {
    let root = Root::new();
    let silent = |name: &str, accepts: bool| {
        let supervisor = Supervisor::named(&root, name);
        fs::create_dir_all(supervisor.state()).expect("mkdir");
        let listener = UnixListener::bind(supervisor.socket()).expect("bind");
        let mut waiting = Vec::new();
        if !accepts {
            // A full backlog, in which connect(2) waits as well.
            use std::os::fd::AsFd;
            let socket = listener.as_fd();
            rustix::net::listen(socket, 0).expect("listen");
            waiting.push(UnixStream::connect(supervisor.socket()).expect("the one that fits"));
        }
        let begin = Instant::now();
        let refused = supervisor.run(&["ps"]).ended_with(125);
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
        assert!(refused.err().contains("does not answer"), "{refused:?}");
        assert!(refused.err().contains(supervisor.socket().to_str().expect("plain")));
        assert!(supervisor.daemons().is_empty());
        fs::remove_file(supervisor.socket()).expect("unlink");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| silent("accepts", true));
        scope.spawn(|| silent("full", false));
    });
}

/// In this time a client has connected and its call waits for the daemon; neither can be seen from outside.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// `rm -f` said "transport error" when it had reached a daemon that was being killed.
#[test]
fn a_client_whose_daemon_goes_away_before_it_answers_asks_the_next_one() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("w");
    let script = "sleep 3; exit 9";
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sh", "-c", script]).success();
    // A call that is under way.
    let mut waiting = supervisor.cli(&["wait", &id]);
    let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    wait::pass(UNDER_WAY);
    let first = Pid::from_raw(supervisor.daemon());
    // One that reaches a daemon which will not answer any more.
    kill(first, Signal::SIGSTOP).expect("it runs");
    let mut listing = supervisor.cli(&["ps", "-a"]);
    let listing = listing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    wait::pass(UNDER_WAY);
    kill(first, Signal::SIGKILL).expect("it runs");
    let listing = listing.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&listing.stdout);
    assert!(listing.status.success() && text.contains(&id), "{listing:?}");
    let waiting = waiting.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&waiting.stdout).trim(), "9", "{waiting:?}");
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    nothing_is_kept(&supervisor);
}

#[test]
fn a_client_whose_daemon_is_stopped_waits_with_the_next_one() {
    let root = Root::new();
    let mut supervisor = supervisor(&root);
    let id = root.id("w");
    let script = "sleep 4; exit 9";
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sh", "-c", script]).success();
    let mut waiting = supervisor.cli(&["wait", &id]);
    let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    wait::pass(UNDER_WAY);
    let first = Pid::from_raw(supervisor.daemon());
    kill(first, Signal::SIGTERM).expect("it runs");
    let waiting = waiting.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&waiting.stdout).trim(), "9", "{waiting:?}");
    let _ = supervisor.run(&["rm", &id]).success();
    nothing_is_kept(&supervisor);
    supervisor.stop(Signal::SIGTERM);
}

/// What grpcio 1.85.3 sends for a call of `Version` to `unix:/tmp/dmn-try/raw.sock`, as recorded. The
/// authority is the percent-encoded path, for which the HTTP library reset every stream.
const GRPCIO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x24\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\
    \x00\x04\x00@\x00\x00\x00\x05\x00@\x00\x00\x00\x06\x00\x00@\x00\xfe\x03\x00\x00\x00\x01\
    \x00\x00\x04\x08\x00\x00\x00\x00\x00\x00?\x00\x01\
    \x00\x00\x00\x04\x01\x00\x00\x00\x00\
    \x00\x01\x1f\x01\x04\x00\x00\x00\x01@\x05:path//containerd.services.version.v1.Version/\
    Version@\n:authority\x18tmp%2Fdmn-try%2Fraw.sock\x83\x86@\x0ccontent-type\x10application\
    /grpc@\x02te\x08trailers@\x14grpc-accept-encoding\x17identity, deflate, gzip@\x0c\
    grpc-timeout\x025S@\nuser-agent0grpc-python/1.85.3 grpc-c/58.0.0 (linux; chttp2)\x00\x14\
    containerd-namespace\x02t1\
    \x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x05\
    \x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00";

#[test]
fn a_client_built_on_grpcs_c_library_connects_without_options() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let _ = supervisor.run(&["ps"]).success();
    for piece in [GRPCIO.len(), 40, 3] {
        let mut stream = UnixStream::connect(supervisor.socket()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        for piece in GRPCIO.chunks(piece) {
            stream.write_all(piece).expect("it reads");
        }
        let (mut answered, mut text) = (false, Vec::new());
        while !answered {
            let mut header = [0; 9];
            stream.read_exact(&mut header).expect("a frame");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).expect("its payload");
            let (kind, stream_id) = (header[3], header[8]);
            assert_ne!((kind, stream_id), (3, 1), "RST_STREAM: {payload:?}");
            text.extend(payload);
            // The end of the stream, in its trailers.
            answered = stream_id == 1 && kind == 1 && header[4] & 1 != 0;
        }
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        assert!(text.windows(version.len()).any(|window| window == version), "{text:?}");
    }
}

#[test]
fn exec_ids_are_as_long_as_container_ids() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let long = |name: &str| {
        let id = root.id(name);
        format!("{id}{}", "x".repeat(76 - id.len()))
    };
    for runtime in ["io.containerd.youki.v1", "io.containerd.runc.v2"] {
        let (id, exec) = (long("c"), long("e"));
        let words = ["run", "-d", "--id", &id, "--runtime", runtime, APP, "/bin/sleep", "600"];
        let _ = supervisor.run(&words).success();
        let fifos = root.dir("fifo");
        let fifos = fifos.to_str().expect("a plain path");
        let words =
            ["t", "exec", "--fifo-dir", fifos, "--exec-id", &exec, &id, "/bin/echo", "long"];
        assert_eq!(run(&mut supervisor.ctr(&words)).success().out(), "long");
        let too_long = format!("{exec}y");
        let words = ["t", "exec", "--exec-id", &too_long, &id, "/bin/true"];
        assert!(run(&mut supervisor.ctr(&words)).err().contains("at most 76 bytes"));
        let _ = supervisor.run(&["rm", "-f", &id]).success();
    }
    nothing_is_kept(&supervisor);
}

#[test]
fn nothing_that_a_terminal_acts_on_is_printed() {
    let root = Root::new();
    let supervisor = Supervisor::new(&root);
    let hostile = format!("\x1b]0;title\x07\u{202e}\u{9b}2J{}", "x".repeat(100_000));
    for words in [
        &["rm", "-f", &hostile][..],
        &["run", &hostile],
        &["images", "rm", &hostile],
        &["kill", "--signal", &hostile, "x"],
        &["wait", &hostile],
        &["exec", &hostile, "x"],
        &["ps", &hostile],
        &["import", &hostile[..50]],
        &["-n", &hostile, "ps"],
    ] {
        let done = supervisor.run(words);
        let shown = format!("{}{}", done.out(), done.err());
        let is_raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(done.code() != 0 && !shown.contains(is_raw), "{shown:?}");
        assert!(shown.len() < 16_384, "{} bytes", shown.len());
    }
}

/// A daemon that is stopped, not killed, keeps no client waiting without a limit either.
#[test]
fn a_removal_of_a_daemon_that_hangs_ends_and_says_what_stays() {
    let root = Root::new();
    let supervisor = supervisor(&root);
    let id = root.id("h");
    let _ = supervisor.run(&["run", "-d", "--id", &id, APP, "/bin/sleep", "600"]).success();
    let shim = harness::containerd::shim_of(&id).expect("a shim runs for it");
    kill(Pid::from_raw(shim), Signal::SIGSTOP).expect("it runs");
    let begin = Instant::now();
    let refused = supervisor.run(&["rm", "-f", &id]);
    kill(Pid::from_raw(shim), Signal::SIGCONT).expect("it runs");
    assert_eq!(refused.code(), 125, "{refused:?}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert!(refused.err().contains("stayed"), "{refused:?}");
    eventually(wait::SOON, "it can be removed", || {
        (supervisor.run(&["rm", "-f", &id]).code() == 0).then_some(())
    });
    nothing_is_kept(&supervisor);
}
