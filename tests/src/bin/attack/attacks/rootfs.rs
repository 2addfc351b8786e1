//! Images and mounts that make the set-up of a root file system write elsewhere.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::attack::{Attack, on_both, on_youki, within};
use crate::fixture::{Fixture, picture, untouched};

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(
            120,
            on_both(
                "A.3",
                "links-in-the-image",
                "what is made before the root is the root follows no link to the host",
                links,
            ),
        ),
        on_both(
            "A.3",
            "targets-of-mounts",
            "what the daemon has mounted in the root is mounted in the root",
            targets,
        ),
        on_both(
            "A.4",
            "device-directory-of-the-host",
            "the host's directory at /dev stays as it is, and the container runs",
            bound_dev,
        ),
        on_both(
            "A.4",
            "device-bound-and-listed",
            "a device that is bound, or bound and listed, is there",
            bound_device,
        ),
        on_both(
            "A.7",
            "false-proc",
            "a root with a /proc of its own gets no writable control groups",
            false_proc,
        ),
        on_both(
            "A.7",
            "link-to-proc",
            "a volume at a link to /proc covers nothing of it",
            link_to_proc,
        ),
        on_both(
            "A.7",
            "mount-over-proc",
            "a mount over /proc that is not procfs is refused",
            over_proc,
        ),
        within(
            180,
            on_youki(
                "A.7",
                "proc-swapped",
                "a root that is changed during creates leaves nothing of /proc writable",
                swapped,
            ),
        ),
        on_both(
            "A.8",
            "directories-of-devices",
            "directories below /dev have mode 0755 under any umask",
            device_directories,
        ),
    ]
    .concat()
}

fn links(fixture: &Fixture) {
    let victim = fixture.victim();
    let before = picture(&victim);
    for (number, at) in ["dev", "dev/pts", "dev/shm", "run", "sys", "mnt", "etc/resolv.conf", "a/b"]
        .into_iter()
        .enumerate()
    {
        let lower = fixture.lower(&format!("lower{number}"));
        let path = lower.join(at);
        fs::create_dir_all(path.parent().expect("below the root")).expect("make a directory");
        // It may be absent; that is the same result.
        let _ = fs::remove_dir_all(&path);
        symlink(&victim, &path).expect("plant a link");
        // A link that leads nowhere inside is refused early; this one leads somewhere there, too.
        let twin = lower.join(victim.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(twin).expect("make a directory");
        let script = ": >/dev/made; mkdir /mnt/made /run/made /a/b/made; true";
        // As it is; without a file system of its own at /dev; with volumes and devices.
        for shape in 0..3 {
            let bundle = fixture.daemon.over(&lower, script, |spec| {
                let mounts = spec["mounts"].as_array_mut().expect("a list");
                if shape == 0 {
                    return;
                }
                if shape == 1 {
                    return mounts.retain(|mount| mount["destination"] != "/dev");
                }
                for destination in ["/mnt/below", "/etc/resolv.conf", "/a/b/c"] {
                    mounts.push(json!({ "destination": destination, "type": "bind",
                        "source": "/dev/null", "options": ["bind", "ro"] }));
                }
                spec["linux"]["devices"] = json!([{ "path": "/dev/made-node", "type": "c",
                    "major": 1, "minor": 3, "fileMode": 0o666 }]);
            });
            // Refused or run inside: both are right.
            let _ = fixture.outcome(&bundle);
            untouched(&victim, &before, &format!("an image with a link at /{at}"));
        }
    }
}

/// The daemon's own list of mounts, as containerd sends it with a Create.
fn targets(fixture: &Fixture) {
    let victim = fixture.victim();
    let before = picture(&victim);
    let lower = fixture.lower("lower-t");
    symlink(&victim, lower.join("way")).expect("plant a link");
    let mut bundle = fixture.daemon.over(&lower, "true", |_| {});
    let mut volume = bundle.rootfs[0].clone();
    volume.type_ = "tmpfs".to_owned();
    volume.source = "tmpfs".to_owned();
    volume.target = "way".to_owned();
    volume.options = vec![];
    bundle.rootfs.push(volume);
    let shim = fixture.daemon.start(&bundle);
    let task = shim.task(&bundle.id);
    let created = task.create(&bundle.create_request());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", shim.pid)).unwrap_or_default();
    let hit = mounts.lines().any(|line| line.contains(victim.to_str().expect("a plain path")));
    if created.is_ok() {
        let _ = task.kill("", 9);
        let _ = task.wait("");
    }
    let _ = task.delete("");
    fixture.daemon.leave(&shim, &task);
    assert!(!hit, "a file system was mounted on the host's directory");
    untouched(&victim, &before, "a mount's target");
}

/// A spec with the mounts at and below /dev exchanged for a bind.
fn dev_from(spec: &mut Value, source: &std::path::Path) {
    let mounts = spec["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
    mounts.push(json!({ "destination": "/dev", "type": "bind", "source": source,
        "options": ["rbind", "rprivate"] }));
}

fn bound_dev(fixture: &Fixture) {
    let victim = fixture.victim();
    let before = picture(&victim);
    let bundle = fixture.daemon.shaped("exit 3", |spec| dev_from(spec, &victim));
    // Its `null` is a file: to mask with it is refused, or nothing is masked with it.
    let _ = fixture.outcome(&bundle);
    untouched(&victim, &before, "a container with this directory at /dev");
    let whole = fixture.daemon.shaped("[ -c /dev/null ] && exit 3", |spec| {
        dev_from(spec, std::path::Path::new("/dev"));
    });
    let devices = |name: &str| {
        fs::symlink_metadata(format!("/dev/{name}")).ok().map(|about| {
            use std::os::unix::fs::MetadataExt;
            (about.ino(), about.mode(), about.rdev())
        })
    };
    let names = ["ptmx", "null", "fd", "stdin", "console", "core"];
    let before = names.map(devices);
    let outcome = fixture.outcome(&whole);
    assert_eq!(names.map(devices), before, "the host's /dev was changed");
    assert_eq!(outcome, Ok(3), "with the host's /dev at /dev");
}

fn bound_device(fixture: &Fixture) {
    let null = json!({ "destination": "/dev/null", "type": "bind", "source": "/dev/null",
        "options": ["bind"] });
    let made = json!({ "destination": "/dev/made", "type": "bind", "source": "/dev/zero",
        "options": ["bind"] });
    let listed = json!([{ "path": "/dev/made", "type": "c", "major": 1, "minor": 5,
        "fileMode": 0o666 }]);
    for (what, mounts, devices) in [
        ("/dev/null is bound on /dev/null", vec![null], json!([])),
        ("/dev/made is bound and listed", vec![made], listed),
    ] {
        let bundle = fixture.daemon.shaped("echo x >/dev/null && exit 3", |spec| {
            spec["mounts"].as_array_mut().expect("a list").extend(mounts.clone());
            spec["linux"]["devices"] = devices.clone();
        });
        assert_eq!(fixture.outcome(&bundle), Ok(3), "{what}");
    }
}

/// Ends with 7 where anything of the host's control groups or kernel can be written.
const WRITES: &str = "\
for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /elsewhere/sysrq-trigger; do
  [ $(busybox stat -f -c %T $file 2>/dev/null)x = procx ] || continue
  (: >>$file) 2>/dev/null && echo $file && exit 7
done
for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
  [ -e $tree/cgroup.procs ] && busybox mkdir $tree/attack 2>/dev/null || continue
  busybox rmdir $tree/attack; echo $tree; exit 7
done
exit 0";

/// Asserts that a container was refused, or found nothing to write to.
#[track_caller]
fn harmless(fixture: &Fixture, bundle: &harness::shim::Bundle, with: &str) {
    let (outcome, said) = fixture.said(bundle);
    assert!(outcome != Ok(7), "with {with} it could write to {}", said.trim());
}

fn false_proc(fixture: &Fixture) {
    let lower = fixture.lower("lower-p");
    fs::create_dir_all(lower.join("proc/self")).expect("make a directory");
    for file in ["mountinfo", "cgroup", "status", "mounts"] {
        fs::write(lower.join("proc/self").join(file), "").expect("write a file");
    }
    for hidden in [false, true] {
        let bundle = fixture.daemon.over(&lower, WRITES, |spec| {
            let mounts = spec["mounts"].as_array_mut().expect("a list");
            mounts.retain(|mount| mount["destination"] != "/proc");
            mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup",
                "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }));
            if hidden {
                spec["linux"]["maskedPaths"] = json!([]);
                spec["linux"]["readonlyPaths"] = json!([]);
            }
        });
        harmless(fixture, &bundle, "a /proc/self/mountinfo of the image's own");
    }
}

fn link_to_proc(fixture: &Fixture) {
    let lower = fixture.lower("lower-l");
    symlink("/proc", lower.join("data")).expect("plant a link");
    symlink("/proc/sys", lower.join("data2")).expect("plant a link");
    let volume = fixture.root().dir("volume");
    for at in ["/data", "/data2", "/data/sys"] {
        let script =
            format!("[ -e /proc/self/status ] || {{ echo nothing of /proc; exit 7; }}\n{WRITES}");
        let bundle = fixture.daemon.over(&lower, &script, |spec| {
            spec["mounts"].as_array_mut().expect("a list").push(json!({ "destination": at,
                "type": "bind", "source": volume, "options": ["rbind", "rw"] }));
        });
        harmless(fixture, &bundle, &format!("a volume at {at}"));
    }
}

fn over_proc(fixture: &Fixture) {
    let volume = fixture.root().dir("volume");
    for at in ["/proc", "/proc/sys", "/proc/self", "/proc/self/attr"] {
        let bundle = fixture.daemon.shaped("exit 3", |spec| {
            spec["mounts"].as_array_mut().expect("a list").push(json!({ "destination": at,
                "type": "bind", "source": volume, "options": ["rbind", "rw"] }));
        });
        assert!(fixture.outcome(&bundle) != Ok(3), "a directory of the host was mounted at {at}");
    }
}

/// A second container of the same root file system may do this; here the host does, all the faster.
fn swapped(fixture: &Fixture) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let shared = fixture.lower("swapped");
    fs::create_dir(shared.join("elsewhere")).expect("make a directory");
    symlink("elsewhere", shared.join("link")).expect("plant a link");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (proc, link) = (shared.join("proc"), shared.join("link"));
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                // A mount point cannot be exchanged: that is what is hoped for, in between.
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &proc,
                    rustix::fs::CWD,
                    &link,
                    flags,
                );
            }
        });
        let fault = (0..60).find_map(|_| {
            let mut bundle = fixture.daemon.shaped(WRITES, |_| {});
            bundle.rootfs[0] = protos::ttrpc::api::Mount {
                type_: "bind".to_owned(),
                source: shared.display().to_string(),
                options: vec!["rbind".to_owned(), "rw".to_owned()],
                ..Default::default()
            };
            let (outcome, said) = fixture.said(&bundle);
            (outcome == Ok(7)).then_some(said)
        });
        stop.store(true, Ordering::Relaxed);
        assert!(fault.is_none(), "it could write to {}", fault.unwrap_or_default().trim());
    });
}

fn device_directories(fixture: &Fixture) {
    let script = "busybox stat -c %a /dev/cpu /dev/cpu/0 /dev/bus";
    // Of this process alone; the shim inherits it.
    let _ = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let bundle = fixture.daemon.shaped(script, |spec| {
        let device = |path: &str| json!({ "path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o600 });
        spec["linux"]["devices"] = json!([device("/dev/cpu/0/microcode"), device("/dev/bus/one")]);
    });
    let (outcome, said) = fixture.said(&bundle);
    assert_eq!(outcome, Ok(0));
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["755"; 3],
        "modes of /dev/cpu, /dev/cpu/0, /dev/bus"
    );
}
