//! Reads the statistics of cgroup v2.

use std::fs;
use std::path::Path;

use shim_sdk::messages::cgroups_v2::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

use super::Group;
use crate::cgroup::{Keyed, huge_page_sizes, parse_number, rdma_entries, read_number};

impl Group {
    /// Everything that the kernel counts for the container.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics {
            pids: self.pids().into(),
            cpu: self.cpu().into(),
            memory: self.memory().into(),
            rdma: self.rdma().into(),
            io: self.io().into(),
            hugetlb: self.hugetlb(),
            memory_events: self.events().into(),
            ..Metrics::default()
        }
    }

    fn number(&self, file: &str) -> u64 {
        read_number(&self.file(file)).unwrap_or_default()
    }

    fn pids(&self) -> Option<PidsStat> {
        Some(PidsStat {
            current: read_number(&self.file("pids.current"))?,
            limit: self.number("pids.max"),
            ..PidsStat::default()
        })
    }

    fn cpu(&self) -> Option<CPUStat> {
        let stat = Keyed::read(&self.file("cpu.stat"))?;
        Some(CPUStat {
            usage_usec: stat.count("usage_usec"),
            user_usec: stat.count("user_usec"),
            system_usec: stat.count("system_usec"),
            nr_periods: stat.count("nr_periods"),
            nr_throttled: stat.count("nr_throttled"),
            throttled_usec: stat.count("throttled_usec"),
            psi: pressure(&self.file("cpu.pressure")).into(),
            nr_bursts: stat.count("nr_bursts"),
            burst_usec: stat.count("burst_usec"),
            ..CPUStat::default()
        })
    }

    fn memory(&self) -> Option<MemoryStat> {
        let stat = Keyed::read(&self.file("memory.stat"))?;
        let count = |key| stat.count(key);
        Some(MemoryStat {
            anon: count("anon"),
            file: count("file"),
            kernel_stack: count("kernel_stack"),
            slab: count("slab"),
            sock: count("sock"),
            shmem: count("shmem"),
            file_mapped: count("file_mapped"),
            file_dirty: count("file_dirty"),
            file_writeback: count("file_writeback"),
            anon_thp: count("anon_thp"),
            inactive_anon: count("inactive_anon"),
            active_anon: count("active_anon"),
            inactive_file: count("inactive_file"),
            active_file: count("active_file"),
            unevictable: count("unevictable"),
            slab_reclaimable: count("slab_reclaimable"),
            slab_unreclaimable: count("slab_unreclaimable"),
            pgfault: count("pgfault"),
            pgmajfault: count("pgmajfault"),
            // Split in two by 5.9; the old sum is what clients know.
            workingset_refault: count("workingset_refault")
                + count("workingset_refault_anon")
                + count("workingset_refault_file"),
            workingset_activate: count("workingset_activate")
                + count("workingset_activate_anon")
                + count("workingset_activate_file"),
            workingset_nodereclaim: count("workingset_nodereclaim"),
            pgrefill: count("pgrefill"),
            pgscan: count("pgscan"),
            pgsteal: count("pgsteal"),
            pgactivate: count("pgactivate"),
            pgdeactivate: count("pgdeactivate"),
            pglazyfree: count("pglazyfree"),
            pglazyfreed: count("pglazyfreed"),
            thp_fault_alloc: count("thp_fault_alloc"),
            thp_collapse_alloc: count("thp_collapse_alloc"),
            usage: self.number("memory.current"),
            usage_limit: self.number("memory.max"),
            swap_usage: self.number("memory.swap.current"),
            swap_limit: self.number("memory.swap.max"),
            max_usage: self.number("memory.peak"),
            swap_max_usage: self.number("memory.swap.peak"),
            psi: pressure(&self.file("memory.pressure")).into(),
            ..MemoryStat::default()
        })
    }

    fn events(&self) -> Option<MemoryEvents> {
        let events = Keyed::read(&self.memory_events())?;
        Some(MemoryEvents {
            low: events.count("low"),
            high: events.count("high"),
            max: events.count("max"),
            oom: events.count("oom"),
            oom_kill: events.count("oom_kill"),
            oom_group_kill: events.count("oom_group_kill"),
            ..MemoryEvents::default()
        })
    }

    fn io(&self) -> Option<IOStat> {
        let text = fs::read_to_string(self.file("io.stat")).ok()?;
        Some(IOStat {
            usage: text.lines().filter_map(io_entry).collect(),
            psi: pressure(&self.file("io.pressure")).into(),
            ..IOStat::default()
        })
    }

    fn hugetlb(&self) -> Vec<HugeTlbStat> {
        huge_page_sizes(self.path(), ".current")
            .into_iter()
            .map(|pagesize| HugeTlbStat {
                current: self.number(&format!("hugetlb.{pagesize}.current")),
                max: self.number(&format!("hugetlb.{pagesize}.max")),
                failcnt: Keyed::read(&self.file(&format!("hugetlb.{pagesize}.events")))
                    .map(|events| events.count("max"))
                    .unwrap_or_default(),
                pagesize,
                ..HugeTlbStat::default()
            })
            .collect()
    }

    fn rdma(&self) -> Option<RdmaStat> {
        let entries = |file: &str| {
            rdma_entries(&self.file(file))
                .into_iter()
                .map(|(device, hca_handles, hca_objects)| RdmaEntry {
                    device,
                    hca_handles,
                    hca_objects,
                    ..RdmaEntry::default()
                })
                .collect()
        };
        self.file("rdma.current").exists().then(|| RdmaStat {
            current: entries("rdma.current"),
            limit: entries("rdma.max"),
            ..RdmaStat::default()
        })
    }
}

/// A line of io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn io_entry(line: &str) -> Option<IOEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut entry =
        IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IOEntry::default() };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let value = parse_number(value).unwrap_or_default();
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// Pressure stall information; `None` where the kernel was built or booted without it.
fn pressure(path: &Path) -> Option<PSIStats> {
    let text = fs::read_to_string(path).ok()?;
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let mut data = PSIData::default();
        for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or_default(),
                "avg60" => data.avg60 = value.parse().unwrap_or_default(),
                "avg300" => data.avg300 = value.parse().unwrap_or_default(),
                "total" => data.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        Some(data)
    };
    Some(PSIStats { some: line("some").into(), full: line("full").into(), ..PSIStats::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_as_far_as_its_controllers_go() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            ),
            ("memory.stat", "anon 4096\nworkingset_refault_anon 1\nworkingset_refault_file 2\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "max\n"),
        ];
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let metrics = Group::at(folder.path()).metrics();
        let cpu = metrics.cpu.unwrap();
        assert_eq!(cpu.usage_usec, 10);
        let some = cpu.psi.unwrap().some.unwrap();
        assert_eq!((some.avg10, some.total), (1.5, 77));
        let memory = metrics.memory.unwrap();
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.workingset_refault),
            (8192, u64::MAX, 3)
        );
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 1);
        assert_eq!(metrics.io.unwrap().usage[0].wios, 4);
        assert_eq!(metrics.hugetlb[0].max, u64::MAX);
        assert_eq!((metrics.pids.0, metrics.rdma.0), (None, None));
    }
}
