//! Namespaces: new, joined, left out; user namespaces with mappings; sysctls, which live in them.

use serde_json::{Value, json};

use super::{namespace, push, without};
use crate::case::Variation;

pub(super) fn all() -> Vec<Variation> {
    [made(), joined(), user(), sysctls()].into_iter().flatten().collect()
}

fn made() -> Vec<Variation> {
    let v = Variation::new;
    let name = "namespaces, new or the host's";
    vec![
        v(name, "the usual", |_, _| ())
            .shows("/ns/pid", "own")
            .shows("/ns/net", "own")
            .shows("/ns/ipc", "own")
            .shows("/ns/uts", "own")
            .shows("/ns/mnt", "own")
            .shows("/ns/cgroup", "host")
            .shows("/ns/user", "host")
            .shows("/first", true)
            .shows("/net/loopback", true)
            .exec(|_| ()),
        v(name, "the host's network", |spec, _| without(spec, "network"))
            .shows("/ns/net", "host")
            .exec(|_| ()),
        v(name, "the host's pids", |spec, _| without(spec, "pid"))
            .shows("/ns/pid", "host")
            .alone(),
        v(name, "the host's pids, with an exec", |spec, _| without(spec, "pid"))
            .shows("/ns/pid", "host")
            .exec(|_| ())
            .alone(),
        v(name, "the host's ipc", |spec, _| without(spec, "ipc")).shows("/ns/ipc", "host"),
        v(name, "the host's names", |spec, _| {
            without(spec, "uts");
            spec["hostname"] = Value::Null;
        })
        .shows("/ns/uts", "host")
        .alone(),
        v(name, "the host's names and one of its own", |spec, _| without(spec, "uts")).refused(),
        v(name, "a cgroup namespace", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "cgroup"}));
        })
        .shows("/ns/cgroup", "own")
        .exec(|_| ()),
        v(name, "a time namespace", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "time"}));
            spec["linux"]["timeOffsets"] = json!({
                "monotonic": {"secs": 86400, "nanosecs": 0}, "boottime": {"secs": 1000, "nanosecs": 5},
            });
        })
        .shows("/ns/time", "own")
        .shows("/time", "monotonic 86400 0 boottime 1000 5")
        .exec(|_| ())
        .alone(),
        v(name, "a time namespace without offsets", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "time"}));
        })
        .shows("/ns/time", "own")
        .alone(),
        v(name, "offsets without a time namespace", |spec, _| {
            spec["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1, "nanosecs": 0}});
        })
        .open(),
        v(name, "one twice", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "ipc"}));
        })
        .refused(),
        v(name, "an unknown kind", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "nope"}));
        })
        .refused(),
        v(name, "all at once", |spec, _| {
            for kind in ["cgroup", "user"] {
                push(&mut spec["linux"]["namespaces"], json!({"type": kind}));
            }
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            spec["linux"]["uidMappings"] = map.clone();
            spec["linux"]["gidMappings"] = map;
        })
        .shows("/ns/user", "own")
        .shows("/ns/cgroup", "own")
        .exec(|_| ())
        .alone(),
    ]
}

fn join(spec: &mut Value, kind: &str, path: String) {
    match namespace(spec, kind) {
        Some(known) => known["path"] = json!(path),
        None => push(&mut spec["linux"]["namespaces"], json!({"type": kind, "path": path})),
    }
}

fn joined() -> Vec<Variation> {
    let v = Variation::new;
    let name = "namespaces, joined";
    vec![
        v(name, "network", |spec, at| join(spec, "network", at.holder.path("net")))
            .shows("/ns/net", "held")
            .exec(|_| ()),
        v(name, "ipc", |spec, at| join(spec, "ipc", at.holder.path("ipc")))
            .shows("/ns/ipc", "held"),
        v(name, "names", |spec, at| {
            join(spec, "uts", at.holder.path("uts"));
            spec["hostname"] = Value::Null;
        })
        .shows("/ns/uts", "held")
        .alone(),
        v(name, "pids", |spec, at| join(spec, "pid", at.holder.path("pid")))
            .shows("/ns/pid", "held")
            .exec(|_| ())
            .alone(),
        v(name, "cgroups", |spec, at| join(spec, "cgroup", at.holder.path("cgroup")))
            .shows("/ns/cgroup", "held")
            .alone(),
        v(name, "time", |spec, at| join(spec, "time", at.holder.path("time")))
            .shows("/ns/time", "held")
            .alone(),
        v(name, "users", |spec, at| join(spec, "user", at.holder.path("user"))).open(),
        v(name, "as a pod's containers", |spec, at| {
            join(spec, "network", at.holder.path("net"));
            join(spec, "ipc", at.holder.path("ipc"));
            join(spec, "uts", at.holder.path("uts"));
            spec["hostname"] = Value::Null;
        })
        .shows("/ns/net", "held")
        .shows("/ns/ipc", "held")
        .shows("/ns/uts", "held")
        .exec(|_| ())
        .alone(),
        v(name, "a path that is not there", |spec, at| {
            join(spec, "network", at.dir.join("nothing").display().to_string());
        })
        .refused(),
        v(name, "a namespace of another kind", |spec, at| {
            join(spec, "network", at.holder.path("ipc"));
        })
        .refused(),
        v(name, "a file that is no namespace", |spec, at| {
            join(spec, "network", at.dir.join("source/file").display().to_string());
        })
        .refused(),
    ]
}

fn map(spec: &mut Value, uids: &Value, gids: &Value) {
    push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
    spec["linux"]["uidMappings"] = uids.clone();
    spec["linux"]["gidMappings"] = gids.clone();
}

fn user() -> Vec<Variation> {
    let v = Variation::new;
    let name = "user namespace";
    vec![
        v(name, "65536 ids", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            map(spec, &ids, &ids);
        })
        .shows("/ns/user", "own")
        .shows("/maps/uid", "0 100000 65536")
        .shows("/ids/uid", 0)
        .shows("/maps/setgroups", "allow")
        .exec(|_| ()),
        v(name, "of two ranges", |spec, _| {
            let ids = json!([
                {"containerID": 0, "hostID": 100_000, "size": 1000},
                {"containerID": 1000, "hostID": 300_000, "size": 10},
            ]);
            map(spec, &ids, &ids);
        })
        .shows("/maps/gid", "0 100000 1000 1000 300000 10")
        .exec(|_| ()),
        v(name, "for a user in it", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            map(spec, &ids, &ids);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
        })
        .shows("/ids/uid", 1000)
        .exec(|_| ())
        .alone(),
        v(name, "uids and gids apart", |spec, _| {
            map(
                spec,
                &json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]),
                &json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]),
            );
        })
        .shows("/maps/uid", "0 100000 65536")
        .shows("/maps/gid", "0 200000 65536"),
        v(name, "the host's ids", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            map(spec, &ids, &ids);
        })
        .shows("/maps/uid", "0 0 65536"),
        v(name, "with a profile and no_new_privs off", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            map(spec, &ids, &ids);
            spec["process"]["noNewPrivileges"] = json!(false);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            });
        })
        .shows("/tries/mkdir", "EPERM")
        .exec(|_| ())
        .alone(),
        v(name, "a user that is not mapped", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
            map(spec, &ids, &ids);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .refused(),
        v(name, "a sysctl in it", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            map(spec, &ids, &ids);
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        })
        .shows("/sysctl/net~1ipv4~1ip_forward", "1")
        .alone(),
        v(name, "without mappings", |spec, _| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
        })
        .refused(),
        v(name, "mappings without the namespace", |spec, _| {
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            spec["linux"]["uidMappings"] = ids.clone();
            spec["linux"]["gidMappings"] = ids;
        })
        .refused(),
        v(name, "mappings that overlap", |spec, _| {
            let ids = json!([
                {"containerID": 0, "hostID": 100_000, "size": 1000},
                {"containerID": 500, "hostID": 300_000, "size": 1000},
            ]);
            map(spec, &ids, &ids);
        })
        .refused(),
    ]
}

fn sysctls() -> Vec<Variation> {
    let v = Variation::new;
    let name = "sysctl";
    vec![
        v(name, "of the network", |spec, _| {
            spec["linux"]["sysctl"] =
                json!({"net.ipv4.ip_forward": "1", "net.core.somaxconn": "77"});
        })
        .shows("/sysctl/net~1ipv4~1ip_forward", "1")
        .shows("/sysctl/net~1core~1somaxconn", "77"),
        v(name, "with slashes", |spec, _| {
            spec["linux"]["sysctl"] = json!({"net/ipv4/ip_forward": "1"});
        })
        .open(),
        v(name, "as containerd's CRI sets them", |spec, _| {
            spec["linux"]["sysctl"] = json!({
                "net.ipv4.ping_group_range": "0 2147483647",
                "net.ipv4.ip_unprivileged_port_start": "0",
            });
        })
        .shows("/sysctl/net~1ipv4~1ping_group_range", "0 2147483647"),
        v(name, "of ipc", |spec, _| {
            spec["linux"]["sysctl"] = json!({
                "kernel.msgmax": "4096", "kernel.shmmax": "1048576",
                "kernel.sem": "100 200 300 40", "fs.mqueue.msg_max": "20",
            });
        })
        .shows("/sysctl/kernel~1msgmax", "4096")
        .shows("/sysctl/kernel~1sem", "100 200 300 40")
        .shows("/sysctl/fs~1mqueue~1msg_max", "20"),
        v(name, "the domain name", |spec, _| {
            spec["linux"]["sysctl"] = json!({"kernel.domainname": "sys.test"});
        })
        .shows("/sysctl/kernel~1domainname", "sys.test"),
        v(name, "the host name, which the spec has a key for", |spec, _| {
            spec["linux"]["sysctl"] = json!({"kernel.hostname": "sys"});
        })
        .open(),
        v(name, "none", |spec, _| spec["linux"]["sysctl"] = json!({})),
        v(name, "of the host", |spec, _| {
            spec["linux"]["sysctl"] = {
                let now = std::fs::read_to_string("/proc/sys/vm/swappiness").unwrap_or_default();
                json!({"vm.swappiness": now.trim()})
            };
        })
        .refused(),
        v(name, "of the network, which is the host's", |spec, _| {
            without(spec, "network");
            // The value that it has already, so that a runtime that sets it changes nothing.
            let now = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
            spec["linux"]["sysctl"] = json!({"net.core.somaxconn": now.trim()});
        })
        .refused(),
        v(name, "of ipc, which is the host's", |spec, _| {
            without(spec, "ipc");
            let now = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap_or_default();
            spec["linux"]["sysctl"] = json!({"kernel.msgmax": now.trim()});
        })
        .refused(),
        v(name, "out of its directory", |spec, _| {
            spec["linux"]["sysctl"] = json!({"net./../kernel/msgmax": "8192"});
        })
        .refused(),
        v(name, "unknown", |spec, _| {
            spec["linux"]["sysctl"] = json!({"net.ipv4.no_such_thing": "1"});
        })
        .refused(),
        v(name, "a value that the kernel refuses", |spec, _| {
            spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "many"});
        })
        .refused(),
    ]
}
