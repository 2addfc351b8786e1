//! Builds roots in threads that have a mount namespace, a root and descriptors of their own.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A bundle with a small image.
struct Bundle {
    directory: TempDir,
    spec: Value,
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// How a root is entered.
#[derive(Default)]
struct Way {
    console: bool,
    no_pivot_root: bool,
    group: PathBuf,
    unified: bool,
}

impl Bundle {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rootfs-").tempdir().unwrap();
        for name in ["rootfs/etc", "rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/tmp", "host"]
        {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("rootfs/etc/data"), "data").unwrap();
        fs::write(directory.path().join("host/file"), "host").unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
            "root": {"path": "rootfs"},
            "mounts": [
                mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts",
                    &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
                mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
                mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "namespaces": [{"type": "mount"}],
                "maskedPaths": ["/proc/keys", "/proc/interrupts", "/proc/nothing", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/nothing"],
            },
        });
        Self { directory, spec }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn add(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Enters the root and looks at it from inside.
    fn enter<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Result<T, String> {
        self.enter_with(Way::default(), |_| look())
    }

    fn refused(&self) -> String {
        self.enter(|| ()).unwrap_err()
    }

    fn enter_with<T: Send>(
        &self,
        way: Way,
        look: impl FnOnce(Option<Terminal>) -> T + Send,
    ) -> Result<T, String> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
                let root = root_fs(&spec, self.directory.path(), way.no_pivot_root, &way.group);
                let mut root = root.map_err(|failure| failure.message)?;
                if way.unified {
                    root.groups = Some(CgroupMounts::of_version_2(&way.group));
                }
                let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FILES;
                unshare(own | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC).unwrap();
                let before = free();
                let terminal = root.enter(|| Ok(()), way.console);
                let terminal = terminal.map_err(|failure| failure.message)?;
                let held = terminal.as_ref();
                let held = held.map(|both| [both.master.as_raw_fd(), both.slave.as_raw_fd()]);
                let held: Vec<_> = held.into_iter().flatten().collect();
                let mut now = free();
                now.extend(&held);
                now.sort_unstable();
                now.truncate(before.len());
                assert_eq!(now, before, "a descriptor is left open");
                Ok(look(terminal))
            });
            thread.join().unwrap()
        })
    }
}

/// With this host's hierarchies.
fn root_fs(
    spec: &Spec,
    bundle: &Path,
    no_pivot_root: bool,
    group: &Path,
) -> Result<RootFs, Failure> {
    RootFs::of(spec, bundle, no_pivot_root, group, &Hierarchies::read().unwrap())
}

/// The numbers of the next descriptors that this thread would open.
fn free() -> Vec<i32> {
    let null = fs::File::open("/").unwrap();
    let many: Vec<_> = (0..64).map(|_| null.try_clone().unwrap()).collect();
    many.iter().map(AsRawFd::as_raw_fd).collect()
}

/// The lines of this thread's mountinfo, by place: kind and options.
fn mounted(at: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let lines = table.lines().filter(|line| line.split(' ').nth(4) == Some(at));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_plain_container_has_what_its_spec_says() {
    let bundle = Bundle::new();
    let seen = bundle.enter(|| {
        assert_eq!(fs::read_to_string("/etc/data").unwrap(), "data");
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        let root = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let outside = root.lines().filter(|line| !line.contains(" / ")).count();
        assert!(outside < 16, "{root}");
        let null = fs::metadata("/dev/null").unwrap();
        assert!(null.file_type().is_char_device());
        assert_eq!((null.rdev(), null.mode() & 0o7777), (makedev(1, 3), 0o666));
        assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
        assert_eq!(fs::read_link("/dev/fd").unwrap(), Path::new("/proc/self/fd"));
        let denied =
            |path: &str| fs::OpenOptions::new().write(true).open(path).unwrap_err().raw_os_error();
        let read_only = Some(Errno::ROFS.raw_os_error());
        assert_eq!(denied("/proc/sys/kernel/core_pattern"), read_only);
        assert_eq!(fs::metadata("/proc/keys").unwrap().rdev(), makedev(1, 3));
        assert_eq!(fs::metadata("/proc/interrupts").unwrap().rdev(), makedev(1, 3));
        assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
        assert_eq!(fs::metadata("/dev/shm").unwrap().mode() & 0o7777, 0o1777);
        assert!(mounted("/sys")[0].contains(" ro,nosuid,nodev,noexec,"), "{:?}", mounted("/sys"));
        assert_eq!(mounted("/dev/mqueue").len(), 1);
    });
    seen.unwrap();
    assert_eq!(fs::read_dir(bundle.path("rootfs/dev")).unwrap().count(), 0, "the image changed");
}

#[test]
fn missing_mount_points_are_made_in_the_root_also_through_links_that_lead_nowhere() {
    let mut bundle = Bundle::new();
    let outside = bundle.path("outside");
    symlink(&outside, bundle.path("rootfs/out")).unwrap();
    symlink("../../../made/here", bundle.path("rootfs/etc/up")).unwrap();
    bundle.add(mount("/out/deep", "tmpfs", &[]));
    bundle.add(mount("etc/up/deep", "tmpfs", &[]));
    bundle.add(bind(&bundle.path("host/file"), "/out/file", &["bind"]));
    bundle.add(bind(&bundle.path("host"), "/../../new/place", &["rbind", "ro"]));
    bundle.spec["process"]["cwd"] = json!("/out/cwd");
    let inside = outside.clone();
    let seen = bundle.enter(move || {
        assert_eq!(mounted(inside.join("deep").to_str().unwrap()).len(), 1);
        assert_eq!(mounted("/made/here/deep").len(), 1);
        assert_eq!(fs::read_to_string("/out/file").unwrap(), "host");
        assert_eq!(fs::read_to_string("/new/place/file").unwrap(), "host");
        let written = fs::write("/new/place/file", "x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        assert!(fs::metadata("/out/cwd").unwrap().is_dir());
    });
    seen.unwrap();
    assert!(!outside.exists());
    assert_eq!(fs::read_to_string(bundle.path("host/file")).unwrap(), "host");
}

#[test]
fn only_procfs_is_mounted_over_proc_and_files_that_others_emulate() {
    let mut bundle = Bundle::new();
    let file = bundle.path("host/file");
    bundle.add(bind(&file, "/proc/uptime", &["bind"]));
    bundle.enter(|| assert_eq!(fs::read_to_string("/proc/uptime").unwrap(), "host")).unwrap();
    for at in ["/proc/version", "/proc/sys/kernel/core_pattern", "/proc/self/mountinfo"] {
        let mut bundle = Bundle::new();
        bundle.add(bind(&file, at, &["bind"]));
        assert!(bundle.refused().contains("cannot be mounted because it is in /proc"));
    }
    for (at, kind) in [("/proc", "tmpfs"), ("/link", "tmpfs"), ("/proc/sys", "proc")] {
        let mut bundle = Bundle::new();
        symlink("etc/../proc", bundle.path("rootfs/link")).unwrap();
        bundle.add(mount(at, kind, &[]));
        let text = bundle.refused();
        assert!(text.contains("cannot be mounted because it is"), "{text}");
    }
    // The host's procfs is one.
    let mut bundle = Bundle::new();
    bundle.add(bind(Path::new("/proc"), "/proc", &["rbind"]));
    bundle.enter(|| assert_eq!(mounted("/proc").len(), 2)).unwrap();
}

#[test]
fn proc_and_sys_are_mounted_on_directories_alone() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        fs::remove_dir(bundle.path("rootfs").join(name)).unwrap();
        symlink("/etc", bundle.path("rootfs").join(name)).unwrap();
        let text = bundle.refused();
        assert!(text.contains("must be mounted on an ordinary directory"), "{text}");
    }
}

#[test]
fn a_root_without_a_path_is_refused() {
    let mut bundle = Bundle::new();
    bundle.spec["root"]["path"] = json!("");
    assert_eq!(bundle.refused(), "root.path is empty");
}

#[test]
fn masks_need_a_null_device_that_is_one() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["devices"] =
        json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]);
    let text = bundle.refused();
    assert!(text.contains("/dev/null is not the null device"), "{text}");
}

#[test]
fn a_mask_is_found_below_the_mount_that_was_made_also_when_that_was_moved() {
    // The place that /proc was mounted at has another name by the time of the masks, and another
    // directory has its name.
    let bundle = Bundle::new();
    let (proc, other) = (bundle.path("rootfs/proc"), bundle.path("rootfs/other"));
    fs::create_dir_all(other.join("sys/kernel")).unwrap();
    fs::write(other.join("sys/kernel/core_pattern"), "").unwrap();
    fs::write(other.join("keys"), "").unwrap();
    let spec: Spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let directory = bundle.directory.path();
    let (ask, asked) = std::sync::mpsc::sync_channel(1);
    let (tell, done) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            asked.recv().unwrap();
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let cwd = rustix::fs::CWD;
            rustix::fs::renameat_with(cwd, &proc, cwd, &other, flags).unwrap();
            tell.send(()).unwrap();
        });
        let thread = scope.spawn(move || {
            let root = root_fs(&spec, directory, false, Path::new("/none"));
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FILES).unwrap();
            // On the host, where nothing is mounted on either.
            let exchange = || {
                ask.send(()).unwrap();
                done.recv().unwrap();
                Ok(())
            };
            root.unwrap().enter(exchange, false).unwrap();
            let refused = |path: &str| fs::OpenOptions::new().append(true).open(path).is_err();
            assert!(refused("/other/sys/kernel/core_pattern"));
            assert_eq!(fs::metadata("/other/keys").unwrap().rdev(), makedev(1, 3));
            assert!(!refused("/proc/sys/kernel/core_pattern"), "nothing of the host's");
        });
        thread.join().unwrap();
    });
}

#[test]
fn a_mount_over_another_leaves_the_masks_of_both() {
    let mut bundle = Bundle::new();
    let sys = bundle.path("host/sys");
    fs::create_dir_all(sys.join("firmware")).unwrap();
    fs::write(sys.join("firmware/file"), "").unwrap();
    bundle.add(bind(&sys, "/sys", &["bind"]));
    let seen = bundle.enter(|| {
        assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
        // Below it.
        rustix::mount::unmount("/sys", rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(Path::new("/sys/kernel").exists());
        assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
    });
    seen.unwrap();
}

#[test]
fn a_terminal_is_of_the_containers_own_devpts_and_shown_at_its_console() {
    let bundle = Bundle::new();
    let way = Way { console: true, ..Way::default() };
    let seen = bundle.enter_with(way, |terminal| {
        let terminal = terminal.unwrap();
        let slave = fstat(&terminal.slave).unwrap().st_rdev;
        assert_eq!(fs::metadata("/dev/pts/0").unwrap().rdev(), slave);
        assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), slave);
        rustix::io::write(&terminal.master, b"typed\n").unwrap();
        let mut text = [0; 16];
        let length = rustix::io::read(&terminal.slave, &mut text).unwrap();
        assert_eq!(&text[..length], b"typed\n");
    });
    seen.unwrap();
    // A file of the image's at that place is no terminal.
    let mut bundle = Bundle::new();
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|one| one["type"] != "devpts");
    fs::create_dir(bundle.path("rootfs/dev/pts")).unwrap();
    fs::write(bundle.path("rootfs/dev/pts/ptmx"), "").unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|one| one["destination"] != "/dev");
    let way = Way { console: true, ..Way::default() };
    let text = bundle.enter_with(way, |_| ()).unwrap_err();
    assert!(text.contains("no devpts"), "{text}");
}

#[test]
fn what_is_bound_at_dev_stays_as_it_is_with_a_terminal_too() {
    let mut bundle = Bundle::new();
    let host = bundle.path("host");
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|one| !one["destination"].as_str().unwrap().starts_with("/dev"));
    fs::write(host.join("null"), "no device").unwrap();
    fs::create_dir(host.join("pts")).unwrap();
    bundle.add(bind(&host, "/dev", &["rbind"]));
    bundle.add(mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666"]));
    let way = Way { console: true, ..Way::default() };
    let seen = bundle.enter_with(way, |terminal| {
        assert!(terminal.is_some());
        // Masked by the host's null device, which is not the container's to change.
        for masked in ["/proc/keys", "/proc/interrupts"] {
            let found = fs::metadata(masked).unwrap();
            assert_eq!(found.rdev(), makedev(1, 3), "{masked}");
            let refused = fs::set_permissions(masked, found.permissions()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        }
    });
    seen.unwrap();
    let mut names: Vec<_> =
        fs::read_dir(host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "null", "pts"]);
}

#[test]
fn options_are_of_the_mount_and_of_all_below_it() {
    let mut bundle = Bundle::new();
    bundle.add(mount("/one", "tmpfs", &["ro", "nosuid", "mode=711", "noatime", "sync"]));
    bundle.add(mount("/one/below", "tmpfs", &["size=1m"]));
    bundle.add(bind(Path::new("/dev"), "/all", &["rbind", "rro", "rnosuid"]));
    bundle.add(bind(&bundle.path("host"), "/shared", &["bind", "shared", "nodev"]));
    bundle.add(bind(&bundle.path("host"), "/private", &["bind", "rprivate"]));
    fs::create_dir(bundle.path("rootfs/sticky")).unwrap();
    fs::set_permissions(bundle.path("rootfs/sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    bundle.add(mount("/sticky", "tmpfs", &[]));
    bundle.spec["root"]["readonly"] = json!(true);
    let seen = bundle.enter(|| {
        let one = mounted("/one");
        assert!(one[0].contains(" ro,nosuid,noatime ") && one[0].contains("sync"), "{one:?}");
        assert_eq!(fs::metadata("/one").unwrap().mode() & 0o7777, 0o711);
        assert!(fs::write("/one/below/file", "x").is_ok());
        for below in ["/all", "/all/pts"] {
            let line = &mounted(below)[0];
            assert!(line.contains(" ro,nosuid"), "{line}");
        }
        assert!(mounted("/shared")[0].contains("shared:"), "{:?}", mounted("/shared"));
        let private = &mounted("/private")[0];
        assert!(!private.contains("shared:") && !private.contains("master:"), "{private}");
        assert_eq!(fs::metadata("/sticky").unwrap().mode() & 0o7777, 0o1777);
        let refused = fs::write("/etc/new", "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        assert!(fs::write("/dev/new", "x").is_ok());
    });
    seen.unwrap();
}

#[test]
fn a_tmpfs_takes_over_what_was_at_its_place() {
    let mut bundle = Bundle::new();
    let place = bundle.path("rootfs/etc");
    fs::create_dir(place.join("deeper")).unwrap();
    fs::write(place.join("deeper/file"), "deep").unwrap();
    fs::set_permissions(place.join("deeper/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/host", place.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    bundle.add(mount("/etc", "tmpfs", &["tmpcopyup", "ro"]));
    let seen = bundle.enter(|| {
        assert_eq!(fs::read_to_string("/etc/deeper/file").unwrap(), "deep");
        assert_eq!(fs::metadata("/etc/deeper/file").unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_link("/etc/link").unwrap(), Path::new("/host"));
        assert!(fs::symlink_metadata("/etc/fifo").unwrap().file_type().is_fifo());
        assert!(mounted("/etc")[0].contains(" ro"), "{:?}", mounted("/etc"));
    });
    seen.unwrap();
}

#[test]
fn control_groups_are_shown_with_the_options_of_their_mount() {
    let mut bundle = Bundle::new();
    bundle.add(mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]));
    let way = Way { group: "/".into(), ..Way::default() };
    let seen = bundle.enter_with(way, |_| {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let groups: Vec<_> =
            table.lines().filter(|line| line.contains(" /sys/fs/cgroup")).collect();
        assert!(groups.len() > 1, "{table}");
        for line in groups {
            assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
            assert!(!line.contains("name="), "{line}");
        }
    });
    seen.unwrap();
}

#[test]
fn control_groups_of_version_2_are_one_mount() {
    let mut bundle = Bundle::new();
    bundle.add(mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]));
    let way = Way { group: "/".into(), unified: true, ..Way::default() };
    let seen = bundle.enter_with(way, |_| {
        let line = mounted("/sys/fs/cgroup").remove(0);
        assert!(line.contains(" ro,nosuid,nodev,noexec") && line.contains("cgroup2"), "{line}");
        assert!(Path::new("/sys/fs/cgroup/cgroup.procs").exists());
    });
    seen.unwrap();
}

#[test]
fn a_root_that_covers_the_hosts_shows_nothing_of_it() {
    let bundle = Bundle::new();
    let way = Way { no_pivot_root: true, ..Way::default() };
    let seen = bundle.enter_with(way, |_| {
        assert_eq!(fs::read_to_string("/etc/data").unwrap(), "data");
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        assert!(!Path::new("/host").exists());
        assert!(fs::OpenOptions::new().append(true).open("/proc/sys/kernel/core_pattern").is_err());
    });
    seen.unwrap();
}

#[test]
fn what_is_mounted_in_a_shared_root_stays_the_containers() {
    for kind in ["shared", "rslave", "private", "unbindable"] {
        let mut bundle = Bundle::new();
        bundle.spec["linux"]["rootfsPropagation"] = json!(kind);
        bundle.spec["linux"]["readonlyPaths"] = json!(["/etc"]);
        bundle.spec["linux"]["maskedPaths"] = json!(["/etc"]);
        let seen = bundle.enter(move || {
            let root = mounted("/").remove(0);
            assert_eq!(root.contains("shared:"), kind == "shared", "{root}");
            assert_eq!(root.contains("unbindable"), kind == "unbindable", "{root}");
            // Once, also what is protected and hidden in one place.
            assert_eq!(mounted("/etc").len(), 2, "{:?}", mounted("/etc"));
        });
        seen.unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = bundle.directory.path().to_str().unwrap();
        assert!(!table.contains(directory), "{kind}: {table}");
    }
}

#[test]
fn settings_are_written_in_the_containers_namespaces() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "network"}, {"type": "ipc"}]);
    bundle.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "4096"});
    let host = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let seen = bundle.enter(|| fs::read_to_string("/proc/sys/kernel/msgmax").unwrap());
    assert_eq!(seen.unwrap(), "4096\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), host);
}

/// Exchanges two names of the host in a thread until it is dropped.
struct Exchange(Arc<AtomicBool>, Option<JoinHandle<usize>>);

impl Exchange {
    fn of(one: PathBuf, other: PathBuf) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        let thread = std::thread::spawn(move || {
            let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            let mut count = 0;
            while !told.load(Ordering::Relaxed) {
                let done = rustix::fs::renameat_with(cwd, &one, cwd, &other, flags);
                count += usize::from(done.is_ok());
            }
            count
        });
        Self(done, Some(thread))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let count = self.1.take().unwrap().join().unwrap();
        assert!(count > 0 || std::thread::panicking(), "nothing was exchanged");
    }
}

/// Enters a root again and again while two of its names are exchanged, and looks each time.
fn meanwhile(bundle: &Bundle, one: &str, other: &str, look: impl Fn() + Sync) {
    let root = bundle.path("rootfs");
    let _exchange = Exchange::of(root.join(one), root.join(other));
    let entered = (0..300).filter(|_| bundle.enter(&look).is_ok()).count();
    assert!(entered > 0, "none was made");
}

#[test]
fn a_proc_that_is_exchanged_with_a_link_leaves_nothing_open() {
    for target in ["elsewhere", "../elsewhere"] {
        let bundle = Bundle::new();
        fs::create_dir(bundle.path("rootfs/elsewhere")).unwrap();
        symlink(target, bundle.path("rootfs/link")).unwrap();
        meanwhile(&bundle, "proc", "link", || {
            for name in ["/proc", "/link", "/elsewhere"] {
                let (pattern, keys) =
                    (format!("{name}/sys/kernel/core_pattern"), format!("{name}/keys"));
                assert!(fs::OpenOptions::new().append(true).open(&pattern).is_err(), "{pattern}");
                let keys = fs::metadata(keys);
                assert!(keys.is_err() || keys.unwrap().rdev() == makedev(1, 3), "{name}");
            }
        });
    }
}

#[test]
fn what_was_opened_elsewhere_as_procfs_is_looked_at() {
    // What opens it is seen by other containers, and one with CAP_SYS_PTRACE could have it send a
    // file system of its own: masks and settings would have gone there.
    let bundle = Bundle::new();
    let spec: Spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let refused = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let root = root_fs(&spec, bundle.directory.path(), false, Path::new("")).unwrap();
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FILES).unwrap();
            let flags = rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC;
            root.take_procfs(vec![rustix::mount::fsopen("tmpfs", flags).unwrap()]);
            root.enter(|| Ok(()), false).unwrap_err().message
        });
        thread.join().unwrap()
    });
    assert!(refused.contains("is no procfs"), "{refused}");
}
