//! A bundle as containerd lays it out: `config.json`, an empty `rootfs`, and the `log` fifo.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protos::ttrpc::api::{CreateTaskRequest, Mount};
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::protobuf::{Message, MessageField};
use protos::ttrpc::shim::oci::Options;
use serde_json::{Value, json};

use super::stream::Stream;

/// One container's bundle.
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// The bundle's directory, named after the id.
    pub path: PathBuf,
    /// Its log fifo, unread until asked.
    pub log: Option<Stream>,
    /// What is mounted on its `rootfs`.
    pub rootfs: Vec<Mount>,
    /// The runtime's options.
    pub options: Option<Options>,
    /// Its spec as it was written.
    pub spec: Value,
}

impl Bundle {
    /// Lays out `<parent>/<id>`.
    ///
    /// # Errors
    ///
    /// When a file cannot be made.
    pub fn make(parent: &Path, id: &str, spec: Value) -> io::Result<Self> {
        let path = parent.join(id);
        fs::create_dir_all(path.join("rootfs"))?;
        fs::write(path.join("config.json"), spec.to_string())?;
        let log = Stream::make(&path.join("log"))?;
        Ok(Self {
            id: id.to_owned(),
            path,
            log: Some(log),
            rootfs: Vec::new(),
            options: None,
            spec,
        })
    }

    /// Its options, packed.
    #[must_use]
    pub fn options_any(&self) -> Option<Any> {
        let options = self.options.as_ref()?;
        Some(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        })
    }

    /// The request that creates its task, without streams.
    #[must_use]
    pub fn create_request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path.display().to_string(),
            rootfs: self.rootfs.clone(),
            terminal: self.spec["process"]["terminal"].as_bool().unwrap_or(false),
            options: self.options_any().map_or_else(MessageField::none, MessageField::some),
            ..CreateTaskRequest::default()
        }
    }
}

/// A read-write overlay over `lower`, with its upper layer below `upper`.
///
/// # Errors
///
/// When the directories cannot be made.
pub fn overlay(lower: &Path, upper: &Path) -> io::Result<Mount> {
    let (above, work) = (upper.join("fs"), upper.join("work"));
    fs::create_dir_all(&above)?;
    fs::create_dir_all(&work)?;
    Ok(Mount {
        type_: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            "index=off".to_owned(),
            format!("workdir={}", work.display()),
            format!("upperdir={}", above.display()),
            format!("lowerdir={}", lower.display()),
        ],
        ..Mount::default()
    })
}

/// A root file system of nothing but busybox, to be shared read-only.
///
/// # Errors
///
/// When busybox is missing, or a file cannot be made.
pub fn busybox(at: &Path, busybox: &Path) -> io::Result<()> {
    for directory in ["bin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "mnt"] {
        fs::create_dir_all(at.join(directory))?;
    }
    fs::copy(busybox, at.join("bin/busybox"))?;
    for name in [
        "sh", "cat", "echo", "sleep", "true", "false", "ls", "stty", "head", "tail", "dd", "id",
        "env", "pwd", "stat", "readlink", "yes", "seq", "kill", "ps", "tr", "wc", "od", "test",
        "printf", "usleep", "awk", "grep", "touch", "date", "mkdir", "setsid", "nohup",
    ] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name))?;
    }
    fs::write(at.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(at.join("etc/group"), "root:x:0:\n")?;
    Ok(())
}

/// The arguments that run a shell script.
#[must_use]
pub fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// An OCI process as containerd makes it by default.
#[must_use]
pub fn process(args: &[String]) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
        "noNewPrivileges": true,
    })
}

/// The spec that containerd makes by default, with its control group at `cgroup`.
#[must_use]
pub fn spec(args: &[String], cgroup: &str) -> Value {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs" },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        "linux": {
            "resources": { "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm" },
                { "allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm" },
                { "allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm" },
                { "allow": true, "type": "c", "major": 136, "access": "rwm" },
            ] },
            "cgroupsPath": cgroup,
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "network" },
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi"],
            "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger"],
        },
    })
}
