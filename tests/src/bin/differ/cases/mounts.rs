//! Mounts: kinds, options, propagation, and the places they are mounted on.

use serde_json::{Value, json};

use super::{mounted, push};
use crate::case::{Setting, Variation};

fn bind(spec: &mut Value, at: &Setting<'_>, options: &[&str]) {
    let source = at.dir.join("source");
    push(
        &mut spec["mounts"],
        json!({"destination": "/mnt", "type": "bind", "source": source, "options": options}),
    );
}

/// A bind of what the host shares.
fn peer(spec: &mut Value, at: &Setting<'_>, options: &[&str]) {
    bind(spec, at, options);
    mounted(spec, "/mnt")["source"] = json!(at.shared);
}

fn tmpfs(spec: &mut Value, options: &[&str]) {
    push(
        &mut spec["mounts"],
        json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options}),
    );
}

pub(super) fn all() -> Vec<Variation> {
    [tmpfs_options(), bind_options(), propagation(), kinds(), places()]
        .into_iter()
        .flatten()
        .collect()
}

fn tmpfs_options() -> Vec<Variation> {
    let v = Variation::new;
    let name = "mount options";
    vec![
        v(name, "none", |spec, _| tmpfs(spec, &[])).shows("/mounts/~1mnt/0/kind", "tmpfs"),
        v(name, "nosuid, nodev, noexec", |spec, _| tmpfs(spec, &["nosuid", "nodev", "noexec"]))
            .shows("/mounts/~1mnt/0/options", "nodev,noexec,nosuid,relatime,rw"),
        v(name, "ro", |spec, _| tmpfs(spec, &["ro"])).shows("/paths/~1mnt/writable", "EROFS"),
        v(name, "size and mode", |spec, _| tmpfs(spec, &["size=1m", "mode=1700", "nr_inodes=50"]))
            .shows("/paths/~1mnt/mode", "1700"),
        v(name, "uid and gid", |spec, _| tmpfs(spec, &["uid=1000", "gid=1001"]))
            .shows("/paths/~1mnt/owner", "1000:1001"),
        v(name, "noatime, nodiratime", |spec, _| tmpfs(spec, &["noatime", "nodiratime"]))
            .shows("/mounts/~1mnt/0/options", "noatime,nodiratime,rw"),
        v(name, "strictatime", |spec, _| tmpfs(spec, &["strictatime"]))
            .shows("/mounts/~1mnt/0/options", "rw"),
        v(name, "relatime", |spec, _| tmpfs(spec, &["relatime"]))
            .shows("/mounts/~1mnt/0/options", "relatime,rw"),
        v(name, "sync, dirsync", |spec, _| tmpfs(spec, &["sync", "dirsync"])),
        v(name, "undone by the last", |spec, _| tmpfs(spec, &["ro", "noexec", "rw", "exec"]))
            .shows("/mounts/~1mnt/0/options", "relatime,rw"),
        v(name, "defaults", |spec, _| tmpfs(spec, &["defaults"])),
        v(name, "nosymfollow", |spec, _| tmpfs(spec, &["nosymfollow"])).open(),
        v(name, "tmpcopyup, of runc", |spec, _| tmpfs(spec, &["tmpcopyup"])).open(),
        v(name, "an unknown one", |spec, _| tmpfs(spec, &["no-such-option"])).refused(),
        v(name, "a size that is none", |spec, _| tmpfs(spec, &["size=much"])).refused(),
        v(name, "quoted", |spec, _| tmpfs(spec, &["mode=755", ""])).open(),
    ]
}

fn bind_options() -> Vec<Variation> {
    let v = Variation::new;
    let name = "bind mounts";
    vec![
        v(name, "bind", |spec, at| bind(spec, at, &["bind"]))
            .shows("/mounts/~1mnt/0/root", json!(null))
            .open(),
        v(name, "rbind", |spec, at| bind(spec, at, &["rbind"]))
            .shows("/paths/~1mnt~1file/content", "bytes"),
        v(name, "ro", |spec, at| bind(spec, at, &["rbind", "ro"]))
            .shows("/paths/~1mnt/writable", "EROFS"),
        v(name, "nosuid, nodev, noexec, ro", |spec, at| {
            bind(spec, at, &["bind", "nosuid", "nodev", "noexec", "ro"]);
        })
        .shows("/paths/~1mnt/writable", "EROFS"),
        v(name, "noatime", |spec, at| bind(spec, at, &["rbind", "noatime"])),
        v(name, "by its options alone", |spec, at| {
            bind(spec, at, &["rbind"]);
            mounted(spec, "/mnt")["type"] = Value::Null;
        })
        .shows("/paths/~1mnt~1file/content", "bytes"),
        v(name, "of type none", |spec, at| {
            bind(spec, at, &["rbind", "ro"]);
            mounted(spec, "/mnt")["type"] = json!("none");
        })
        .shows("/paths/~1mnt/writable", "EROFS"),
        v(name, "by its type alone", |spec, at| bind(spec, at, &["ro"])).open(),
        v(name, "of one file", |spec, at| {
            let source = at.dir.join("source/file");
            push(
                &mut spec["mounts"],
                json!({"destination": "/etc/passwd", "type": "bind",
                "source": source, "options": ["bind", "ro"]}),
            );
        })
        .shows("/paths/~1etc~1passwd/writable", "EROFS"),
        v(name, "of one file to a new place", |spec, at| {
            let source = at.dir.join("source/file");
            push(
                &mut spec["mounts"],
                json!({"destination": "/new/deep/file", "type": "bind",
                "source": source, "options": ["bind"]}),
            );
        }),
        v(name, "ro for all below (rro)", |spec, at| bind(spec, at, &["rbind", "rro"]))
            .shows("/paths/~1mnt/writable", "EROFS"),
        v(name, "rnosuid, rnoexec", |spec, at| bind(spec, at, &["rbind", "rnosuid", "rnoexec"]))
            .open(),
        v(name, "of what is not there", |spec, at| {
            bind(spec, at, &["bind"]);
            mounted(spec, "/mnt")["source"] = json!(at.dir.join("nothing"));
        })
        .refused(),
        v(name, "of a directory on a file", |spec, at| {
            bind(spec, at, &["bind"]);
            mounted(spec, "/mnt")["destination"] = json!("/etc/passwd");
        })
        .refused(),
        v(name, "with a file system's options", |spec, at| bind(spec, at, &["bind", "size=1m"]))
            .open(),
        v(name, "idmapped by option", |spec, at| bind(spec, at, &["bind", "idmap"])).open(),
        v(name, "idmapped by mappings", |spec, at| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
            spec["linux"]["uidMappings"] = ids.clone();
            spec["linux"]["gidMappings"] = ids.clone();
            bind(spec, at, &["bind"]);
            let mount = mounted(spec, "/mnt");
            mount["uidMappings"] = ids.clone();
            mount["gidMappings"] = ids;
        })
        .shows("/paths/~1mnt/owner", "0:0")
        .alone(),
    ]
}

fn propagation() -> Vec<Variation> {
    let v = Variation::new;
    let name = "mount propagation";
    vec![
        v(name, "none asked for", |spec, at| peer(spec, at, &["rbind"])),
        v(name, "rshared, below a shared root", |spec, at| {
            peer(spec, at, &["rbind", "rshared"]);
            spec["linux"]["rootfsPropagation"] = json!("rshared");
        })
        .alone(),
        v(name, "rslave, below a slave root", |spec, at| {
            peer(spec, at, &["rbind", "rslave"]);
            spec["linux"]["rootfsPropagation"] = json!("rslave");
        })
        .shows("/mounts/~1mnt/0/peers", "master")
        .alone(),
        v(name, "rprivate, below a shared root", |spec, at| {
            peer(spec, at, &["rbind", "rprivate"]);
            spec["linux"]["rootfsPropagation"] = json!("rshared");
        })
        .shows("/mounts/~1mnt/0/peers", "")
        .alone(),
        v(name, "private", |spec, at| peer(spec, at, &["bind", "private"]))
            .shows("/mounts/~1mnt/0/peers", ""),
        v(name, "rprivate", |spec, at| peer(spec, at, &["rbind", "rprivate"]))
            .shows("/mounts/~1mnt/0/peers", ""),
        v(name, "shared", |spec, at| peer(spec, at, &["bind", "shared"]))
            .shows("/mounts/~1mnt/0/peers", "shared master"),
        v(name, "rshared", |spec, at| peer(spec, at, &["rbind", "rshared"])),
        v(name, "slave", |spec, at| peer(spec, at, &["bind", "slave"])),
        v(name, "rslave", |spec, at| peer(spec, at, &["rbind", "rslave"]))
            .shows("/mounts/~1mnt/0/peers", "master"),
        v(name, "unbindable", |spec, at| peer(spec, at, &["bind", "unbindable"]))
            .shows("/mounts/~1mnt/0/peers", "unbindable"),
        v(name, "runbindable", |spec, at| peer(spec, at, &["rbind", "runbindable"]))
            .shows("/mounts/~1mnt/0/peers", "unbindable"),
        v(name, "shared tmpfs", |spec, _| tmpfs(spec, &["shared"]))
            .shows("/mounts/~1mnt/0/peers", "shared"),
        v(name, "shared and ro", |spec, at| peer(spec, at, &["rbind", "ro", "rshared"]))
            .shows("/paths/~1mnt/writable", "EROFS"),
    ]
}

fn kinds() -> Vec<Variation> {
    let v = Variation::new;
    let name = "mount kinds";
    vec![
        v(name, "proc with hidepid", |spec, _| {
            mounted(spec, "/proc")["options"] = json!(["nosuid", "hidepid=2"]);
        }),
        v(name, "proc with subset", |spec, _| {
            mounted(spec, "/proc")["options"] = json!(["nosuid", "subset=pid"]);
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
        })
        .open(),
        v(name, "sysfs for writing", |spec, _| {
            mounted(spec, "/sys")["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }),
        v(name, "ramfs", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/mnt", "type": "ramfs", "source": "ramfs"}),
            );
        })
        .shows("/mounts/~1mnt/0/kind", "ramfs"),
        v(name, "overlay", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/mnt", "type": "overlay",
                "source": "overlay", "options": ["lowerdir=/etc:/usr"]}),
            );
        })
        .shows("/mounts/~1mnt/0/kind", "overlay"),
        v(name, "cgroup, read-only", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
            );
        })
        .shows("/paths/~1sys~1fs~1cgroup/content", "entries"),
        v(name, "cgroup, for writing", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]}),
            );
        }),
        v(name, "cgroup in a cgroup namespace", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "cgroup"}));
            push(
                &mut spec["mounts"],
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
            );
        })
        .shows("/paths/~1sys~1fs~1cgroup/content", "entries")
        .alone(),
        v(name, "no mounts but proc", |spec, _| {
            spec["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        })
        .alone(),
        v(name, "no mounts", |spec, _| {
            spec["mounts"] = json!([]);
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
        })
        .open(),
        v(name, "an unknown kind", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/mnt", "type": "nope", "source": "nope"}),
            );
        })
        .refused(),
        v(name, "neither type nor options", |spec, _| {
            push(&mut spec["mounts"], json!({"destination": "/mnt", "source": "tmpfs"}));
        })
        .open(),
        v(name, "tmpfs without a source", |spec, _| {
            push(&mut spec["mounts"], json!({"destination": "/mnt", "type": "tmpfs"}));
        })
        .shows("/mounts/~1mnt/0/kind", "tmpfs"),
    ]
}

fn places() -> Vec<Variation> {
    let v = Variation::new;
    let name = "mount points";
    vec![
        v(name, "made if missing", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/new/deep", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .shows("/mounts/~1new~1deep/0/kind", "tmpfs"),
        v(name, "relative", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "mnt", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .open(),
        v(name, "through a link", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/link", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .shows("/mounts/~1mnt~1inner/0/kind", "tmpfs"),
        v(name, "through a link that leads out", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/way-out", "type": "tmpfs",
                "source": "tmpfs", "options": ["ro"]}),
            );
        })
        .shows("/mounts/~1etc/0/kind", "tmpfs")
        .alone(),
        v(name, "with dots that lead out", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/../../mnt", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .open(),
        v(name, "one twice", |spec, at| {
            tmpfs(spec, &[]);
            bind(spec, at, &["rbind"]);
        })
        .shows("/mounts/~1mnt/1/options", "relatime,rw")
        .open(),
        v(name, "one in another", |spec, at| {
            tmpfs(spec, &["mode=755"]);
            let source = at.dir.join("source");
            push(
                &mut spec["mounts"],
                json!({"destination": "/mnt/inner", "type": "bind",
                "source": source, "options": ["rbind", "ro"]}),
            );
        })
        .shows("/paths/~1mnt~1inner/writable", "EROFS"),
        v(name, "below a directory mounted for writing", |spec, at| {
            bind(spec, at, &["rbind"]);
            push(
                &mut spec["mounts"],
                json!({"destination": "/mnt/made", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .shows("/mounts/~1mnt~1made/0/kind", "tmpfs"),
        v(name, "none given", |spec, _| {
            push(&mut spec["mounts"], json!({"type": "tmpfs", "source": "tmpfs"}));
        })
        .refused(),
        v(name, "in proc", |spec, _| {
            push(
                &mut spec["mounts"],
                json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
            );
        })
        .open(),
    ]
}
