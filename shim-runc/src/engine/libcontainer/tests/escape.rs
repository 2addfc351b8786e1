//! Ways out of a container that others have left open.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::fixture::{Fixture, executable, on_the_shims_thread, process, read, wait};
use crate::sys;

#[test]
fn the_host_binary_cannot_be_reached_through_a_process_of_the_container() {
    on_the_shims_thread(async {
        // CVE-2019-5736: a command that is the runtime itself, caught and opened for writing.
        let mut container = Fixture::new(&["/bin/again"]);
        executable(&container.rootfs().join("bin/again"), "#!/proc/self/exe\n");
        let (init, _output) = container.create().await.unwrap();
        let exe = format!("/proc/{init}/exe");
        // Even the host's root cannot write through it.
        let refused = fs::File::options().write(true).open(&exe).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
        let image = fs::File::open(&exe).unwrap();
        // Not because of its mount, which a user namespace of the container could change: the file
        // stays as it is while the shim runs, and after it was killed.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let same: [OwnedFd; 2] =
            [fs::File::open(&exe).unwrap().into(), open_tree(CWD, &*exe, flags).unwrap()];
        for mount in same {
            // The mount of the file itself is no other than that of its directory, its copy is.
            let _ = sys::mount::make_mount_writable(&mount);
            let through = format!("/proc/self/fd/{}", mount.as_raw_fd());
            let refused = fs::File::options().write(true).open(through).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
        }
        let flags = rustix::fs::fstatvfs(&image).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
        container.delete(true).await;
    });
}

#[test]
fn a_container_that_catches_an_exec_cannot_write_to_the_host_binary() {
    on_the_shims_thread(async {
        // CVE-2019-5736 as it was used: the administrator's exec runs what the container has put in
        // its place, which is the runtime itself; the container holds on to that process's
        // executable, and opens it for writing once it is not in use any more.
        let script = "
            hold() {
                [ /proc/self/fd/5 -ef /bin/busybox ] && return
                echo caught
                for n in 1 2 3 4 5 6 7 8 9 10; do
                    (echo overwritten >/proc/self/fd/5) && echo written
                    sleep 0.05
                done
                exit
            }
            while :; do for p in /proc/[0-9]*; do
                [ $p/exe -ef /bin/busybox ] || hold 5<$p/exe
            done; done 2>/tmp/errors";
        let mut container = Fixture::new(&["sh", "-c", script]);
        executable(&container.rootfs().join("bin/again"), "#!/proc/self/exe\n");
        let before = fs::metadata("/proc/self/exe").unwrap();
        let (init, output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            // Whatever becomes of it: one that begins after init's end is refused.
            let Ok((pid, output)) = container.exec(process(&["/bin/again"])).await else { break };
            drop(read(output));
            wait(pid);
        }
        assert_eq!(wait(init), 0, "no exec was caught");
        assert_eq!(read(output), "caught\n");
        let errors = fs::read_to_string(container.rootfs().join("tmp/errors")).unwrap();
        assert!(errors.contains("Read-only file system"), "{errors}");
        let after = fs::metadata("/proc/self/exe").unwrap();
        assert_eq!(before.len(), after.len());
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        container.delete(false).await;
    });
}

#[test]
fn a_working_directory_that_is_a_descriptor_leads_nowhere_outside() {
    on_the_shims_thread(async {
        // CVE-2024-21626: a directory of the host that is open while the process is made.
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let outside = format!("../../../../../../../..{}", container.bundle().display());
        for descriptor in 0..32 {
            let script = format!("ls / >/dev/null; [ -e {outside} ] && echo out; ls {outside}");
            let mut exec = process(&["sh", "-c", &script]);
            exec["cwd"] = format!("/proc/self/fd/{descriptor}").into();
            if let Ok((pid, output)) = container.exec(exec).await {
                let output = read(output);
                wait(pid);
                assert!(!output.contains("out\n"), "by descriptor {descriptor}: {output}");
            }
        }
        // The same for init.
        end(init);
        container.delete(true).await;
        for descriptor in 0..32 {
            let script = format!("[ -e {outside} ] && echo out; true");
            let cwd = format!("/proc/self/fd/{descriptor}");
            container.spec["process"] = process(&["sh", "-c", &script]);
            container.spec["process"]["cwd"] = cwd.into();
            if let Ok((pid, output)) = container.create().await {
                if container.start().await.is_ok() {
                    assert_eq!(read(output), "", "by descriptor {descriptor}");
                }
                wait(pid);
                container.delete(true).await;
            }
        }
    });
}

#[test]
fn an_exec_joins_nothing_but_a_child_of_the_shim() {
    on_the_shims_thread(async {
        // The number of an init that has ended may be another's. With that of a process of the host the
        // exec would have run on the host.
        let mut container = Fixture::new(&["sleep", "60"]);
        let (init, _output) = container.create().await.unwrap();
        container.start().await.unwrap();
        let file = container.record().join("state.json");
        let own = fs::read_to_string(&file).unwrap();
        let (named, host) = (format!("\"pid\":{init}"), "\"pid\":1");
        assert!(own.contains(&named), "{own}");
        fs::write(&file, own.replace(&named, host)).unwrap();
        let refused = container.exec(process(&["true"])).await.unwrap_err();
        assert!(refused.contains("stopped container"), "{refused}");
        fs::write(&file, own).unwrap();
        let (pid, _) = container.exec(process(&["true"])).await.unwrap();
        assert_eq!(wait(pid), 0);
        end(init);
        container.delete(true).await;
    });
}

fn end(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    wait(pid);
}
