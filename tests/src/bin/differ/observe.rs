//! What is observed of one run, without what differs between two runs of the same spec.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::fixture::Holder;
use crate::host::Hierarchy;

/// How far a run came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Create failed, with this text.
    NotCreated(String),
    /// Start failed, with this text.
    NotStarted(String),
    /// It ran, and this was seen.
    Ran(Value),
    /// It could not be seen to its end.
    Lost(String),
}

/// The files of a control group that say what was asked for, on version 1 and then on version 2.
const FILES: &[&str] = &[
    "memory.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.swappiness",
    "memory.oom_control",
    "memory.use_hierarchy",
    "memory.kmem.tcp.limit_in_bytes",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.cfs_burst_us",
    "cpu.idle",
    "cpu.rt_runtime_us",
    "cpu.rt_period_us",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "blkio.weight",
    "blkio.bfq.weight",
    "blkio.leaf_weight",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
    "devices.list",
    "freezer.state",
    "net_cls.classid",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.min",
    "memory.swap.max",
    "memory.oom.group",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "io.weight",
    "io.bfq.weight",
    "io.max",
    "hugetlb.2MB.max",
    "rdma.max",
    "cgroup.controllers",
    "cgroup.freeze",
    "cgroup.type",
];

/// What the host knows of a created container: its cgroups, their values, its parentage.
pub(crate) fn from_outside(pid: i32, token: &str) -> Value {
    let mut values = Map::new();
    let mut places = Map::new();
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    for line in table.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        places.insert(controllers.to_owned(), json!(path));
        let mount = controllers.trim_start_matches("name=");
        // Beside those of version 1 this one has no controllers.
        let is_bare = mount.is_empty() && Hierarchy::of_host() == Hierarchy::V1;
        if is_bare || !path.contains(token) {
            continue;
        }
        let directory = Path::new("/sys/fs/cgroup").join(mount).join(path.trim_start_matches('/'));
        for file in FILES {
            let Ok(text) = fs::read_to_string(directory.join(file)) else { continue };
            let mut lines: Vec<_> = text.trim().lines().collect();
            if *file == "memory.oom_control" {
                lines.truncate(1);
            }
            if *file == "devices.list" {
                lines.sort_unstable();
            }
            values.insert((*file).to_owned(), json!(lines.join("; ")));
        }
    }
    json!({ "in": places, "values": values })
}

/// What hooks wrote, by stage. runc runs those of poststart while init runs those of
/// startContainer, so which comes first there says nothing.
pub(crate) fn hooks(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("hooks/log")).unwrap_or_default();
    let mut seen: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line)))
        .collect();
    seen.sort_by_key(|one| one["stage"] == "poststart");
    seen.sort_by_key(|one| one["stage"] == "poststop");
    json!(seen)
}

/// Puts names in the place of what differs from run to run.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pairs: Vec<(String, String)>,
}

impl Names {
    /// Of one run. Namespaces are those of the calling thread.
    pub(crate) fn new(id: &str, dir: &Path, bundle: &Path, holder: &Holder) -> Self {
        let mut pairs = vec![
            (bundle.display().to_string(), "<bundle>".to_owned()),
            (dir.display().to_string(), "<dir>".to_owned()),
            (id.to_owned(), "<id>".to_owned()),
        ];
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            let mut name = |path: PathBuf, what: &str| {
                if let Ok(target) = fs::read_link(path) {
                    let target = target.display().to_string();
                    if !pairs.iter().any(|(known, _)| *known == target) {
                        pairs.push((target, what.to_owned()));
                    }
                }
            };
            name(format!("/proc/thread-self/ns/{kind}").into(), "host");
            name(holder.path(kind).into(), "held");
        }
        Self { pairs }
    }

    /// What a line of JSON says, in common words.
    pub(crate) fn translate(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => json!(self.text(text)),
            Value::Array(list) => list.iter().map(|one| self.translate(one)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (self.text(key), self.translate(value)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.pairs {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to);
            }
        }
        // A namespace that is neither the host's nor held is the container's own.
        match text.split_once(":[") {
            Some((kind, rest)) if rest.ends_with(']') && !kind.contains(' ') => "own".to_owned(),
            _ => text,
        }
    }
}

/// The line that the probe wrote, if it came to that.
pub(crate) fn line(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    match text.lines().next() {
        None => Value::Null,
        Some(line) => serde_json::from_str(line).unwrap_or_else(|_| json!(text)),
    }
}
