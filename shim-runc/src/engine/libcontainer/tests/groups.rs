//! Groups that a container shares with others.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::fixture::{Fixture, on_the_shims_thread, read, wait};

fn pids_group(path: &str) -> std::path::PathBuf {
    format!("/sys/fs/cgroup/pids{path}").into()
}

#[test]
fn a_process_that_was_in_the_group_before_outlives_the_container() {
    on_the_shims_thread(async {
        for own_pid_namespace in [true, false] {
            let mut container = Fixture::new(&["sleep", "60"]);
            let path = format!("/shim-test/{}-before", container.id);
            container.spec["linux"]["cgroupsPath"] = json!(path);
            if !own_pid_namespace {
                container.spec["linux"]["namespaces"].as_array_mut().unwrap().remove(0);
            }
            let group = pids_group(&path);
            fs::create_dir_all(&group).unwrap();
            let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
            fs::write(group.join("cgroup.procs"), stranger.id().to_string()).unwrap();
            let (init, _output) = container.create().await.unwrap();
            container.start().await.unwrap();
            container.delete(true).await;
            assert_eq!(wait(init), 137);
            assert!(stranger.try_wait().unwrap().is_none(), "it was killed");
            assert!(group.exists());
            // The groups of other hierarchies were the container's own.
            assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/freezer{path}")).exists());
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            fs::remove_dir(&group).unwrap();
        }
    });
}

#[test]
fn of_two_containers_with_one_group_each_outlives_the_other() {
    on_the_shims_thread(async {
        let mut first = Fixture::new(&["sleep", "60"]);
        let mut second = Fixture::new(&["sh", "-c", "sleep 1; echo still here"]);
        second.share_engine(&first);
        let path = format!("/shim-test/{}-shared", first.id);
        for container in [&mut first, &mut second] {
            container.spec["linux"]["cgroupsPath"] = json!(path);
        }
        let (init, _output) = first.create().await.unwrap();
        first.start().await.unwrap();
        let (other, output) = second.create().await.unwrap();
        // As the shim does.
        fs::write(second.bundle().join("init.pid"), other.to_string()).unwrap();
        second.start().await.unwrap();
        first.delete(true).await;
        assert_eq!(wait(init), 137);
        assert_eq!(read(output), "still here\n");
        assert_eq!(wait(other), 0);
        second.delete(false).await;
        assert!(!pids_group(&path).exists(), "the last one removes what the first has made");
    });
}
