//! The host from inside: what a container's process, or one that becomes a container's, could reach
//! of it by a descriptor, a working directory, a keyring.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use serde_json::json;

use super::super::BorrowedStreams;
use super::fixture::{Fixture, executable, on_the_shims_thread, process, read, shell, wait};

/// More descriptors than any process on its way has.
const DESCRIPTORS: usize = 24;

/// A program of the host, outside of every root: echo. By a path that goes on from any directory.
fn host_program(container: &Fixture) -> String {
    let program = container.directory.path().join("echo");
    // By another process, see the fixture.
    let copied = std::process::Command::new("cp").arg("/bin/busybox").arg(&program).status();
    assert!(copied.unwrap().success());
    format!("../../../../../../../..{}", program.display())
}

#[test]
fn a_command_below_a_descriptor_is_not_executed() {
    on_the_shims_thread(async {
        // What the user lost: an image whose entrypoint is such a path ran a program of the host.
        let mut container = Fixture::new(&["sleep", "60"]);
        let outside = host_program(&container);
        for number in 0..DESCRIPTORS {
            let command = format!("/proc/self/fd/{number}/{outside}");
            for arguments in [vec![command.as_str(), "on the host"], vec!["/bin/via"]] {
                executable(&container.rootfs().join("bin/via"), &format!("#!{command} host\n"));
                container.spec["process"]["args"] = json!(arguments);
                let Ok((init, output)) = container.create().await else {
                    container.assert_nothing_left();
                    continue;
                };
                let _ = container.start().await;
                assert_eq!(read(output), "", "by descriptor {number}");
                wait(init);
                container.delete(true).await;
            }
        }
    });
}

#[test]
fn an_exec_runs_nothing_that_a_container_put_outside_of_itself() {
    on_the_shims_thread(async {
        // What the user lost: a container that made a name in PATH, or its working directory, a link
        // below a descriptor had the operator's next exec run in the host's tree.
        let mut container = Fixture::new(&["sleep", "60"]);
        let outside = host_program(&container);
        container.create().await.unwrap();
        container.start().await.unwrap();
        let root = container.rootfs();
        fs::create_dir(root.join("links")).unwrap();
        for number in 0..DESCRIPTORS {
            let magic = format!("/proc/self/fd/{number}");
            let (target, work) = (format!("{magic}/{outside}"), format!("{magic}/rootfs/tmp"));
            executable(&root.join("bin/via"), &format!("#!{target} host\n"));
            for (name, target) in [("links/echo", &target), ("work", &work)] {
                let _ = fs::remove_file(root.join(name));
                symlink(target, root.join(name)).unwrap();
            }
            let mut by_name = process(&["echo", "on the host"]);
            by_name["env"] = json!(["PATH=/links"]);
            let mut inside = shell(&format!("[ -e {outside} ] && echo on the host; pwd"));
            inside["cwd"] = json!("/work");
            let by_path = process(&[&target, "on the host"]);
            for command in [by_name, by_path, process(&["/bin/via"]), inside] {
                if let Ok((pid, output)) = container.exec(command.clone()).await {
                    let output = read(output);
                    wait(pid);
                    assert!(!output.contains("host"), "{command}: {output}");
                }
            }
        }
        container.delete(true).await;
    });
}

/// The directories outside of its mount namespace that a process could go on from, by a descriptor or
/// by where it is.
fn outside(pid: i32) -> BTreeSet<String> {
    let base = format!("/proc/{pid}");
    let open = fs::read_dir(format!("{base}/fd")).into_iter().flatten().flatten();
    let places = ["cwd", "root"].map(|name| Path::new(&base).join(name));
    let all: Vec<_> = open.map(|entry| entry.path()).chain(places).collect();
    let found = all.into_iter().filter_map(|path| {
        let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
        let file = statx(CWD, &path, AtFlags::empty(), wanted).ok()?;
        let is_directory = FileType::from_raw_mode(file.stx_mode.into()) == FileType::Directory;
        is_directory.then_some((path, file.stx_mnt_id.to_string()))
    });
    let found: Vec<_> = found.collect();
    // Read last: what is gone by now has nothing.
    let table = fs::read_to_string(format!("{base}/mountinfo")).unwrap_or_default();
    let own: BTreeSet<_> = table.lines().filter_map(|line| line.split(' ').next()).collect();
    let foreign = found.iter().filter(|(_, mount)| !own.is_empty() && !own.contains(&**mount));
    foreign.map(|(path, _)| path.display().to_string()).collect()
}

/// Looks for three seconds at every child of this thread that is on its way in the pid namespace of an
/// init; how often one was seen, and what was found.
fn look_at_what_joins(
    init: i32,
    look: fn(i32) -> BTreeSet<String>,
) -> JoinHandle<(usize, BTreeSet<String>)> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let inside = namespace(init).unwrap();
    let thread = rustix::thread::gettid().as_raw_nonzero();
    std::thread::spawn(move || {
        let (mut seen, mut found) = (0, BTreeSet::new());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            let list = fs::read_to_string(format!("/proc/self/task/{thread}/children"));
            let pids = list.unwrap_or_default();
            for pid in pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let is_joining = name.starts_with("youki:[2")
                    && namespace(pid).is_ok_and(|namespace| namespace == inside);
                if is_joining {
                    seen += 1;
                    found.extend(look(pid));
                }
            }
        }
        (seen, found)
    })
}

/// The capabilities of a process that neither the fixture's spec grants nor the process has a use for.
fn capabilities_to_spare(pid: i32) -> BTreeSet<String> {
    const GRANTED: u64 = 0xa804_25fb;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let sets = status
        .lines()
        .filter(|line| ["CapPrm", "CapEff", "CapBnd"].iter().any(|name| line.starts_with(name)));
    let to_spare = sets.filter(|line| {
        let bits = line.split_whitespace().nth(1).unwrap_or_default();
        u64::from_str_radix(bits, 16).is_ok_and(|bits| bits & !GRANTED != 0)
    });
    to_spare.map(str::to_owned).collect()
}

#[test]
fn what_joins_a_pid_namespace_has_no_capability_that_it_has_no_use_for() {
    on_the_shims_thread(async {
        // What the user lost: a container with CAP_SYS_PTRACE has what the processes have that it sees.
        // An exec on its way could be made to load a module into the kernel.
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let looker = look_at_what_joins(init, capabilities_to_spare);
        while !looker.is_finished() {
            let (pid, output) = container.exec(process(&["true"])).await.unwrap();
            drop(read(output));
            assert_eq!(wait(pid), 0);
            let mut third = Fixture::new(&["true"]);
            let namespace = json!({"type": "pid", "path": format!("/proc/{init}/ns/pid")});
            third.spec["linux"]["namespaces"][0] = namespace;
            assert_eq!(third.run().await.0, 0);
        }
        let (seen, found) = looker.join().unwrap();
        assert!(seen > 0, "nothing was seen on its way");
        assert!(found.is_empty(), "{found:?}");
        container.delete(true).await;
        wait(init);
    });
}

#[test]
fn no_process_of_a_container_has_a_directory_open_at_any_stage() {
    on_the_shims_thread(async {
        // What the user lost: another process with CAP_SYS_PTRACE in the pid namespace went through
        // the bundle's descriptor of a created init, or of an exec that joined, to the host's files.
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        assert_eq!(outside(init), BTreeSet::new(), "of a created init");
        container.start().await.unwrap();
        let looker = look_at_what_joins(init, outside);
        while !looker.is_finished() {
            let (pid, output) = container.exec(process(&["true"])).await.unwrap();
            drop(read(output));
            assert_eq!(wait(pid), 0);
        }
        let (seen, found) = looker.join().unwrap();
        assert!(seen > 0, "no exec was seen on its way");
        assert!(found.is_empty(), "{found:?}");
        container.delete(true).await;
    });
}

#[test]
fn a_container_has_a_keyring_of_its_own_and_its_execs_have_it_too() {
    on_the_shims_thread(async {
        // What the user lost: a container read a key of the daemon's session, and planted one.
        let mut container = Fixture::new(&["sh", "-c", "grep -F _ses. /proc/keys; sleep 60"]);
        container.spec["linux"]["maskedPaths"] = json!([]);
        let (init, output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let name = format!("_ses.{}.", container.id);
        let keyrings = |text: &str| -> Vec<String> {
            let mine = text.lines().filter(|line| line.contains(&name));
            mine.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
        };
        let (pid, said) = container.exec(shell("grep -F _ses. /proc/keys")).await.unwrap();
        let said = read(said);
        wait(pid);
        let host = fs::read_to_string("/proc/keys").unwrap();
        let own = keyrings(&said);
        assert_eq!(own.len(), 1, "{said}");
        assert_eq!(keyrings(&host), Vec::<String>::new(), "others can see it");
        let mut first = [0; 4096];
        let length = rustix::io::read(&output, &mut first).unwrap();
        assert_eq!(keyrings(&String::from_utf8_lossy(&first[..length])), own);
        container.engine.delete_container(&container.id, true).await.unwrap();
        wait(init);
        container.no_new_keyring = true;
        container.spec["process"]["args"] = json!(["sh", "-c", "cut -c 40- /proc/keys"]);
        let (status, output) = container.run().await;
        assert_eq!((status, output.contains(&container.id)), (0, false), "{output}");
    });
}

#[test]
fn no_signal_is_left_ignored_or_blocked() {
    on_the_shims_thread(async {
        let script = "grep -E 'SigIgn|SigBlk' /proc/self/status | cut -f 2";
        let none = "0000000000000000\n0000000000000000\n";
        let mut container = Fixture::new(&["sh", "-c", &format!("{script}; sleep 60")]);
        let (init, output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let (pid, said) = container.exec(shell(script)).await.unwrap();
        assert_eq!(read(said), none);
        wait(pid);
        container.delete(true).await;
        assert_eq!(read(output), none);
        wait(init);
    });
}

#[test]
fn a_fifo_in_the_place_of_a_list_of_users_keeps_nobody_waiting() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo $HOME; sleep 60"]);
        for file in ["etc/passwd", "etc/group"] {
            let file = container.rootfs().join(file);
            let _ = fs::remove_file(&file);
            nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let began = Instant::now();
        let (init, output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let (pid, said) = container.exec(shell("echo $HOME")).await.unwrap();
        assert_eq!(read(said), "/\n");
        wait(pid);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        container.delete(true).await;
        assert_eq!(read(output), "/\n");
        wait(init);
    });
}

#[test]
fn an_exec_that_its_container_stops_keeps_no_other_call_waiting() {
    on_the_shims_thread(async {
        let script = "trap '' STOP; while :; do for p in /proc/[0-9]*; do p=${p#/proc/}
            [ $p != 1 ] && [ $p != $$ ] && kill -STOP $p; done 2>/dev/null; done";
        let mut container = Fixture::new(&["sh", "-c", script]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let other = Fixture::new(&["true"]);
        other.write_spec();
        let engine = &container.engine;
        let stopped = async {
            let text = process(&["true"]).to_string();
            // One that the container does not catch ends.
            for _ in 0..50 {
                let streams = BorrowedStreams::default();
                let exec = engine.exec_process(&container.id, text.as_bytes(), &streams);
                match tokio::time::timeout(Duration::from_secs(3), exec).await {
                    Ok(pid) => {
                        // Stopped or not, it is on its way no more.
                        let pid = pid.unwrap();
                        let one = rustix::process::Pid::from_raw(pid).unwrap();
                        let _ = rustix::process::kill_process(one, rustix::process::Signal::KILL);
                        wait(pid);
                    }
                    Err(_) => return true,
                }
            }
            false
        };
        let beside = async {
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                let began = Instant::now();
                let streams = BorrowedStreams::default();
                let bundle = other.bundle();
                let made = engine.create_container(&other.id, &bundle, (false, false), &streams);
                let pid = made.await.unwrap();
                engine.delete_container(&other.id, true).await.unwrap();
                wait(pid);
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            slowest
        };
        let (was_stopped, slowest) = tokio::join!(stopped, beside);
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        assert!(was_stopped, "the exec was not stopped on its way");
        container.engine.delete_container(&container.id, true).await.unwrap();
        wait(init);
    });
}

/// A container in the pid namespace of another, with every right to look at its processes.
fn beside(init: i32, script: &str) -> Fixture {
    let mut container = Fixture::new(&["sh", "-c", script]);
    let pid = json!({"type": "pid", "path": format!("/proc/{init}/ns/pid")});
    container.spec["linux"]["namespaces"][0] = pid;
    for set in ["bounding", "effective", "permitted"] {
        let list = container.spec["process"]["capabilities"][set].as_array_mut().unwrap();
        list.extend([json!("CAP_SYS_PTRACE"), json!("CAP_DAC_READ_SEARCH")]);
    }
    container
}

/// A script that goes through all that /proc shows of other processes, and tells what of it leads to
/// a file of the host.
fn search(container: &Fixture) -> String {
    let beacon = container.directory.path().join("beacon");
    fs::write(&beacon, "").unwrap();
    let beacon = beacon.display();
    format!(
        "for p in /proc/[0-9]*; do for f in $p/root $p/cwd $p/fd/*; do
            for to in $f{beacon} $f/../../../../../../../..{beacon} $f/../beacon $f/../../beacon; do
                [ -e $to ] && echo reached $to
        done; done; done 2>/dev/null"
    )
}

#[test]
fn a_created_container_shows_nothing_of_the_host_to_another_in_its_pid_namespace() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        let script = format!("ls /proc/1/fd; {}; echo looked", search(&container));
        let mut other = beside(init, &script);
        let (status, output) = other.run().await;
        assert_eq!(status, 0);
        // The streams, the report, and the socket on which it is told to go on.
        assert!(output.ends_with("\nlooked\n") && !output.contains("reached"), "{output}");
        assert_eq!(output.lines().count(), 6, "{output}");
        container.delete(true).await;
        wait(init);
    });
}

#[test]
fn what_joins_a_pid_namespace_shows_nothing_of_the_host_to_who_is_there() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let script = format!("while [ ! -e /stop ]; do {}; done; echo looked", search(&container));
        let mut other = beside(init, &script);
        let (looker, output) = other.create().await.unwrap();
        other.start().await.unwrap();
        let began = Instant::now();
        let mut joined = 0;
        while began.elapsed() < Duration::from_secs(4) {
            let (pid, said) = container.exec(process(&["true"])).await.unwrap();
            drop(read(said));
            wait(pid);
            // And so does the init of a third.
            let mut third = beside(init, "echo $(ls -d /proc/$$)");
            let (status, said) = third.run().await;
            assert_eq!(status, 0, "{said}");
            assert!(said.starts_with("/proc/") && said != "/proc/1\n", "{said}");
            joined += 1;
        }
        fs::write(other.rootfs().join("stop"), "").unwrap();
        assert_eq!(wait(looker), 0);
        assert_eq!(read(output), "looked\n", "{joined} joined");
        other.delete(false).await;
        container.delete(true).await;
        wait(init);
    });
}

#[test]
fn a_failed_create_in_a_pid_namespace_of_others_leaves_nothing() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let mut other = beside(init, "true");
        other.spec["process"]["args"] = json!(["nope"]);
        let error = other.create().await.unwrap_err();
        assert!(error.contains("executable file not found in $PATH"), "{error}");
        other.assert_nothing_left();
        // It reads nothing of a state that no pipe can hold.
        other.spec["annotations"] = json!({"long": "x".repeat(200_000)});
        other.spec["hooks"] = json!({"createContainer": [{"path": "/bin/false", "timeout": 5}]});
        let error = other.create().await.unwrap_err();
        assert!(error.contains("non-zero exit code"), "{error}");
        other.assert_nothing_left();
        assert_eq!(container.pids(), [init]);
        container.delete(true).await;
        wait(init);
    });
}

#[test]
fn a_limit_of_few_files_holds_and_does_not_keep_the_container_from_being_made() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "ulimit -n; ulimit -H -n; sleep 60"]);
        let few = json!([{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}]);
        container.spec["process"]["rlimits"] = few.clone();
        let (init, output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let mut exec = shell("ulimit -n; ulimit -H -n");
        exec["rlimits"] = few;
        let (pid, said) = container.exec(exec).await.unwrap();
        assert_eq!(read(said), "8\n9\n");
        wait(pid);
        container.delete(true).await;
        assert_eq!(read(output), "8\n9\n");
        wait(init);
    });
}
