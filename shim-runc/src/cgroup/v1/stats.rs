//! Reads the statistics of cgroup v1.
//!
//! Controllers that the container has no group of are left out, as containerd does it.

use std::fs;
use std::path::Path;

use shim_sdk::messages::cgroups_v1::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

use super::Groups;
use crate::cgroup::{Keyed, huge_page_sizes, rdma_entries, read_number};

/// Nanoseconds in one of the ticks that cpuacct.stat counts: USER_HZ is 100 on every platform
/// that runs containers.
const TICK_NANOS: u64 = 10_000_000;

impl Groups {
    /// Everything that the kernel counts for the container.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics {
            hugetlb: self.controller("hugetlb").map(hugetlb).unwrap_or_default(),
            pids: self.controller("pids").map(pids).into(),
            cpu: self.cpu().into(),
            memory: self.controller("memory").and_then(memory).into(),
            blkio: self.controller("blkio").map(blkio).into(),
            rdma: self.controller("rdma").map(rdma).into(),
            memory_oom_control: self.controller("memory").and_then(oom_control).into(),
            ..Metrics::default()
        }
    }

    fn cpu(&self) -> Option<CPUStat> {
        let usage = self.controller("cpuacct").map(|group| {
            let split = Keyed::read(&group.join("cpuacct.stat")).unwrap_or(Keyed(String::new()));
            CPUUsage {
                total: read_number(&group.join("cpuacct.usage")).unwrap_or_default(),
                kernel: split.count("system") * TICK_NANOS,
                user: split.count("user") * TICK_NANOS,
                per_cpu: fs::read_to_string(group.join("cpuacct.usage_percpu"))
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|count| count.parse().ok())
                    .collect(),
                ..CPUUsage::default()
            }
        });
        let throttling = self.controller("cpu").and_then(|group| {
            let stat = Keyed::read(&group.join("cpu.stat"))?;
            Some(Throttle {
                periods: stat.count("nr_periods"),
                throttled_periods: stat.count("nr_throttled"),
                throttled_time: stat.count("throttled_time"),
                ..Throttle::default()
            })
        });
        (usage.is_some() || throttling.is_some()).then_some(CPUStat {
            usage: usage.into(),
            throttling: throttling.into(),
            ..CPUStat::default()
        })
    }
}

fn hugetlb(group: &Path) -> Vec<HugetlbStat> {
    huge_page_sizes(group, ".usage_in_bytes")
        .into_iter()
        .map(|pagesize| {
            let read = |what: &str| {
                read_number(&group.join(format!("hugetlb.{pagesize}.{what}"))).unwrap_or_default()
            };
            HugetlbStat {
                usage: read("usage_in_bytes"),
                max: read("max_usage_in_bytes"),
                failcnt: read("failcnt"),
                pagesize,
                ..HugetlbStat::default()
            }
        })
        .collect()
}

fn pids(group: &Path) -> PidsStat {
    PidsStat {
        current: read_number(&group.join("pids.current")).unwrap_or_default(),
        // No limit is 0 on v1; containerd's clients know it so.
        limit: read_number(&group.join("pids.max")).filter(|limit| *limit != u64::MAX).unwrap_or(0),
        ..PidsStat::default()
    }
}

fn memory(group: &Path) -> Option<MemoryStat> {
    let stat = Keyed::read(&group.join("memory.stat"))?;
    let count = |key| stat.count(key);
    let entry = |module: &str| {
        let read = |what: &str| read_number(&group.join(format!("memory.{module}{what}")));
        Some(MemoryEntry {
            limit: read("limit_in_bytes")?,
            usage: read("usage_in_bytes").unwrap_or_default(),
            max: read("max_usage_in_bytes").unwrap_or_default(),
            failcnt: read("failcnt").unwrap_or_default(),
            ..MemoryEntry::default()
        })
    };
    Some(MemoryStat {
        cache: count("cache"),
        rss: count("rss"),
        rss_huge: count("rss_huge"),
        mapped_file: count("mapped_file"),
        dirty: count("dirty"),
        writeback: count("writeback"),
        pg_pg_in: count("pgpgin"),
        pg_pg_out: count("pgpgout"),
        pg_fault: count("pgfault"),
        pg_maj_fault: count("pgmajfault"),
        inactive_anon: count("inactive_anon"),
        active_anon: count("active_anon"),
        inactive_file: count("inactive_file"),
        active_file: count("active_file"),
        unevictable: count("unevictable"),
        hierarchical_memory_limit: count("hierarchical_memory_limit"),
        hierarchical_swap_limit: count("hierarchical_memsw_limit"),
        total_cache: count("total_cache"),
        total_rss: count("total_rss"),
        total_rss_huge: count("total_rss_huge"),
        total_mapped_file: count("total_mapped_file"),
        total_dirty: count("total_dirty"),
        total_writeback: count("total_writeback"),
        total_pg_pg_in: count("total_pgpgin"),
        total_pg_pg_out: count("total_pgpgout"),
        total_pg_fault: count("total_pgfault"),
        total_pg_maj_fault: count("total_pgmajfault"),
        total_inactive_anon: count("total_inactive_anon"),
        total_active_anon: count("total_active_anon"),
        total_inactive_file: count("total_inactive_file"),
        total_active_file: count("total_active_file"),
        total_unevictable: count("total_unevictable"),
        usage: entry("").into(),
        swap: entry("memsw.").into(),
        kernel: entry("kmem.").into(),
        kernel_tcp: entry("kmem.tcp.").into(),
        ..MemoryStat::default()
    })
}

fn oom_control(group: &Path) -> Option<MemoryOomControl> {
    let control = Keyed::read(&group.join("memory.oom_control"))?;
    Some(MemoryOomControl {
        oom_kill_disable: control.count("oom_kill_disable"),
        under_oom: control.count("under_oom"),
        oom_kill: control.count("oom_kill"),
        ..MemoryOomControl::default()
    })
}

fn blkio(group: &Path) -> BlkIOStat {
    // Each count has a file of the scheduler that keeps it: BFQ, CFQ before 5.0, or else the
    // throttling layer, which sees all requests but counts less.
    let first = |files: &[&str]| {
        files
            .iter()
            .map(|file| blkio_entries(&group.join(file)))
            .find(|e| !e.is_empty())
            .unwrap_or_default()
    };
    BlkIOStat {
        io_service_bytes_recursive: first(&[
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ]),
        io_serviced_recursive: first(&[
            "blkio.bfq.io_serviced_recursive",
            "blkio.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ]),
        io_queued_recursive: first(&["blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"]),
        io_service_time_recursive: first(&[
            "blkio.bfq.io_service_time_recursive",
            "blkio.io_service_time_recursive",
        ]),
        io_wait_time_recursive: first(&[
            "blkio.bfq.io_wait_time_recursive",
            "blkio.io_wait_time_recursive",
        ]),
        io_merged_recursive: first(&["blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"]),
        io_time_recursive: first(&["blkio.bfq.time_recursive", "blkio.time_recursive"]),
        sectors_recursive: first(&["blkio.bfq.sectors_recursive", "blkio.sectors_recursive"]),
        ..BlkIOStat::default()
    }
}

/// Lines are `MAJOR:MINOR [OPERATION] VALUE`; the total over all devices has no device.
fn blkio_entries(path: &Path) -> Vec<BlkIOEntry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let second = words.next()?;
            let (op, value) = match words.next() {
                Some(value) => (second, value),
                None => ("", second),
            };
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            Some(BlkIOEntry {
                op: op.to_owned(),
                device: device_name(major, minor),
                major,
                minor,
                value: value.parse().ok()?,
                ..BlkIOEntry::default()
            })
        })
        .collect()
}

fn device_name(major: u64, minor: u64) -> String {
    fs::read_link(format!("/sys/dev/block/{major}:{minor}"))
        .ok()
        .and_then(|link| Some(format!("/dev/{}", link.file_name()?.to_str()?)))
        .unwrap_or_default()
}

fn rdma(group: &Path) -> RdmaStat {
    let entries = |file: &str| {
        rdma_entries(&group.join(file))
            .into_iter()
            .map(|(device, hca_handles, hca_objects)| RdmaEntry {
                device,
                hca_handles,
                hca_objects,
                ..RdmaEntry::default()
            })
            .collect()
    };
    RdmaStat { current: entries("rdma.current"), limit: entries("rdma.max"), ..RdmaStat::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(controllers: &[&str], files: &[(&str, &str)]) -> (tempfile::TempDir, Groups) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let mut groups = Groups::default();
        groups.insert(controllers, folder.path().to_owned());
        (folder, groups)
    }

    #[test]
    fn controllers_without_a_group_are_left_out() {
        let (_folder, groups) =
            groups(&["pids"], &[("pids.current", "3\n"), ("pids.max", "max\n")]);
        let metrics = groups.metrics();
        let pids = PidsStat { current: 3, limit: 0, ..PidsStat::default() };
        assert_eq!(metrics.pids.0, Some(Box::new(pids)));
        assert_eq!((metrics.cpu.0, metrics.memory.0, metrics.blkio.0), (None, None, None));
    }

    #[test]
    fn cpu_ticks_become_nanoseconds() {
        let (_folder, groups) = groups(
            &["cpu", "cpuacct"],
            &[
                ("cpuacct.usage", "1234\n"),
                ("cpuacct.stat", "user 2\nsystem 3\n"),
                ("cpuacct.usage_percpu", "1000 234 \n"),
                ("cpu.stat", "nr_periods 7\nnr_throttled 2\nthrottled_time 99\n"),
            ],
        );
        let cpu = groups.metrics().cpu.unwrap();
        let usage = cpu.usage.unwrap();
        assert_eq!((usage.total, usage.user, usage.kernel), (1234, 20_000_000, 30_000_000));
        assert_eq!(usage.per_cpu, [1000, 234]);
        assert_eq!(cpu.throttling.unwrap().throttled_time, 99);
    }

    #[test]
    fn memory_usage_and_swap_are_told_apart() {
        let (_folder, groups) = groups(
            &["memory"],
            &[
                ("memory.stat", "cache 1\ntotal_cache 2\nhierarchical_memsw_limit 9\n"),
                ("memory.limit_in_bytes", "100\n"),
                ("memory.usage_in_bytes", "50\n"),
                ("memory.max_usage_in_bytes", "60\n"),
                ("memory.failcnt", "1\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
            ],
        );
        let metrics = groups.metrics();
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.cache, memory.total_cache, memory.hierarchical_swap_limit), (1, 2, 9));
        let usage =
            MemoryEntry { limit: 100, usage: 50, max: 60, failcnt: 1, ..MemoryEntry::default() };
        assert_eq!(memory.usage.0, Some(Box::new(usage)));
        assert_eq!(memory.swap.0, None);
        assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 4);
        assert_eq!(groups.oom_kills(), Some(4));
    }

    #[test]
    fn block_devices_are_counted_by_operation_and_the_grand_total_is_dropped() {
        let (_folder, groups) = groups(
            &["blkio"],
            &[("blkio.throttle.io_serviced", "8:0 Read 5\n8:0 Write 6\nTotal 11\n")],
        );
        let entries = groups.metrics().blkio.unwrap().io_serviced_recursive;
        let seen: Vec<_> = entries.iter().map(|e| (e.op.as_str(), e.major, e.value)).collect();
        assert_eq!(seen, [("Read", 8, 5), ("Write", 8, 6)]);
    }
}
