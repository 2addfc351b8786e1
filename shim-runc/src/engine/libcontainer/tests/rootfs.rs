//! Images and volumes that lead the making of a root file system astray.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use super::fixture::{Fixture, on_the_shims_thread, read, wait};

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn bind(container: &mut Fixture, source: &Path, destination: &str) {
    let mount = json!({"destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rw"]});
    push(&mut container.spec["mounts"], mount);
}

fn without(container: &mut Fixture, destination: &str) {
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with(destination));
}

/// A directory of the host that looks like a /dev.
fn host_dev(container: &Fixture) -> PathBuf {
    let path = container.directory.path().join("host-dev");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("ptmx"), "the host's").unwrap();
    path
}

/// What is in a directory, with modes, sizes and what links say.
fn content(path: &Path) -> Vec<String> {
    let mut found: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let link = fs::read_link(&path).ok();
            format!("{} {:o} {} {link:?}", path.display(), stat.mode(), stat.len())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn an_image_whose_dev_is_a_link_to_the_host_changes_nothing_there() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "ls /dev/; [ -c /dev/null ] && echo null"]);
        let host = host_dev(&container);
        let before = content(&host);
        // With and without a /dev of its own; with and without the directory in the image.
        for (own, there) in [(true, true), (false, true), (true, false), (false, false)] {
            let dev = container.rootfs().join("dev");
            let _ = fs::remove_dir_all(&dev);
            let _ = fs::remove_file(&dev);
            symlink(&host, &dev).unwrap();
            let inside = container.rootfs().join(host.strip_prefix("/").unwrap());
            let _ = fs::remove_dir_all(&inside);
            if there {
                fs::create_dir_all(&inside).unwrap();
            }
            if !own {
                without(&mut container, "/dev");
            }
            let (status, output) = container.run().await;
            assert_eq!(content(&host), before, "own /dev: {own}, {output}");
            assert_eq!(status, 0, "{output}");
            assert!(output.contains("ptmx\n") && output.ends_with("null\n"), "{output}");
        }
    });
}

#[test]
fn a_directory_of_the_host_at_dev_stays_as_it_is() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "ls /dev"]);
        let host = host_dev(&container);
        without(&mut container, "/dev");
        bind(&mut container, &host, "/dev");
        let before = content(&host);
        let device = json!({"path": "/dev/extra", "type": "c", "major": 1, "minor": 5});
        for devices in [json!([]), json!([device])] {
            container.spec["linux"]["devices"] = devices;
            let (status, output) = container.run().await;
            assert_eq!((status, output.as_str()), (0, "ptmx\n"));
            assert_eq!(content(&host), before);
        }
        // Nor when the create fails.
        container.spec["process"]["args"] = json!(["nothing"]);
        container.create().await.unwrap_err();
        assert_eq!(content(&host), before);
    });
}

#[test]
fn a_directory_of_the_host_below_dev_gets_no_device() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["ls", "/dev/extra"]);
        let host = host_dev(&container);
        bind(&mut container, &host, "/dev/extra");
        let device = |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 5});
        container.spec["linux"]["devices"] =
            json!([device("/dev/extra/zero"), device("/dev/extra/deeper/zero")]);
        let before = content(&host);
        let (status, output) = container.run().await;
        assert_eq!(content(&host), before);
        assert_eq!((status, output.as_str()), (0, "ptmx\n"));
    });
}

#[test]
fn a_device_that_is_bound_is_not_made() {
    on_the_shims_thread(async {
        let script = "[ -c /dev/null ] && echo x >/dev/null && cat /dev/fuse";
        let mut container = Fixture::new(&["sh", "-c", script]);
        bind(&mut container, Path::new("/dev/null"), "/dev/null");
        // Bound and listed.
        let source = container.directory.path().join("file");
        fs::write(&source, "bound").unwrap();
        bind(&mut container, &source, "/dev/fuse");
        container.spec["linux"]["devices"] =
            json!([{"path": "/dev/fuse", "type": "c", "major": 1, "minor": 5}]);
        let before = fs::metadata("/dev/null").unwrap().mode();
        assert_eq!(container.run().await, (0, "bound".to_owned()));
        assert_eq!(fs::metadata("/dev/null").unwrap().mode(), before);
    });
}

#[test]
fn the_hosts_own_dev_can_be_bound() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["sh", "-c", "[ -c /dev/null ] && [ -c /dev/tty ]"]);
        without(&mut container, "/dev");
        bind(&mut container, Path::new("/dev"), "/dev");
        let before = content(Path::new("/dev"));
        let (status, output) = container.run().await;
        assert_eq!(status, 0, "{output}");
        let after = content(Path::new("/dev"));
        // Others make loop devices meanwhile.
        let links = |list: &[String]| {
            list.iter().filter(|line| line.contains("Some")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(links(&after), links(&before));
    });
}

#[test]
fn directories_below_dev_are_writable_by_root_alone() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["stat", "-c", "%a", "/dev/cpu", "/dev/cpu/0"]);
        container.spec["linux"]["devices"] =
            json!([{"path": "/dev/cpu/0/cpuid", "type": "c", "major": 203, "minor": 0}]);
        assert_eq!(container.run().await, (0, "755\n755\n".to_owned()));
        // Whatever the mask of the process is to be.
        container.spec["process"]["user"]["umask"] = json!(0);
        assert_eq!(container.run().await, (0, "755\n755\n".to_owned()));
    });
}

#[test]
fn a_volume_does_not_cover_proc_through_a_link() {
    on_the_shims_thread(async {
        for first in [true, false] {
            let mut container = Fixture::new(&["true"]);
            let volume = container.directory.path().join("volume");
            fs::create_dir(&volume).unwrap();
            symlink("/proc", container.rootfs().join("data")).unwrap();
            bind(&mut container, &volume, "/data");
            if first {
                let mounts = container.spec["mounts"].as_array_mut().unwrap();
                let last = mounts.pop().unwrap();
                mounts.insert(0, last);
            }
            let error = container.create().await.unwrap_err();
            assert!(error.contains("/data cannot be mounted"), "{error}");
            container.assert_nothing_left();
            assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
        }
    });
}

#[test]
fn a_table_of_mounts_of_the_images_own_opens_no_control_group() {
    on_the_shims_thread(async {
        let script = "
            for d in /sys/fs/cgroup/*; do
                [ -d $d ] || continue
                echo seen; (echo 1 >$d/cgroup.clone_children) 2>/dev/null && echo written
            done";
        let mut container = Fixture::new(&["sh", "-c", script]);
        without(&mut container, "/proc");
        container.spec["linux"]["maskedPaths"] = json!([]);
        container.spec["linux"]["readonlyPaths"] = json!([]);
        push(
            &mut container.spec["mounts"],
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        );
        fs::create_dir(container.rootfs().join("proc/self")).unwrap();
        fs::write(container.rootfs().join("proc/self/mountinfo"), "").unwrap();
        let (status, output) = container.run().await;
        assert!(output.starts_with("seen\n"), "{status} {output}");
        assert!(!output.contains("written"), "{output}");
    });
}

/// Exchanges two names for as long as it is there.
struct Exchange {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Exchange {
    fn of(one: PathBuf, other: PathBuf) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !told.load(Ordering::Relaxed) {
                if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                    count += 1;
                }
            }
            count
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let count = self.thread.take().unwrap().join().unwrap();
        assert!(count > 0 || std::thread::panicking(), "nothing was exchanged");
    }
}

/// Makes containers while two names in their root are exchanged; none may say a word. Returns how
/// many came to run.
async fn made_meanwhile(container: &mut Fixture, one: &str, other: &str) -> usize {
    const CREATES: usize = 200;
    const TIME: Duration = Duration::from_secs(5);
    let _exchange = Exchange::of(container.rootfs().join(one), container.rootfs().join(other));
    let began = Instant::now();
    let mut made = 0;
    for _ in 0..CREATES {
        if began.elapsed() > TIME {
            break;
        }
        let Ok((pid, output)) = container.create().await else {
            container.assert_nothing_left();
            continue;
        };
        container.start().await.unwrap();
        let output = read(output);
        wait(pid);
        container.delete(false).await;
        assert_eq!(output, "", "container {made}");
        made += 1;
    }
    made
}

#[test]
fn a_proc_that_is_exchanged_with_a_link_leaves_nothing_open() {
    on_the_shims_thread(async {
        let script = "
            for p in /proc /link /elsewhere; do
                # Each looked up once, since the names go on being exchanged.
                (: >>$p/sys/kernel/core_pattern) 2>/dev/null && echo core_pattern is open
                case $(stat -c %F $p/keys 2>/dev/null) in
                    '' | character*) ;;
                    *) echo keys are seen
                esac
            done; true";
        let mut container = Fixture::new(&["sh", "-c", script]);
        fs::create_dir(container.rootfs().join("elsewhere")).unwrap();
        symlink("elsewhere", container.rootfs().join("link")).unwrap();
        assert!(made_meanwhile(&mut container, "proc", "link").await > 0, "none was made");
        // The same by a link that leads upwards, which has the kernel begin anew.
        fs::remove_file(container.rootfs().join("link"))
            .or_else(|_| fs::remove_file(container.rootfs().join("proc")))
            .unwrap();
        for name in ["proc", "link"] {
            if !container.rootfs().join(name).exists() {
                symlink("../elsewhere", container.rootfs().join(name)).unwrap();
            }
        }
        made_meanwhile(&mut container, "proc", "link").await;
    });
}

#[test]
fn a_mount_point_in_a_volume_that_is_exchanged_with_a_link_leads_nowhere_outside() {
    on_the_shims_thread(async {
        let mut container = Fixture::new(&["true"]);
        let volume = container.directory.path().join("volume");
        let outside = container.directory.path().join("outside");
        for path in [&outside, &volume.join("place")] {
            fs::create_dir_all(path).unwrap();
        }
        // A sibling that shares the volume leads every name of the host out of it.
        symlink(&outside, volume.join("link")).unwrap();
        bind(&mut container, &volume, "/volume");
        push(
            &mut container.spec["mounts"],
            json!({"destination": "/volume/place/new/deep", "type": "tmpfs", "source": "tmpfs"}),
        );
        container.spec["linux"]["devices"] =
            json!([{"path": "/volume/place/made/zero", "type": "c", "major": 1, "minor": 5}]);
        let before = content(&outside);
        let exchange = Exchange::of(volume.join("place"), volume.join("link"));
        for _ in 0..100 {
            if let Ok((pid, output)) = container.create().await {
                container.start().await.unwrap();
                drop(read(output));
                wait(pid);
                container.delete(false).await;
            }
        }
        drop(exchange);
        assert_eq!(content(&outside), before);
    });
}
