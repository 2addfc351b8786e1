//! Builds roots in threads that have a mount namespace, a root and descriptors of their own.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

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

    /// Enters the root and looks at it from inside.
    fn enter<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Result<T, String> {
        self.enter_with(false, |_| look())
    }

    fn enter_with<T: Send>(
        &self,
        console: bool,
        look: impl FnOnce(Option<Terminal>) -> T + Send,
    ) -> Result<T, String> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
                let root = RootFs::of(&spec, self.directory.path(), false, Path::new("/none"))
                    .map_err(|failure| failure.message)?;
                let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FILES;
                unshare(own | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC).unwrap();
                let before = free();
                let terminal = root.enter(|| Ok(()), console);
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
