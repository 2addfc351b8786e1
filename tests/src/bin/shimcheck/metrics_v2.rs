//! The statistics of control groups of version 2, compared with what other programs say.

use anyhow::{Result, ensure};
use protos::ttrpc::cgroups_v2::metrics::Metrics;
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::protobuf::well_known_types::any::Any;
use serde_json::Value;

/// What of memory.stat the message has room for, as the kernel names it.
pub(crate) fn memory_counts(metrics: &Metrics) -> [(&'static str, u64); 22] {
    let memory = &metrics.memory;
    [
        ("anon", memory.anon),
        ("file", memory.file),
        ("kernel_stack", memory.kernel_stack),
        ("slab", memory.slab),
        ("sock", memory.sock),
        ("shmem", memory.shmem),
        ("file_mapped", memory.file_mapped),
        ("file_dirty", memory.file_dirty),
        ("file_writeback", memory.file_writeback),
        ("anon_thp", memory.anon_thp),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
        ("slab_reclaimable", memory.slab_reclaimable),
        ("slab_unreclaimable", memory.slab_unreclaimable),
        ("pgfault", memory.pgfault),
        ("pgmajfault", memory.pgmajfault),
        ("pgactivate", memory.pgactivate),
        ("thp_fault_alloc", memory.thp_fault_alloc),
        ("thp_collapse_alloc", memory.thp_collapse_alloc),
    ]
}

/// Pages that the kernel moves about meanwhile.
pub(crate) fn near(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= 256 << 10
}

/// Compares Stats with the data of runc's `events --stats`, which were taken while the container
/// was paused.
pub(crate) fn same_as_runc(any: &Any, data: &Value) -> Result<()> {
    let metrics = Metrics::parse_from_bytes(&any.value)?;
    let at = |path: &str| data.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let (cpu, memory) = (&metrics.cpu, &metrics.memory);
    for (what, ours) in [
        ("/pids/current", metrics.pids.current),
        ("/pids/limit", metrics.pids.limit),
        ("/cpu/usage/total", cpu.usage_usec * 1000),
        ("/cpu/usage/kernel", cpu.system_usec * 1000),
        ("/cpu/usage/user", cpu.user_usec * 1000),
        ("/cpu/throttling/periods", cpu.nr_periods),
        ("/cpu/throttling/throttledPeriods", cpu.nr_throttled),
        ("/cpu/throttling/throttledTime", cpu.throttled_usec * 1000),
        ("/memory/usage/limit", memory.usage_limit),
    ] {
        ensure!(ours == at(what), "{what}: Stats {ours}, runc {}", at(what));
    }
    ensure!(
        near(memory.usage, at("/memory/usage/usage")),
        "memory usage: Stats {}, runc {}",
        memory.usage,
        at("/memory/usage/usage")
    );
    for (key, ours) in memory_counts(&metrics) {
        let theirs = at(&format!("/memory/raw/{key}"));
        ensure!(near(ours, theirs), "memory {key}: Stats {ours}, runc {theirs}");
    }
    let sizes = data["hugetlb"].as_object().map_or(0, serde_json::Map::len);
    ensure!(metrics.hugetlb.len() == sizes, "hugetlb: {} and {sizes} sizes", metrics.hugetlb.len());
    let written = |op: &str| -> u64 {
        let entries = data["blkio"]["ioServiceBytesRecursive"].as_array();
        let entries = entries.into_iter().flatten().filter(|entry| entry["op"] == op);
        entries.filter_map(|entry| entry["value"].as_u64()).sum()
    };
    let ours = metrics.io.usage.iter().map(|entry| entry.rbytes).sum::<u64>();
    ensure!(ours == written("Read"), "bytes read: Stats {ours}, runc {}", written("Read"));
    let ours = metrics.io.usage.iter().map(|entry| entry.wbytes).sum::<u64>();
    ensure!(ours == written("Write"), "bytes written: Stats {ours}, runc {}", written("Write"));
    Ok(())
}
