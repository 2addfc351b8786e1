//! Containers from create to delete, through a real helper.

mod escape;
mod fixture;
mod groups;
mod hang;
mod outside;
mod rootfs;

use std::fs;

use serde_json::json;

use crate::cgroup::record;

use fixture::{Fixture, executable, on_the_shims_thread, process, read, shell, wait};

#[test]
fn a_container_runs_its_command_and_leaves_nothing() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
        let (status, output) = container.run().await;
        assert_eq!((status, output.as_str()), (42, "out\nerr\n"));
    });
}

#[test]
fn the_command_sees_what_the_spec_says() {
    on_the_shims_thread(async {
        let script = "
            echo $0 $HOME $PWD $A; echo $$; cat /proc/sys/kernel/hostname; ulimit -n
            grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd|Groups' /proc/self/status
            ls /proc/self/fd | head -n 9; touch /proc/sys/x 2>&1; ls /proc/acpi /sys/firmware
            umask 2>&1";
        let mut container = Fixture::new(&["sh", "-c", script]);
        container.spec["process"]["env"] = json!(["PATH=/bin", "A=b=c"]);
        container.spec["process"]["cwd"] = json!("/tmp");
        container.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [5, 6]});
        let (status, output) = container.run().await;
        assert_eq!(status, 0, "{output}");
        let expected = "\
sh /root /tmp b=c
1
test
1024
Groups:\t5 6 
CapEff:\t00000000a80425fb
CapBnd:\t00000000a80425fb
NoNewPrivs:\t1
Seccomp:\t2
0
1
2
3
";
        assert!(output.starts_with(expected), "{output}");
    });
}

#[test]
fn what_was_expected_is_made_and_so_is_what_was_not() {
    on_the_shims_thread(async {
        for (expected, lost) in [(true, false), (true, true), (false, false)] {
            let mut container = Fixture::new(&["sh", "-c", "cat /proc/self/cgroup"]);
            container.write_spec();
            let bundle = container.bundle();
            let id = if expected { container.id.clone() } else { "another".to_owned() };
            container.engine.prepare(Some((&id, &bundle)));
            if lost {
                container.engine.kill_helper().await;
            }
            let (status, output) = container.run().await;
            assert_eq!(status, 0, "{output}");
            // Neither the tree of version 2 nor systemd's own limits anything.
            let limiting = |line: &&str| !line.starts_with("0:") && !line.contains("name=");
            for group in output.lines().filter(limiting) {
                assert!(group.ends_with(&container.id), "{output}");
            }
        }
    });
}

#[test]
fn a_spec_that_changed_after_it_was_expected_is_read_again() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo before"]);
        container.write_spec();
        container.engine.prepare(Some((&container.id, &container.bundle())));
        // Time to read it; a helper that is slower reads it once, and right.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        container.spec["process"]["args"] = json!(["sh", "-c", "echo after"]);
        assert_eq!(container.run().await, (0, "after\n".to_owned()));
    });
}

#[test]
fn a_group_that_cannot_be_limited_fails_create_with_that_reason_and_leaves_nothing() {
    on_the_shims_thread(async {
        for hooks in [json!(null), json!({"poststop": []})] {
            let mut container = Fixture::new(&["true"]);
            container.spec["linux"]["resources"]["cpu"] = json!({"cpus": "4000"});
            if !hooks.is_null() {
                // Then init waits for its groups first of all.
                container.spec["hooks"] = hooks;
            }
            let error = container.create().await.unwrap_err();
            assert!(error.contains("cpuset.cpus"), "{error}");
            container.assert_nothing_left();
        }
    });
}

#[test]
fn a_missing_command_fails_create_and_leaves_nothing() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["nope"]);
        let error = container.create().await.unwrap_err();
        assert_eq!(
            error,
            "OCI runtime create failed: unable to start container process: exec: \"nope\": \
             executable file not found in $PATH: no such file or directory"
        );
        container.assert_nothing_left();
        container.spec["process"]["args"] = json!(["/etc/data"]);
        let error = container.create().await.unwrap_err();
        assert!(error.ends_with("exec: \"/etc/data\": permission denied"), "{error}");
        container.assert_nothing_left();
    });
}

#[test]
fn a_command_that_the_kernel_cannot_execute_fails_start() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["/bin/text"]);
        executable(&container.rootfs().join("bin/text"), "no shebang");
        let (init, _output) = container.create().await.unwrap();
        let error = container.start().await.unwrap_err();
        assert!(error.ends_with("exec: \"/bin/text\": exec format error"), "{error}");
        wait(init);
        container.delete(false).await;
    });
}

#[test]
fn an_error_tells_its_cause() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        container.spec["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/data", "type": "bind", "source": "/nonexistent", "options": ["bind"],
        }));
        let error = container.create().await.unwrap_err();
        assert!(error.contains("/nonexistent"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        container.assert_nothing_left();
    });
}

#[test]
fn a_spec_that_would_own_the_root_cgroup_is_refused() {
    on_the_shims_thread(async {
        for path in ["/", "/a/../..", ".."] {
            let mut container = Fixture::new(&["true"]);
            container.spec["linux"]["cgroupsPath"] = json!(path);
            let error = container.create().await.unwrap_err();
            assert!(error.contains("cgroupsPath"), "{error}");
        }
    });
}

#[test]
fn a_selinux_label_is_refused_rather_than_ignored() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        container.spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
        let error = container.create().await.unwrap_err();
        assert!(error.contains("SELinux"), "{error}");
        container.assert_nothing_left();
    });
}

#[test]
fn an_exec_is_as_confined_as_its_container() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        container.create().await.unwrap();
        container.start().await.unwrap();
        let script = "grep -E 'NoNewPrivs|Seccomp:|CapEff|Groups' /proc/self/status
            id; echo $HOME; cat /proc/self/cgroup | grep pids; ls /proc/self/fd | head -n 9";
        let mut command = shell(script);
        command["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
        let (pid, output) = container.exec(command.clone()).await.unwrap();
        let output = read(output);
        assert_eq!(wait(pid), 0);
        assert!(output.starts_with("Groups:\t5 \nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nuid=1000(user) gid=1000 groups=5\n/home/user\n"), "{output}");
        assert!(output.contains(&container.id), "{output}");
        // Without no_new_privs the profile must be loaded while that is still allowed.
        command["noNewPrivileges"] = json!(false);
        let (pid, output) = container.exec(command).await.unwrap();
        let output = read(output);
        assert_eq!(wait(pid), 0);
        assert!(output.contains("NoNewPrivs:\t0\nSeccomp:\t2\n"), "{output}");
        container.delete(true).await;
    });
}

#[test]
fn an_exec_that_cannot_be_executed_says_why() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        container.create().await.unwrap();
        container.start().await.unwrap();
        let error = container.exec(process(&["nope"])).await.unwrap_err();
        assert!(error.contains("exec: \"nope\": executable file not found in $PATH"), "{error}");
        let error = container.exec(process(&["/etc/data"])).await.unwrap_err();
        assert!(error.ends_with("exec: \"/etc/data\": permission denied"), "{error}");
        let (pid, _) = container.exec(process(&["sh", "-c", "exit 7"])).await.unwrap();
        assert_eq!(wait(pid), 7);
        container.delete(true).await;
    });
}

#[test]
fn a_created_container_can_be_executed_in_and_then_started() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo started"]);
        let (init, output) = container.create().await.unwrap();
        let (pid, said) = container.exec(shell("echo inside")).await.unwrap();
        assert_eq!(read(said), "inside\n");
        assert_eq!(wait(pid), 0);
        container.start().await.unwrap();
        assert_eq!(read(output), "started\n");
        wait(init);
        container.delete(false).await;
    });
}

#[test]
fn a_running_container_is_deleted_only_by_force() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "sleep 61 & sleep 60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let error = container.engine.delete_container(&container.id, false).await.unwrap_err();
        assert_eq!(error.kind(), shim_sdk::Kind::FailedPrecondition);
        container.delete(true).await;
        assert_eq!(wait(init), 137);
        container.delete(true).await;
    });
}

#[test]
fn a_container_that_was_never_started_is_deleted() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        let (init, _output) = container.create().await.unwrap();
        container.delete(false).await;
        assert_eq!(wait(init), 137);
    });
}

#[test]
fn a_paused_container_rests_and_can_be_deleted() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        container.engine.pause_container(&container.id).await.unwrap();
        let error = container.exec(process(&["true"])).await.unwrap_err();
        assert!(error.ends_with("cannot exec in a paused container"), "{error}");
        container.engine.resume_container(&container.id).await.unwrap();
        let (pid, _) = container.exec(process(&["true"])).await.unwrap();
        assert_eq!(wait(pid), 0);
        container.engine.pause_container(&container.id).await.unwrap();
        container.delete(true).await;
        assert_eq!(wait(init), 137);
    });
}

#[test]
fn an_id_in_use_is_refused_and_its_container_unharmed() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo still here"]);
        let (_, output) = container.create().await.unwrap();
        let error = container.create().await.unwrap_err();
        assert!(error.contains("already exists"), "{error}");
        container.start().await.unwrap();
        assert_eq!(read(output), "still here\n");
        container.delete(true).await;
    });
}

#[test]
fn a_helper_killed_between_calls_is_replaced() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "echo alive; exit 3"]);
        let (init, output) = container.create().await.unwrap();
        container.engine.kill_helper().await;
        container.start().await.unwrap();
        assert_eq!(read(output), "alive\n");
        assert_eq!(wait(init), 3);
        container.engine.kill_helper().await;
        container.delete(false).await;
    });
}

#[test]
fn a_helper_that_died_in_a_create_leaves_nothing() {
    on_the_shims_thread(async {
        for delay in [0, 300, 600, 900, 1200, 1600, 2000, 3000, 4000, 6000, 8000] {
            let mut container = Fixture::new(&["true"]);
            container.engine.prepare(None);
            let helper = container.engine.helper_pid().await;
            let killer = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_micros(delay));
                let _ = rustix::process::kill_process(helper, rustix::process::Signal::KILL);
            });
            let created = container.create().await;
            // A delete that it hit would be another story.
            killer.join().unwrap();
            match created {
                Ok(_) => container.delete(true).await,
                Err(error) => assert!(error.contains("ended without an answer"), "{error}"),
            }
            container.assert_nothing_left();
        }
    });
}

#[test]
fn a_helper_that_died_while_it_wrote_the_first_file_leaves_nothing() {
    // A helper killed between the write and the rename of `groups.json` left the draft for ever.
    on_the_shims_thread(async {
        let container = Fixture::new(&["true"]);
        let mut draft = record::file_beside(&container.engine.root, &container.id).into_os_string();
        draft.push(".new");
        fs::create_dir_all(&container.engine.root).unwrap();
        fs::write(&draft, "{\"version\":1,").unwrap();
        container.delete(true).await;
    });
}

#[test]
fn a_helper_that_was_stopped_is_replaced_and_its_call_answered() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        container.engine.prepare(None);
        let helper = container.engine.helper_pid().await;
        rustix::process::kill_process(helper, rustix::process::Signal::STOP).unwrap();
        let error = container.create().await.unwrap_err();
        assert!(error.contains("stopped from outside"), "{error}");
        container.assert_nothing_left();
        assert_eq!(container.run().await.0, 0);
    });
}

#[test]
fn a_terminal_arrives_on_the_console_socket() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["tty"]);
        container.spec["process"]["terminal"] = json!(true);
        let socket = container.directory.path().join("console.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let streams = super::BorrowedStreams { console: Some(socket), ..Default::default() };
        fs::write(container.bundle().join("config.json"), container.spec.to_string()).unwrap();
        let init = container
            .engine
            .create_container(&container.id, &container.bundle(), (false, false), &streams)
            .await
            .unwrap();
        let (connection, _) = listener.accept().unwrap();
        let terminal = fixture::receive_one(&connection);
        container.start().await.unwrap();
        assert_eq!(wait(init), 0);
        let mut text = [0; 64];
        let read = rustix::io::read(&terminal, &mut text).unwrap();
        assert_eq!(&text[..read], b"/dev/pts/0\r\n");
        container.delete(false).await;
    });
}

#[test]
fn hooks_run_with_the_state_on_stdin() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        let folder = container.directory.path().to_owned();
        let hook = |stage: &str| {
            let script = format!("cat > {}/{stage}", folder.display());
            json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 10}])
        };
        container.spec["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
            "poststart": hook("poststart"), "poststop": hook("poststop"),
        });
        assert_eq!(container.run().await.0, 0);
        for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
            let state = fs::read_to_string(folder.join(stage)).unwrap();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            assert_eq!(state["id"], container.id, "{stage}");
            assert_eq!(state["bundle"], container.bundle().to_str().unwrap(), "{stage}");
        }
    });
}

#[test]
fn a_hook_is_given_its_streams_and_no_other_descriptor() {
    on_the_shims_thread(async {
        // A hook of the container's own, and one that it can see, would go on from what it is given.
        let mut container = Fixture::new(&["true"]);
        let folder = container.directory.path().to_owned();
        let hook = |at: &str| {
            // The last one is the shell's own, of its listing.
            let script = format!("cat >/dev/null; echo /proc/self/fd/* > {at}");
            json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 10}])
        };
        let outside = |stage: &str| hook(&folder.join(stage).display().to_string());
        let stages = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        let mut hooks: serde_json::Map<_, _> =
            stages.iter().map(|stage| ((*stage).to_owned(), outside(stage))).collect();
        hooks.insert("startContainer".to_owned(), hook("/startContainer"));
        container.spec["hooks"] = json!(hooks);
        assert_eq!(container.run().await.0, 0);
        let files = stages.iter().map(|stage| folder.join(stage));
        for file in files.chain([container.rootfs().join("startContainer")]) {
            let open = fs::read_to_string(&file).unwrap();
            let numbers: Vec<_> = open
                .split_whitespace()
                .filter_map(|path| path.rsplit('/').next()?.parse::<i32>().ok())
                .collect();
            assert!(numbers.len() >= 3, "{}: {open}", file.display());
            assert!(numbers.iter().all(|number| *number <= 3), "{}: {open}", file.display());
        }
    });
}

#[test]
fn a_process_that_was_handed_over_is_not_another_of_its_number() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        assert!(container.engine.is_known(init));
        container.engine.known.borrow_mut().insert(init, 1);
        assert!(!container.engine.is_known(init), "it was started at another time");
        container.delete(true).await;
        wait(init);
        container.engine.hand_over(init);
        assert!(!container.engine.is_known(init), "it has ended");
    });
}

#[test]
fn a_user_namespace_maps_init_and_execs_alike() {
    on_the_shims_thread(async {
        let script = "cat /proc/self/uid_map; sleep 60";
        let mut container = Fixture::new(&["sh", "-c", script]);
        let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        container.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        container.spec["linux"]["uidMappings"] = maps.clone();
        container.spec["linux"]["gidMappings"] = maps;
        std::os::unix::fs::chown(container.rootfs(), Some(100_000), Some(100_000)).unwrap();
        for directory in [container.directory.path(), &container.bundle(), &container.rootfs()] {
            fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        }
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let (pid, output) = container.exec(shell("cat /proc/self/uid_map; id -u")).await.unwrap();
        let output = read(output);
        assert_eq!(wait(pid), 0);
        let words: Vec<_> = output.split_ascii_whitespace().collect();
        assert_eq!(words, ["0", "100000", "65536", "0"]);
        assert!(fs::read_to_string(format!("/proc/{init}/uid_map")).unwrap().contains("100000"));
        container.delete(true).await;
    });
}

#[test]
fn a_broken_pipe_ends_a_command_as_it_would_outside() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "yes | head -n 1; echo over"]);
        assert_eq!(container.run().await, (0, "y\nover\n".to_owned()));
        container.spec["process"]["args"] =
            json!(["sh", "-c", "grep SigIgn /proc/self/status | cut -c 20-"]);
        let (_, output) = container.run().await;
        // SIGPIPE is bit 12.
        assert!(output.trim().ends_with("000"), "{output}");
    });
}

#[test]
fn a_helper_that_died_in_an_exec_leaves_no_process() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        for delay in 0..20 {
            container.engine.prepare(None);
            let helper = container.engine.helper_pid().await;
            let killer = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(delay * 2));
                let _ = rustix::process::kill_process(helper, rustix::process::Signal::KILL);
            });
            match container.exec(process(&["sleep", "59"])).await {
                Ok((pid, _)) => {
                    let pid = rustix::process::Pid::from_raw(pid).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    wait(pid.as_raw_nonzero().get());
                }
                Err(_) => assert_eq!(container.pids(), [init], "killed after {} ms", delay * 2),
            }
            killer.join().unwrap();
        }
        container.delete(true).await;
    });
}
