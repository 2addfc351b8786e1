//! Images made by other tools: umoci builds them, skopeo copies them to archives.
//!
//! Built once per recipe and kept below the build directory, under a name made from the recipe's
//! own text and the busybox that goes in; a lock keeps two test programs from building at once.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{AT_FDCWD, Flock, FlockArg};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::{image, programs, run};

/// The plain application image: busybox, runs `/bin/sh` as root.
pub const APP: &str = "example.test/app:1";
/// The same layers with user, environment, working directory, entrypoint and command set.
pub const CONFIGURED: &str = "example.test/configured:1";

/// Images on disk.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
}

/// The images, built if this is the first to ask.
///
/// # Panics
///
/// When they cannot be built.
#[must_use]
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
        let recipe = concat!(include_str!("fixtures.rs"), include_str!("fixtures/upper.sh"));
        let key = image::hex(&[recipe.as_bytes(), &busybox].concat());
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures");
        fs::create_dir_all(&store).expect("make target/fixtures");
        let store = fs::canonicalize(store).expect("just made");
        let lock = File::create(store.join("lock")).expect("make the lock");
        let _held =
            Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, why)| why).expect("lock");
        let directory = store.join(&key[..16]);
        if !directory.exists() {
            let draft = store.join("draft");
            if draft.exists() {
                fs::remove_dir_all(&draft).expect("remove an abandoned draft");
            }
            build(&draft);
            fs::rename(&draft, &directory).expect("same directory");
        }
        Images { directory }
    })
}

impl Images {
    /// The OCI layout directory that umoci wrote, holding `app` and `configured`.
    #[must_use]
    pub fn layout(&self) -> PathBuf {
        self.directory.join("layout")
    }

    /// [`APP`] as an OCI archive by skopeo.
    #[must_use]
    pub fn app(&self) -> PathBuf {
        self.directory.join("app.oci.tar")
    }

    /// [`APP`] as `docker save` writes it, by skopeo.
    #[must_use]
    pub fn app_docker(&self) -> PathBuf {
        self.directory.join("app.docker.tar")
    }

    /// [`CONFIGURED`] as an OCI archive by skopeo.
    #[must_use]
    pub fn configured(&self) -> PathBuf {
        self.directory.join("configured.oci.tar")
    }

    /// What umoci unpacks [`APP`] to.
    #[must_use]
    pub fn unpacked(&self) -> PathBuf {
        self.directory.join("unpacked/rootfs")
    }
}

fn build(directory: &Path) {
    fs::create_dir_all(directory).expect("make the draft");
    let layout = directory.join("layout");
    let bundle = directory.join("bundle");
    let umoci = |arguments: &[&str]| {
        let _ = run(Command::new(programs::system("umoci")).args(arguments)).success();
    };
    let layout_text = layout.to_str().expect("a plain path");
    let app = format!("{layout_text}:app");
    let bundle_text = bundle.to_str().expect("a plain path");
    umoci(&["init", "--layout", layout_text]);
    umoci(&["new", "--image", &app]);
    for fill in [lower as fn(&Path), upper, top] {
        umoci(&["unpack", "--image", &app, bundle_text]);
        fill(&bundle.join("rootfs"));
        umoci(&["repack", "--image", &app, bundle_text]);
        fs::remove_dir_all(&bundle).expect("remove the bundle");
    }
    umoci(&[
        "config",
        "--image",
        &app,
        "--config.cmd",
        "/bin/sh",
        "--config.env",
        "PATH=/usr/local/bin:/usr/bin:/bin:/sbin",
    ]);
    umoci(&[
        "config",
        "--image",
        &app,
        "--tag",
        "configured",
        "--clear",
        "config.cmd",
        "--config.user",
        "app",
        "--config.env",
        "GREETING=hello from the image",
        "--config.workingdir",
        "/data/work",
        "--config.entrypoint",
        "/bin/entry",
        "--config.cmd",
        "one",
        "--config.cmd",
        "two words",
    ]);
    let unpacked = directory.join("unpacked");
    umoci(&["unpack", "--image", &app, unpacked.to_str().expect("a plain path")]);
    for (tag, target) in [
        ("app", format!("oci-archive:{}/app.oci.tar:{APP}", directory.display())),
        ("app", format!("docker-archive:{}/app.docker.tar:{APP}", directory.display())),
        (
            "configured",
            format!("oci-archive:{}/configured.oci.tar:{CONFIGURED}", directory.display()),
        ),
    ] {
        let _ = run(Command::new(programs::system("skopeo")).args([
            "--insecure-policy",
            "copy",
            &format!("oci:{layout_text}:{tag}"),
            &target,
        ]))
        .success();
    }
}

/// The base layer: busybox, accounts, and one of everything a tar header can say.
fn lower(root: &Path) {
    for (name, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("data/work", 0o2775),
        ("opaque/inner", 0o755),
        ("gone/deep/er", 0o755),
        ("kinds", 0o755),
        ("links", 0o755),
        ("home/app", 0o750),
        ("empty", 0o711),
    ] {
        dir(root, name, mode);
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let applets = run(Command::new("/bin/busybox").arg("--list")).success();
    for applet in applets.out().lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("a fresh name");
    }
    file(root, "bin/entry", 0o755, include_str!("fixtures/entry.sh"));
    file(root, "bin/not-executable", 0o644, "#!/bin/sh\nexit 0\n");
    file(
        root,
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235:An App:/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    );
    file(
        root,
        "etc/group",
        0o644,
        "root:x:0:\napp:x:1235:\nextra:x:2000:app,root\nmore:x:2001:nobody,app\nnogroup:x:65534:\n",
    );
    for name in ["a", "b", "c"] {
        file(root, &format!("data/{name}"), 0o640, &format!("lower {name}\n"));
    }
    file(root, "opaque/old", 0o644, "hidden\n");
    file(root, "opaque/inner/old", 0o644, "hidden\n");
    file(root, "gone/deep/er/file", 0o644, "goes\n");
    file(root, "becomes-dir", 0o644, "a file\n");
    file(root, "returns", 0o644, "first\n");
    // Hard links, within a directory and across.
    file(root, "links/one", 0o644, "shared\n");
    fs::hard_link(root.join("links/one"), root.join("links/two")).expect("same file system");
    fs::hard_link(root.join("links/one"), root.join("kinds/three")).expect("same file system");
    symlink("/etc/passwd", root.join("links/absolute")).expect("a fresh name");
    symlink("../../../../../../etc/shadow", root.join("links/upwards")).expect("a fresh name");
    symlink("nowhere", root.join("links/dangling")).expect("a fresh name");
    // Modes, owners, devices, attributes, names, times.
    file(root, "kinds/setuid", 0o4755, "#!/bin/sh\n");
    file(root, "kinds/setgid", 0o2755, "#!/bin/sh\n");
    file(root, "kinds/nothing", 0, "");
    node(root, "kinds/null", SFlag::S_IFCHR, 0o666, (1, 3));
    node(root, "kinds/loop", SFlag::S_IFBLK, 0o660, (7, 77));
    node(root, "kinds/pipe", SFlag::S_IFIFO, 0o600, (0, 0));
    file(root, "kinds/owned", 0o600, "mine\n");
    owner(root, "kinds/owned", 54321, 65533);
    owner(root, "data/work", 1234, 2000);
    fs::set_permissions(root.join("data/work"), PermissionsExt::from_mode(0o2775))
        .expect("own file");
    file(root, "kinds/capable", 0o755, "#!/bin/sh\n");
    // cap_net_bind_service=ep as a version 2 attribute, see capabilities(7).
    attribute(
        root,
        "kinds/capable",
        "security.capability",
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    );
    attribute(root, "kinds/owned", "user.comment", b"bytes \x00\xff\x0a in between");
    attribute(root, "data", "user.on-a-directory", b"yes");
    file(root, &format!("kinds/{}", "l".repeat(200)), 0o644, "a long name\n");
    let deep =
        (0..12).map(|n| format!("level-{n:02}-{}", "d".repeat(20))).collect::<Vec<_>>().join("/");
    dir(root, &deep, 0o755);
    file(root, &format!("{deep}/bottom"), 0o644, "deep\n");
    symlink("x".repeat(180), root.join("links/long")).expect("a fresh name");
    file(root, "kinds/größe 大 spaces\tand'quotes", 0o644, "named\n");
    let mut sparse = File::create(root.join("kinds/sparse")).expect("a fresh name");
    sparse.seek(SeekFrom::Start(3 << 20)).expect("seeks");
    sparse.write_all(b"end").expect("writes");
    time(root, "kinds/owned", 315_532_800, 0);
    time(root, "kinds/setuid", 1_234_567_890, 123_456_789);
    time(root, "links/dangling", 1_000_000_000, 0);
    time(root, "empty", 1_111_111_111, 0);
    time(root, "data/work", 1_222_222_222, 0);
}

/// The second layer, made with the image's own shell: whiteouts, replacements, an opaque directory.
fn upper(root: &Path) {
    let script = root.join("upper.sh");
    fs::write(&script, include_str!("fixtures/upper.sh")).expect("write the script");
    let _ = run(Command::new(programs::system("chroot")).arg(root).args([
        "/bin/sh",
        "-e",
        "/upper.sh",
    ]))
    .success();
    fs::remove_file(script).expect("just written");
    time(root, "opaque", 1_333_333_333, 0);
}

/// The third layer: something comes back under a name that the second removed.
fn top(root: &Path) {
    file(root, "returns", 0o600, "third\n");
    dir(root, "gone", 0o700);
    file(root, "gone/new", 0o644, "new\n");
    fs::remove_file(root.join("data/c")).expect("the layers below have it");
}

fn dir(root: &Path, name: &str, mode: u32) {
    let path = root.join(name);
    fs::create_dir_all(&path).expect("make a directory");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("own directory");
}

fn file(root: &Path, name: &str, mode: u32, content: &str) {
    let path = root.join(name);
    fs::write(&path, content).expect("write a file");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("own file");
}

fn node(root: &Path, name: &str, kind: SFlag, mode: u32, (major, minor): (u64, u64)) {
    let path = root.join(name);
    mknod(&path, kind, Mode::from_bits_truncate(mode), makedev(major, minor)).expect("mknod");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("own node");
}

fn owner(root: &Path, name: &str, user: u32, group: u32) {
    chown(root.join(name), Some(user), Some(group)).expect("chown");
}

fn attribute(root: &Path, name: &str, attribute: &str, value: &[u8]) {
    rustix::fs::lsetxattr(root.join(name), attribute, value, rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|why| panic!("set {attribute} on {name}: {why}"));
}

fn time(root: &Path, name: &str, seconds: i64, nanoseconds: i64) {
    let when = TimeSpec::new(seconds, nanoseconds);
    utimensat(AT_FDCWD, &root.join(name), &when, &when, UtimensatFlags::NoFollowSymlink)
        .expect("set a time");
}
