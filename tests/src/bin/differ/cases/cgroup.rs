//! Control groups: where, and with which limits (version 1; [`super::unified`] has the other).

use serde_json::{Value, json};

use crate::case::Variation;

pub(super) fn all() -> Vec<Variation> {
    [memory(), cpu(), others()].into_iter().flatten().collect()
}

fn memory() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v1: memory";
    vec![
        v(name, "a limit", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        })
        .shows("/outside/values/memory.limit_in_bytes", "67108864")
        .exec(|_| ()),
        v(name, "a limit and a reservation", |spec, _| {
            spec["linux"]["resources"]["memory"] =
                json!({"limit": 67_108_864, "reservation": 33_554_432});
        })
        .shows("/outside/values/memory.soft_limit_in_bytes", "33554432"),
        v(name, "with swap", |spec, _| {
            spec["linux"]["resources"]["memory"] =
                json!({"limit": 67_108_864, "swap": 134_217_728});
        })
        .open(),
        v(name, "swap below the limit", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 33_554_432});
        })
        .refused(),
        v(name, "swappiness", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"swappiness": 10});
        })
        .shows("/outside/values/memory.swappiness", "10"),
        v(name, "too much swappiness", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"swappiness": 1000});
        })
        .refused(),
        v(name, "no killer", |spec, _| {
            spec["linux"]["resources"]["memory"] =
                json!({"limit": 67_108_864, "disableOOMKiller": true});
        })
        .shows("/outside/values/memory.oom_control", "oom_kill_disable 1"),
        v(name, "for sockets", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"kernelTCP": 33_554_432});
        })
        .open(),
        v(name, "for the kernel", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"kernel": 33_554_432});
        })
        .open(),
        v(name, "unlimited", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": -1, "swap": -1});
        }),
        v(name, "zero", |spec, _| spec["linux"]["resources"]["memory"] = json!({"limit": 0})),
        v(name, "too little", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 4096});
        })
        .open(),
        v(name, "no number", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": "64m"});
        })
        .refused(),
    ]
}

fn cpu() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v1: cpu";
    let mut cases = vec![
        v(name, "shares", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"shares": 512});
        })
        .shows("/outside/values/cpu.shares", "512"),
        v(name, "hardly any shares", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"shares": 1});
        })
        .open(),
        v(name, "quota and period", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": 20000, "period": 50000});
        })
        .shows("/outside/values/cpu.cfs_quota_us", "20000")
        .shows("/outside/values/cpu.cfs_period_us", "50000"),
        v(name, "a quota alone", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": 30000});
        })
        .shows("/outside/values/cpu.cfs_quota_us", "30000"),
        v(name, "no quota", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": -1, "period": 100_000});
        })
        .shows("/outside/values/cpu.cfs_quota_us", "-1"),
    ];
    cases.extend(cpu_of_both_versions(name));
    cases
}

/// Limits that read alike in both versions of control groups.
pub(super) fn cpu_of_both_versions(name: &'static str) -> Vec<Variation> {
    let v = Variation::new;
    vec![
        v(name, "a period too short", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": 1000, "period": 10});
        })
        .refused(),
        v(name, "a burst", |spec, _| {
            spec["linux"]["resources"]["cpu"] =
                json!({"quota": 20000, "period": 50000, "burst": 10000});
        })
        .open(),
        v(name, "idle", |spec, _| spec["linux"]["resources"]["cpu"] = json!({"idle": 1})).open(),
        v(name, "one processor", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"});
        })
        .shows("/outside/values/cpuset.cpus", "0")
        .shows("/cpus", "0")
        .exec(|_| ()),
        v(name, "a processor that is not there", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"cpus": "4000"});
        })
        .refused(),
        v(name, "realtime", |spec, _| {
            spec["linux"]["resources"]["cpu"] =
                json!({"realtimeRuntime": 1000, "realtimePeriod": 1_000_000});
        })
        .open(),
    ]
}

fn others() -> Vec<Variation> {
    let v = Variation::new;
    let (name, path) = ("cgroup v1: other", "cgroup path");
    vec![
        v(name, "pids", |spec, _| spec["linux"]["resources"]["pids"] = json!({"limit": 77}))
            .shows("/outside/values/pids.max", "77")
            .exec(|_| ()),
        v(name, "any number of pids", |spec, _| {
            spec["linux"]["resources"]["pids"] = json!({"limit": -1});
        })
        .shows("/outside/values/pids.max", "max"),
        v(name, "no pids", |spec, _| spec["linux"]["resources"]["pids"] = json!({"limit": 0}))
            .open(),
        v(name, "block weight", |spec, _| {
            spec["linux"]["resources"]["blockIO"] = json!({"weight": 300});
        })
        .open(),
        v(name, "block throttle", |spec, _| {
            spec["linux"]["resources"]["blockIO"] =
                json!({"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1_048_576}]});
        })
        .open(),
        v(name, "huge pages of an unknown size", |spec, _| {
            spec["linux"]["resources"]["hugepageLimits"] =
                json!([{"pageSize": "3MB", "limit": 3_145_728}]);
        })
        .open(),
        v(name, "a network class", |spec, _| {
            spec["linux"]["resources"]["network"] = json!({"classID": 1_048_577});
        })
        .open(),
        v(name, "keys of version 2", |spec, _| {
            spec["linux"]["resources"]["unified"] = json!({"memory.high": "33554432"});
        })
        .refused(),
        v(name, "rdma", |spec, _| {
            spec["linux"]["resources"]["rdma"] = json!({"mlx5_1": {"hcaHandles": 3}});
        })
        .open(),
        v(name, "no resources", |spec, _| spec["linux"]["resources"] = Value::Null).alone(),
        v("intel rdt", "where the kernel has none", |spec, _| {
            spec["linux"]["intelRdt"] = json!({"closID": "x", "l3CacheSchema": "L3:0=f"});
        })
        .refused(),
        v(path, "deep", |spec, at| {
            spec["linux"]["cgroupsPath"] = json!(format!("/{}/a/b/{}", at.token, at.id));
        })
        .alone(),
        v(path, "with dots", |spec, at| {
            spec["linux"]["cgroupsPath"] = json!(format!("/{}/x/../{}", at.token, at.id));
        })
        .open(),
    ]
}
