//! An unprivileged user of the host, and files that an operator hands to a container.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::shim::{Dialect, bundle};
use harness::{Supervisor, run};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::attack::{Attack, attack, on_both};
use crate::fixture::{Fixture, IMAGE, SOON};

const NOBODY: u32 = 65534;

pub(crate) fn attacks() -> Vec<Attack> {
    [
        on_both(
            "A.10",
            "setuid-through-the-bundle",
            "a host user reaches no file of a container through its bundle",
            setuid,
        ),
        on_both(
            "A.10",
            "file-as-stdin",
            "a file given as standard input keeps its owner and its content",
            stdin,
        ),
        on_both(
            "A.10",
            "config-is-a-fifo",
            "a config.json that is no regular file is refused at once",
            config,
        ),
        attack(
            "C.16",
            "modes-and-umask",
            "directories and sockets of the daemon have their modes under any umask",
            modes,
        ),
        attack(
            "C.16",
            "taken-from-the-first-client",
            "a daemon started on demand takes nothing of its first client",
            first_client,
        ),
        on_both(
            "C.19",
            "names-in-tmp",
            "a user who makes names in /tmp stops no terminal",
            names_in_tmp,
        ),
    ]
    .concat()
}

/// Whether a user without privileges can do something with a path.
fn as_nobody(words: &[&str], path: &Path) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(path).uid(NOBODY).gid(NOBODY);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn setuid(fixture: &Fixture) {
    // Other users cannot enter the root's own directory; a daemon's is below one that they can enter.
    fs::set_permissions(fixture.root().path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    let supervisor = fixture.supervisor();
    let script = "cp /bin/busybox /own && chmod 4755 /own && : >/ready; exec sleep 1000";
    let id = fixture.root().id("su");
    let script = script.replace("cp ", "busybox cp ").replace("chmod ", "busybox chmod ");
    let done = fixture.run(&supervisor, &["-d", "--name", &id], &["/bin/sh", "-c", &script]);
    let _ = done.success();
    let found = harness::eventually(SOON, "the container makes its file", || {
        let mut found = Vec::new();
        find(&supervisor.state(), "own", &mut found);
        find(&supervisor.root(), "own", &mut found);
        (!found.is_empty()).then_some(found)
    });
    let reached: Vec<&PathBuf> =
        found.iter().filter(|path| as_nobody(&["test", "-x"], path)).collect();
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    assert!(reached.is_empty(), "an unprivileged user can execute {reached:?}");
}

/// Files of a name, below a directory.
fn find(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(about) if about.is_dir() => find(&path, name, found),
            Ok(about) if about.is_file() && path.ends_with(name) => found.push(path),
            _ => {}
        }
    }
}

fn stdin(fixture: &Fixture) {
    let file = fixture.root().path().join("input");
    fs::write(&file, "what the operator wrote").expect("write a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    let script = "echo overwritten 1<>/proc/self/fd/0; cat >/dev/null; exit 0";
    let bundle = fixture.daemon.shaped(script, |spec| {
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    });
    let mut request = bundle.create_request();
    request.stdin = file.display().to_string();
    let shim = fixture.daemon.start(&bundle);
    let task = shim.task(&bundle.id);
    let ran = task.within(SOON).create(&request).and_then(|_| task.within(SOON).start(""));
    if ran.is_ok() {
        let _ = task.within(SOON).wait("");
    }
    let _ = task.kill("", 9);
    let _ = task.delete("");
    fixture.daemon.leave(&shim, &task);
    let about = fs::metadata(&file).expect("it is there");
    assert_eq!(about.uid(), 0, "the file's owner");
    assert_eq!(fs::read(&file).expect("read it"), b"what the operator wrote");
}

fn config(fixture: &Fixture) {
    for kind in ["fifo", "device"] {
        let bundle = fixture.daemon.bundle("exit 0");
        let path = bundle.path.join("config.json");
        fs::remove_file(&path).expect("remove it");
        let (kind, device) = match kind {
            "fifo" => (FileType::Fifo, 0),
            _ => (FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
        };
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o644), device).expect("make it");
        let mut invocation = fixture.daemon.invocation(&bundle, Dialect::V1_6);
        invocation.limit = Duration::from_secs(8);
        let began = Instant::now();
        let output = invocation.start_raw(&invocation.input());
        let took = began.elapsed();
        let output = output.unwrap_or_else(|why| panic!("start, with a {kind:?}: {why:#}"));
        assert!(!output.status.success(), "start took a {kind:?} for a config.json");
        assert!(took < Duration::from_secs(4), "start took {took:?} to refuse a {kind:?}");
    }
    fixture.daemon.forget();
}

fn modes(fixture: &Fixture) {
    for mask in [0o000, 0o077] {
        let name = format!("m{mask:o}");
        let supervisor = Supervisor::named(fixture.root(), &name).with_idle_timeout(2);
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
        let archive = fixture.root().path().join("image.tar");
        if !archive.exists() {
            let _ = harness::image::Image::busybox(IMAGE).write(&archive);
        }
        supervisor.import(&archive);
        let _ = nix::sys::stat::umask(before);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
        for directory in [supervisor.root(), supervisor.state(), supervisor.root().join("content")]
        {
            let mode = mode(&directory);
            assert!(
                matches!(mode, 0o700 | 0o711),
                "with umask {mask:03o}, {} has mode {mode:o}",
                directory.display()
            );
        }
        let socket = mode(&supervisor.socket());
        assert_eq!(socket, 0o660, "with umask {mask:03o}, the socket has mode {socket:o}");
    }
}

fn first_client(fixture: &Fixture) {
    let supervisor = Supervisor::new(fixture.root()).with_idle_timeout(30);
    // Soft ones: where the capability is missing, not even root gets beyond a hard one.
    let shell = "ulimit -S -n 77; ulimit -S -f 1000; renice -n 15 -p $$ >/dev/null; \
                 echo 900 >/proc/self/oom_score_adj; exec \"$@\"";
    let inner = supervisor.cli(&["ps"]);
    let mut command = fixture.root().command("/bin/sh");
    command.args(["-c", shell, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env("ATTACK_SECRET", "of-the-client");
    let _ = run(&mut command).success();
    let daemon = supervisor.daemon();
    let about =
        |file: &str| fs::read_to_string(format!("/proc/{daemon}/{file}")).unwrap_or_default();
    let nice = about("stat");
    let nice = nice.rsplit(')').next().unwrap_or_default().split_whitespace().nth(16);
    assert_eq!(nice, Some("0"), "the daemon's niceness");
    let limits = about("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    assert!(!files.contains(" 77 "), "the daemon's limits: {files}");
    let size = limits.lines().find(|line| line.starts_with("Max file size")).unwrap_or_default();
    assert!(size.contains("unlimited"), "the daemon's limits: {size}");
    assert!(about("oom_score_adj").trim() != "900", "the daemon's OOM score is its client's");
    assert!(!about("environ").contains("of-the-client"), "the daemon has its client's environment");
}

fn names_in_tmp(fixture: &Fixture) {
    let bundle = fixture.daemon.bundle("sleep 1000");
    let (shim, task) = fixture.daemon.run(&bundle);
    let mut made = Vec::new();
    for number in 0..64 {
        let path = PathBuf::from(format!("/tmp/pty-{}-{number}", shim.pid));
        if as_nobody(&["mkdir"], &path) {
            made.push(path);
        }
    }
    let socket = harness::shim::stream::Stream::read(&fixture.root().path().join("tty"));
    let socket = socket.expect("make a fifo");
    let mut process = bundle::process(&bundle::shell("exit 3"));
    process["terminal"] = json!(true);
    let mut request = task.exec_request("t", &process);
    request.terminal = true;
    request.stdout = socket.path();
    let started = task.exec(&request).and_then(|()| task.within(SOON).start("t"));
    let ended = started.and_then(|_| task.within(SOON).wait("t")).map(|exit| exit.exit_status);
    let _ = task.delete("t");
    let _ = fs::remove_file(socket.path());
    fixture.daemon.end(&shim, &task);
    for path in made {
        let _ = fs::remove_dir(path);
    }
    let ended = ended.map_err(|why| why.to_string());
    assert_eq!(ended, Ok(3), "an exec with a terminal");
}
