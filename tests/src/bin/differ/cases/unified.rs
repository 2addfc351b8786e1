//! Control groups of version 2: limits in terms of version 1 and how they are converted, limits in
//! terms of version 2, and cases of other parts that depend on control groups.
//!
//! See config-linux.md, "Unified", and the kernel's cgroup-v2 document for the files.

use serde_json::json;

use super::{cgroup, mounts, namespaces, tree};
use crate::case::Variation;

pub(super) fn all() -> Vec<Variation> {
    [memory(), cpu(), others(), own_words(), elsewhere()].into_iter().flatten().collect()
}

fn memory() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v2: memory";
    vec![
        v(name, "a limit", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        })
        .shows("/outside/values/memory.max", "67108864")
        .exec(|_| ()),
        v(name, "a limit, a reservation and swap", |spec, _| {
            spec["linux"]["resources"]["memory"] =
                json!({"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728});
        })
        .shows("/outside/values/memory.low", "33554432")
        .shows("/outside/values/memory.swap.max", "67108864"),
        v(name, "swap below the limit", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 33_554_432});
        })
        .refused(),
        v(name, "swappiness", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"swappiness": 10});
        })
        .open(),
        v(name, "no killer", |spec, _| {
            spec["linux"]["resources"]["memory"] =
                json!({"limit": 67_108_864, "disableOOMKiller": true});
        })
        .open(),
        v(name, "unlimited", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": -1, "swap": -1});
        })
        .shows("/outside/values/memory.max", "max")
        .shows("/outside/values/memory.swap.max", "max"),
        v(name, "too little", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 4096});
        })
        .open(),
    ]
}

fn cpu() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v2: cpu";
    let mut cases = vec![
        v(name, "shares", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"shares": 512});
        })
        .shows("/outside/values/cpu.weight", "20"),
        v(name, "quota and period", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": 20000, "period": 50000});
        })
        .shows("/outside/values/cpu.max", "20000 50000"),
        v(name, "no quota", |spec, _| {
            spec["linux"]["resources"]["cpu"] = json!({"quota": -1, "period": 50000});
        })
        .shows("/outside/values/cpu.max", "max 50000"),
    ];
    cases.extend(cgroup::cpu_of_both_versions(name));
    cases
}

fn others() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v2: other";
    vec![
        v(name, "pids", |spec, _| spec["linux"]["resources"]["pids"] = json!({"limit": 77}))
            .shows("/outside/values/pids.max", "77"),
        v(name, "block weight", |spec, _| {
            spec["linux"]["resources"]["blockIO"] = json!({"weight": 300});
        })
        .open(),
        v(name, "block throttle", |spec, _| {
            spec["linux"]["resources"]["blockIO"] =
                json!({"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1_048_576}]});
        })
        .shows("/outside/values/io.max", "7:0 rbps=1048576 wbps=max riops=max wiops=max"),
        v(name, "huge pages", |spec, _| {
            spec["linux"]["resources"]["hugepageLimits"] =
                json!([{"pageSize": "2MB", "limit": 4_194_304}]);
        })
        .shows("/outside/values/hugetlb.2MB.max", "4194304"),
        v(name, "rdma", |spec, _| {
            spec["linux"]["resources"]["rdma"] = json!({"mlx5_1": {"hcaHandles": 3}});
        })
        .open(),
    ]
}

fn own_words() -> Vec<Variation> {
    let v = Variation::new;
    let name = "cgroup v2: unified";
    vec![
        v(name, "several files", |spec, _| {
            spec["linux"]["resources"]["unified"] = json!({
                "memory.high": "33554432", "memory.oom.group": "1", "cpu.weight": "77",
                "pids.max": "55",
            });
        })
        .shows("/outside/values/memory.high", "33554432")
        .shows("/outside/values/memory.oom.group", "1")
        .shows("/outside/values/cpu.weight", "77")
        .shows("/outside/values/pids.max", "55"),
        v(name, "against a limit", |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
            spec["linux"]["resources"]["unified"] = json!({"memory.max": "33554432"});
        })
        .open(),
        v(name, "a file that is not there", |spec, _| {
            spec["linux"]["resources"]["unified"] = json!({"memory.no-such": "1"});
        })
        .refused(),
        v(name, "a controller that is not there", |spec, _| {
            spec["linux"]["resources"]["unified"] = json!({"nobody.max": "1"});
        })
        .refused(),
        v(name, "a file elsewhere", |spec, _| {
            spec["linux"]["resources"]["unified"] = json!({"../memory.high": "33554432"});
        })
        .refused(),
    ]
}

/// What is tried on version 1 as well, under other names.
fn elsewhere() -> Vec<Variation> {
    let chosen: [(&str, Vec<Variation>, &[&str]); 4] = [
        ("cgroup v2: path", cgroup::all(), &["cgroup path: deep", "cgroup path: with dots"]),
        (
            "cgroup v2: devices",
            tree::all(),
            &[
                "devices: the usual",
                "devices: made by the cgroup's leave, not opened",
                "devices: all allowed",
                "devices: no rules",
                "devices: a usual one denied",
            ],
        ),
        (
            "cgroup v2: mounts",
            mounts::all(),
            &["mount kinds: cgroup, read-only", "mount kinds: cgroup in a cgroup namespace"],
        ),
        (
            "cgroup v2: namespaces",
            namespaces::all(),
            &["namespaces, new or the host's: a cgroup namespace"],
        ),
    ];
    chosen
        .into_iter()
        .flat_map(|(feature, of, names)| {
            of.into_iter()
                .filter(|one| names.contains(&&*format!("{}: {}", one.feature, one.name)))
                .map(move |one| Variation { feature, ..one })
        })
        .collect()
}
