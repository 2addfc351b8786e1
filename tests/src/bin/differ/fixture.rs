//! What all runs share: the root file system with the probe in it, and namespaces to be joined.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::shim::{Events, bundle, until};
use harness::{Root, programs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A corner of the machine.
pub(crate) struct Fixture {
    /// Namespaces to join.
    pub(crate) holder: Holder,
    /// Receives the shims' events.
    pub(crate) events: Events,
    /// Shared by every container, below its own layer.
    pub(crate) rootfs: PathBuf,
    /// A mount that is shared.
    pub(crate) shared: PathBuf,
    /// This program.
    pub(crate) program: PathBuf,
    /// Owns everything, and so goes last.
    pub(crate) root: Root,
}

impl Fixture {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let root = Root::new();
        // The specs are a stock client's, with a cgroup for the namespace.
        root.tolerate_namespace_cgroup();
        // A container's root in a user namespace must be able to get to its files.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711))?;
        let rootfs = root.path().join("rootfs");
        bundle::busybox(&rootfs, &programs::system("busybox")).context("make a root of busybox")?;
        let program = std::env::current_exe()?;
        fill(&rootfs, &program)?;
        let shared = root.dir("shared");
        let nothing = None::<&str>;
        mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        mount(nothing, &shared, nothing, MsFlags::MS_SHARED, nothing)?;
        fs::write(shared.join("file"), "shared\n")?;
        let events = Events::serve(&root.path().join("e.ttrpc")).context("serve events")?;
        let holder = Holder::new(&root)?;
        Ok(Self { holder, events, rootfs, shared, program, root })
    }

    /// Removes the cgroups that other runtimes left of what they refused. What ours left stays, to
    /// be found.
    pub(crate) fn forget_theirs(&self) {
        // A shim that failed may still be in there; then it is found.
        let _ = umount2(&self.shared, MntFlags::empty());
        let token = self.root.namespace();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let all = hierarchies.map(|hierarchy| hierarchy.path());
        for hierarchy in all.chain(["/sys/fs/cgroup".into()]) {
            remove_empty(&hierarchy.join(token), &format!("{token}-y"));
        }
    }
}

fn remove_empty(directory: &Path, but: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(but);
        if !is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), but);
            // Those that are in use have a reason to stay.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// What the variations find in the root file system.
fn fill(rootfs: &Path, program: &Path) -> Result<()> {
    fs::copy(program, rootfs.join("bin/probe")).context("copy the probe")?;
    for folder in ["data/below", "opt", "closed", "mnt/inner", "home/user", "hooks"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    fs::write(rootfs.join("data/file"), "data\n")?;
    fs::write(rootfs.join("mnt/file"), "below\n")?;
    fs::write(rootfs.join("etc/script"), "#!/bin/sh\nexit 0\n")?;
    fs::write(rootfs.join("bin/text"), "exit 4\n")?;
    fs::set_permissions(rootfs.join("bin/text"), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(rootfs.join("closed"), fs::Permissions::from_mode(0o700))?;
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    std::os::unix::fs::symlink("/mnt/inner", rootfs.join("link"))?;
    std::os::unix::fs::symlink("../../../../../etc", rootfs.join("way-out"))?;
    let users = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    fs::write(rootfs.join("etc/passwd"), users)?;
    Ok(())
}

/// A process that holds a namespace of each kind, and one that holds a user namespace.
pub(crate) struct Holder {
    all: Child,
    user: Child,
}

impl Holder {
    fn new(root: &Root) -> Result<Self> {
        let unshare = |flags: &[&str]| -> Result<Child> {
            root.command(programs::system("unshare"))
                .args(flags)
                .args(["sleep", "3600"])
                .stdin(Stdio::null())
                .spawn()
                .context("hold namespaces")
        };
        let all = unshare(&["--net", "--ipc", "--uts", "--cgroup", "--time", "--pid", "--fork"])?;
        let user = unshare(&["--user", "--map-root-user"])?;
        let this = Self { all, user };
        let own = fs::read_link("/proc/self/ns/pid")?;
        let ready = || {
            let other = fs::read_link(this.path("pid_for_children")).ok()?;
            let mapped = fs::read_to_string(format!("/proc/{}/uid_map", this.user.id())).ok()?;
            (other != own && mapped.split_whitespace().nth(2) == Some("1")).then_some(())
        };
        until(Duration::from_secs(10), ready).context("the holder has no namespaces")?;
        let _ = Command::new(programs::system("nsenter"))
            .args(["-u", "-t", &this.all.id().to_string(), "hostname", "held"])
            .status();
        Ok(this)
    }

    /// Where to join one.
    pub(crate) fn path(&self, kind: &str) -> String {
        let holder = if kind == "user" { &self.user } else { &self.all };
        let kind = match kind {
            "pid" | "time" => format!("{kind}_for_children"),
            other => other.to_owned(),
        };
        format!("/proc/{}/ns/{kind}", holder.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        for child in [&mut self.all, &mut self.user] {
            let below = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
            for pid in below.unwrap_or_default().split_whitespace() {
                if let Ok(pid) = pid.parse() {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
