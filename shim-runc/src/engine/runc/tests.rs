//! The engine against the real runc, and the cgroup code against real groups.

use std::fs;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process;

use std::time::Duration;

use oci_spec::runtime::Process;
use rustix::process::Signal;
use shim_sdk::{ContainerId, ExecId, Io, ProcessHandle, Stream, Streams};

use super::*;
use crate::cgroup::{Cgroup, Freeze};

/// Names the runtime to be tested instead of runc.
const PROGRAM: &str = "SHIM_RUNC_TEST_PROGRAM";

/// A bundle with a busybox, a root for records, and the promise to leave nothing behind.
struct Fixture {
    folder: tempfile::TempDir,
    id: ContainerId,
    runc: Runc,
}

impl Fixture {
    fn new(name: &str, script: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("shim-runc-").tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        let bin = bundle.join("rootfs/bin");
        for folder in ["bin", "dev", "proc"] {
            fs::create_dir_all(bundle.join("rootfs").join(folder)).unwrap();
        }
        // By another process: what another test starts while this one copies would hold the copy
        // open for writing until it executes, and such a file cannot be executed.
        let copied = process::Command::new("cp").arg("/bin/busybox").arg(&bin).status().unwrap();
        assert!(copied.success(), "busybox-static is installed");
        std::os::unix::fs::symlink("busybox", bin.join("sh")).unwrap();
        let id = format!("{name}-{}", process::id());
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": process(&["sh", "-c", script]),
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": format!("/shim-runc-tests-{id}"),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            },
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let root = EngineRoot(folder.path().join("records"));
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "runc".into());
        let runc = Runc::new(program.into(), root, bundle, false);
        Self { folder, id: ContainerId::new(id).unwrap(), runc }
    }

    async fn create(&self, io: Io) -> Result<Pid, EngineError> {
        let request = CreateRequest {
            id: &self.id,
            bundle: &self.runc.bundle,
            no_pivot_root: false,
            no_new_keyring: false,
        };
        self.runc.create(&request, io).await
    }

    async fn exec(&self, name: &str, script: &str, io: Io) -> Result<Pid, EngineError> {
        let process: Process = serde_json::from_value(process(&["sh", "-c", script])).unwrap();
        let request =
            ExecRequest { container: &self.id, id: &ExecId::new(name).unwrap(), process: &process };
        self.runc.exec(&request, io).await
    }

    fn state_directory(&self) -> PathBuf {
        self.runc.root.0.join(self.id.as_str())
    }
}

fn process(args: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
    })
}

fn in_shim(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test()).await.expect("in time");
    });
}

fn output_to(file: &fs::File) -> Io {
    let stream = |file: &fs::File| Some(Stream::from(OwnedFd::from(file.try_clone().unwrap())));
    Io::Streams(Streams { stdin: None, stdout: stream(file), stderr: stream(file) })
}

fn text_of(mut file: &fs::File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

async fn ended(process: &ProcessHandle) {
    let Some(pidfd) = process.pidfd() else { return };
    let pidfd = crate::sys::poll::readable(pidfd.try_clone_to_owned().unwrap()).unwrap();
    let _ready = pidfd.readable().await.unwrap();
}

#[test]
fn a_container_lives_from_create_to_delete() {
    in_shim(async || {
        let fixture = Fixture::new("life", "echo hello; echo trouble >&2");
        let out = tempfile::tempfile().unwrap();
        let init = ProcessHandle::open(fixture.create(output_to(&out)).await.unwrap()).unwrap();
        assert!(fixture.state_directory().join("exec.fifo").exists());
        assert_eq!(text_of(&out), "");
        fixture.runc.start(&fixture.id).await.unwrap();
        assert!(!fixture.state_directory().join("exec.fifo").exists());
        ended(&init).await;
        assert_eq!(text_of(&out), "hello\ntrouble\n");
        let pid: u32 = fs::read_to_string(fixture.runc.file("init.pid")).unwrap().parse().unwrap();
        assert_eq!(pid, init.pid().get());
        let cgroup = format!("/sys/fs/cgroup/pids/shim-runc-tests-{}", fixture.id);
        let cgroup = Path::new(&cgroup);
        assert!(cgroup.exists());
        fixture.runc.delete(&fixture.id, false).await.unwrap();
        assert!(!fixture.state_directory().exists());
        assert!(!cgroup.exists());
        // Deleted already is deleted.
        fixture.runc.delete(&fixture.id, false).await.unwrap();
        assert!(!fixture.runc.file("log.json").exists());
    });
}

#[test]
fn what_a_container_without_streams_writes_goes_nowhere_and_breaks_nothing() {
    // Standard error was the shim's pipe for the runtime's own complaints; it broke with the
    // runtime's end, and a daemon that logs there died of it.
    in_shim(async || {
        let fixture = Fixture::new("mute", "echo a && echo b >&2 && echo written > /done");
        let init = ProcessHandle::open(fixture.create(Io::null()).await.unwrap()).unwrap();
        fixture.runc.start(&fixture.id).await.unwrap();
        ended(&init).await;
        let done = fixture.runc.file("rootfs/done");
        assert_eq!(fs::read_to_string(done).unwrap(), "written\n");
        fixture.runc.delete(&fixture.id, false).await.unwrap();
    });
}

#[test]
fn a_command_that_does_not_exist_fails_in_runcs_own_words_and_leaves_nothing() {
    in_shim(async || {
        let fixture = Fixture::new("missing", "true");
        let config = fixture.runc.file("config.json");
        let spec = fs::read_to_string(&config).unwrap().replace("\"sh\"", "\"no-such\"");
        fs::write(&config, spec).unwrap();
        let error = fixture.create(Io::null()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("OCI runtime create failed: "), "{text}");
        // What dockerd and others look for, in both runtimes' words.
        assert!(text.contains("no-such") && text.contains("not found in $PATH"), "{text}");
        assert_eq!(error.kind(), Kind::Unknown);
        assert!(!fixture.state_directory().exists());
    });
}

#[test]
fn crun_does_all_that_runc_does() {
    if std::env::var_os(PROGRAM).is_some() {
        return; // this is that very run
    }
    // crun refuses hybrid cgroups, so it gets a mount namespace without the empty v2 tree.
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" engine::runc::tests";
    let output = process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(PROGRAM, "crun")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_id_in_use_is_refused_and_its_container_untouched() {
    in_shim(async || {
        let fixture = Fixture::new("taken", "sleep 100");
        fixture.create(Io::null()).await.unwrap();
        let error = fixture.create(Io::null()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
        assert!(fixture.state_directory().join("exec.fifo").exists());
        fixture.runc.delete(&fixture.id, true).await.unwrap();
        assert!(!fixture.state_directory().exists());
    });
}

#[test]
fn a_runtime_that_cannot_be_run_is_named_and_is_not_taken_for_a_missing_container() {
    in_shim(async || {
        let mut fixture = Fixture::new("norun", "true");
        fixture.runc.program = "/no/such/runtime".into();
        let error = fixture.create(Io::null()).await.unwrap_err();
        let text = report(&error);
        assert!(text.contains("/no/such/runtime"), "{text}");
        assert_eq!(error.kind(), Kind::Unknown);
    });
}

#[test]
fn a_container_is_measured_limited_frozen_and_ended_by_its_cgroups() {
    in_shim(async || {
        let fixture = Fixture::new("groups", "while true; do sleep 100; done");
        let init = ProcessHandle::open(fixture.create(Io::null()).await.unwrap()).unwrap();
        let number = i32::try_from(init.pid().get()).unwrap();
        let cgroup = Cgroup::of_process(number).unwrap().expect("it has groups");
        fixture.runc.start(&fixture.id).await.unwrap();

        let out = tempfile::tempfile().unwrap();
        let script = "echo in; exec sleep 100";
        let exec = fixture.exec("e1", script, output_to(&out)).await.unwrap();
        let pids = cgroup.pids().unwrap();
        assert!(pids.contains(&number) && pids.contains(&i32::try_from(exec.get()).unwrap()));
        assert!(!fixture.runc.file("e1.process.json").exists());
        assert!(!fixture.runc.file("e1.pid").exists());
        let exec = ProcessHandle::open(exec).unwrap();

        let Cgroup::V1(groups) = &cgroup else { panic!("a v1 host") };
        let metrics = groups.metrics();
        assert!(metrics.pids.unwrap().current >= 2);
        assert!(metrics.memory.unwrap().usage.unwrap().usage > 0);
        assert!(metrics.cpu.unwrap().usage.unwrap().total > 0);

        let limits = r#"{"memory":{"limit":67108864,"swap":67108864},"pids":{"limit":33},
            "cpu":{"shares":512,"quota":20000,"period":50000}}"#;
        cgroup.update(&serde_json::from_str(limits).unwrap()).unwrap();
        let limits = r#"{"memory":{"limit":134217728,"swap":134217728}}"#;
        cgroup.update(&serde_json::from_str(limits).unwrap()).unwrap();
        let metrics = groups.metrics();
        assert_eq!(metrics.pids.unwrap().limit, 33);
        assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 134_217_728);

        while text_of(&out).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cgroup.freeze(Freeze::Frozen).await.unwrap();
        let state = groups.controller("freezer").unwrap().join("freezer.state");
        assert_eq!(fs::read_to_string(&state).unwrap(), "FROZEN\n");
        // Frozen by request, it stays frozen through any signal but the last.
        cgroup.signal_all(Signal::USR1, true).await.unwrap();
        assert_eq!(fs::read_to_string(&state).unwrap(), "FROZEN\n");
        cgroup.signal_all(Signal::KILL, true).await.unwrap();
        ended(&init).await;
        ended(&exec).await;
        assert_eq!(text_of(&out), "in\n");
        fixture.runc.delete(&fixture.id, false).await.unwrap();
        assert!(!cgroup.exists());
        assert!(cgroup.pids().unwrap().is_empty());
    });
}

#[test]
fn a_running_container_is_deleted_only_by_force() {
    in_shim(async || {
        let fixture = Fixture::new("running", "while true; do sleep 100; done");
        let init = ProcessHandle::open(fixture.create(Io::null()).await.unwrap()).unwrap();
        fixture.runc.start(&fixture.id).await.unwrap();
        let error = fixture.runc.delete(&fixture.id, false).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to delete task: "), "{error}");
        assert_eq!(error.kind(), Kind::Unknown);
        fixture.runc.delete(&fixture.id, true).await.unwrap();
        ended(&init).await;
        assert!(!fixture.state_directory().exists());
        assert!(fixture.folder.path().exists());
    });
}

#[test]
fn a_root_whose_dev_is_a_link_to_the_host_is_refused_before_the_runtime_follows_it() {
    // runc 1.1.5 deleted a file called `ptmx` in a directory of the host, and put five links there.
    in_shim(async || {
        let fixture = Fixture::new("devlink", "true");
        let host = fixture.folder.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("ptmx"), "precious").unwrap();
        let dev = fixture.runc.file("rootfs/dev");
        fs::remove_dir(&dev).unwrap();
        std::os::unix::fs::symlink(&host, &dev).unwrap();
        let error = fixture.create(Io::null()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("/dev of the root file system is a link"), "{error}");
        assert!(!fixture.state_directory().exists());
        let names: Vec<_> =
            fs::read_dir(&host).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(names, ["ptmx"]);
    });
}

#[test]
fn a_call_that_hangs_is_ended_with_all_that_it_started() {
    in_shim(async || {
        let mut fixture = Fixture::new("hangs", "true");
        let program = fixture.folder.path().join("hanging-runtime");
        let mark = 200_000 + process::id();
        // One child in a session of its own, as a runtime's init is, and one that it waits for.
        let script = format!("#!/bin/sh\nsetsid sleep {mark} &\nsleep {mark}\n");
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let made =
            process::Command::new("sh").args(["-c", write]).arg(&program).arg(script).status();
        assert!(made.unwrap().success());
        fixture.runc.program = program;
        fixture.runc.deadline = Duration::from_millis(500);
        let began = std::time::Instant::now();
        let error = fixture.create(Io::null()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(error.to_string().contains("took longer than 500ms and was killed"), "{error}");
        let error = fixture.runc.pause(&fixture.id).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let sleeps = format!("sleep\0{mark}\0");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            assert!(line != sleeps.as_bytes(), "{} runs on", entry.path().display());
        }
    });
}

#[test]
fn a_process_that_was_in_the_containers_group_before_outlives_it() {
    // `ctr run --cgroup /x` with a process already in /x.
    in_shim(async || {
        let fixture = Fixture::new("before", "sleep 0.1");
        let group = PathBuf::from(format!("/sys/fs/cgroup/pids/shim-runc-tests-{}", fixture.id));
        fs::create_dir(&group).unwrap();
        let mut stranger = process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), stranger.id().to_string()).unwrap();
        let init = ProcessHandle::open(fixture.create(Io::null()).await.unwrap()).unwrap();
        fixture.runc.start(&fixture.id).await.unwrap();
        ended(&init).await;
        let deleted = fixture.runc.delete(&fixture.id, false).await;
        let survived = stranger.try_wait().unwrap().is_none();
        let (was_left, freezer) =
            (group.exists(), group.to_string_lossy().replace("pids", "freezer"));
        let _ = stranger.kill();
        let _ = stranger.wait();
        let _ = fs::remove_dir(&group);
        // crun kills what it finds; with runc it is the shim that removes.
        if std::env::var_os(PROGRAM).is_none() {
            deleted.unwrap();
            assert!(survived && was_left);
            assert!(!Path::new(&freezer).exists(), "those that it made are gone");
        }
        assert!(!fixture.state_directory().exists());
    });
}

#[test]
fn of_two_containers_with_one_group_each_outlives_the_other() {
    if std::env::var_os(PROGRAM).is_some() {
        return; // crun kills whatever is in the group that it removes
    }
    in_shim(async || {
        let first = Fixture::new("shared-1", "sleep 0.1");
        let second = Fixture::new("shared-2", "sleep 60");
        let path = format!("/shim-runc-tests-{}", first.id);
        let config = second.runc.file("config.json");
        let own = format!("/shim-runc-tests-{}", second.id);
        let spec = fs::read_to_string(&config).unwrap().replace(&own, &path);
        fs::write(&config, spec).unwrap();
        let init = ProcessHandle::open(first.create(Io::null()).await.unwrap()).unwrap();
        let other = ProcessHandle::open(second.create(Io::null()).await.unwrap()).unwrap();
        first.runc.start(&first.id).await.unwrap();
        second.runc.start(&second.id).await.unwrap();
        ended(&init).await;
        first.runc.delete(&first.id, false).await.unwrap();
        assert!(!first.state_directory().exists());
        other.signal(shim_sdk::Signal::PROBE).unwrap();
        second.runc.delete(&second.id, true).await.unwrap();
        ended(&other).await;
        // The bundles of the two are not beside each other, so the group is left to nobody.
        for tree in remove::everywhere(Path::new(&path)).unwrap() {
            let _ = crate::cgroup::directory::remove_group(&tree);
            assert!(!tree.exists(), "{} holds a process", tree.display());
        }
    });
}
