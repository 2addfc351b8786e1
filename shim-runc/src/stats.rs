//! Statistics as containerd's clients read them: `io.containerd.cgroups.v1.Metrics` and
//! `io.containerd.cgroups.v2.Metrics`, whichever the host has.
//!
//! The messages are written out here because the cgroup code fills them field by field; names,
//! numbers and types are those of the cgroups project's metrics.proto.

use prost::Message;
use shim_sdk::Payload;

use crate::cgroup::Cgroup;

/// What the kernel counts for a container, packed for the client.
pub(crate) fn of(cgroup: &Cgroup) -> Payload {
    let (type_url, value) = match cgroup {
        Cgroup::V1(groups) => {
            ("io.containerd.cgroups.v1.Metrics", groups.metrics().encode_to_vec())
        }
        Cgroup::V2(group) => ("io.containerd.cgroups.v2.Metrics", group.metrics().encode_to_vec()),
    };
    Payload { type_url: type_url.to_owned(), value }
}

/// The messages of cgroup v1.
pub(crate) mod v1 {
    use prost::Message;

    /// Everything that is counted for one container.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Metrics {
        #[prost(message, repeated, tag = "1")]
        pub(crate) hugetlb: Vec<HugetlbStat>,
        #[prost(message, optional, tag = "2")]
        pub(crate) pids: Option<PidsStat>,
        #[prost(message, optional, tag = "3")]
        pub(crate) cpu: Option<CpuStat>,
        #[prost(message, optional, tag = "4")]
        pub(crate) memory: Option<MemoryStat>,
        #[prost(message, optional, tag = "5")]
        pub(crate) blkio: Option<BlkioStat>,
        #[prost(message, optional, tag = "6")]
        pub(crate) rdma: Option<RdmaStat>,
        #[prost(message, optional, tag = "9")]
        pub(crate) memory_oom_control: Option<MemoryOomControl>,
    }

    /// Huge pages of one size.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct HugetlbStat {
        #[prost(uint64, tag = "1")]
        pub(crate) usage: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) max: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) failcnt: u64,
        #[prost(string, tag = "4")]
        pub(crate) pagesize: String,
    }

    /// Processes and threads.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct PidsStat {
        #[prost(uint64, tag = "1")]
        pub(crate) current: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) limit: u64,
    }

    /// Processor time.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct CpuStat {
        #[prost(message, optional, tag = "1")]
        pub(crate) usage: Option<CpuUsage>,
        #[prost(message, optional, tag = "2")]
        pub(crate) throttling: Option<Throttle>,
    }

    /// Nanoseconds of processor time.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct CpuUsage {
        #[prost(uint64, tag = "1")]
        pub(crate) total: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) kernel: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) user: u64,
        #[prost(uint64, repeated, tag = "4")]
        pub(crate) per_cpu: Vec<u64>,
    }

    /// How often the quota was used up.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Throttle {
        #[prost(uint64, tag = "1")]
        pub(crate) periods: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) throttled_periods: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) throttled_time: u64,
    }

    /// Memory by use.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct MemoryStat {
        #[prost(uint64, tag = "1")]
        pub(crate) cache: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) rss: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) rss_huge: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) mapped_file: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) dirty: u64,
        #[prost(uint64, tag = "6")]
        pub(crate) writeback: u64,
        #[prost(uint64, tag = "7")]
        pub(crate) pg_pg_in: u64,
        #[prost(uint64, tag = "8")]
        pub(crate) pg_pg_out: u64,
        #[prost(uint64, tag = "9")]
        pub(crate) pg_fault: u64,
        #[prost(uint64, tag = "10")]
        pub(crate) pg_maj_fault: u64,
        #[prost(uint64, tag = "11")]
        pub(crate) inactive_anon: u64,
        #[prost(uint64, tag = "12")]
        pub(crate) active_anon: u64,
        #[prost(uint64, tag = "13")]
        pub(crate) inactive_file: u64,
        #[prost(uint64, tag = "14")]
        pub(crate) active_file: u64,
        #[prost(uint64, tag = "15")]
        pub(crate) unevictable: u64,
        #[prost(uint64, tag = "16")]
        pub(crate) hierarchical_memory_limit: u64,
        #[prost(uint64, tag = "17")]
        pub(crate) hierarchical_swap_limit: u64,
        #[prost(uint64, tag = "18")]
        pub(crate) total_cache: u64,
        #[prost(uint64, tag = "19")]
        pub(crate) total_rss: u64,
        #[prost(uint64, tag = "20")]
        pub(crate) total_rss_huge: u64,
        #[prost(uint64, tag = "21")]
        pub(crate) total_mapped_file: u64,
        #[prost(uint64, tag = "22")]
        pub(crate) total_dirty: u64,
        #[prost(uint64, tag = "23")]
        pub(crate) total_writeback: u64,
        #[prost(uint64, tag = "24")]
        pub(crate) total_pg_pg_in: u64,
        #[prost(uint64, tag = "25")]
        pub(crate) total_pg_pg_out: u64,
        #[prost(uint64, tag = "26")]
        pub(crate) total_pg_fault: u64,
        #[prost(uint64, tag = "27")]
        pub(crate) total_pg_maj_fault: u64,
        #[prost(uint64, tag = "28")]
        pub(crate) total_inactive_anon: u64,
        #[prost(uint64, tag = "29")]
        pub(crate) total_active_anon: u64,
        #[prost(uint64, tag = "30")]
        pub(crate) total_inactive_file: u64,
        #[prost(uint64, tag = "31")]
        pub(crate) total_active_file: u64,
        #[prost(uint64, tag = "32")]
        pub(crate) total_unevictable: u64,
        #[prost(message, optional, tag = "33")]
        pub(crate) usage: Option<MemoryEntry>,
        #[prost(message, optional, tag = "34")]
        pub(crate) swap: Option<MemoryEntry>,
        #[prost(message, optional, tag = "35")]
        pub(crate) kernel: Option<MemoryEntry>,
        #[prost(message, optional, tag = "36")]
        pub(crate) kernel_tcp: Option<MemoryEntry>,
    }

    /// One kind of accounting: limit, use, high mark and refusals.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct MemoryEntry {
        #[prost(uint64, tag = "1")]
        pub(crate) limit: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) usage: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) max: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) failcnt: u64,
    }

    /// What is done when memory runs out, and how often it was.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct MemoryOomControl {
        #[prost(uint64, tag = "1")]
        pub(crate) oom_kill_disable: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) under_oom: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) oom_kill: u64,
    }

    /// Block I/O by device and operation.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct BlkioStat {
        #[prost(message, repeated, tag = "1")]
        pub(crate) io_service_bytes_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) io_serviced_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) io_queued_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "4")]
        pub(crate) io_service_time_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "5")]
        pub(crate) io_wait_time_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "6")]
        pub(crate) io_merged_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "7")]
        pub(crate) io_time_recursive: Vec<BlkioEntry>,
        #[prost(message, repeated, tag = "8")]
        pub(crate) sectors_recursive: Vec<BlkioEntry>,
    }

    /// One count of one device.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct BlkioEntry {
        #[prost(string, tag = "1")]
        pub(crate) op: String,
        #[prost(string, tag = "2")]
        pub(crate) device: String,
        #[prost(uint64, tag = "3")]
        pub(crate) major: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) minor: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) value: u64,
    }

    /// RDMA resources.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct RdmaStat {
        #[prost(message, repeated, tag = "1")]
        pub(crate) current: Vec<RdmaEntry>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) limit: Vec<RdmaEntry>,
    }

    /// RDMA resources of one device.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct RdmaEntry {
        #[prost(string, tag = "1")]
        pub(crate) device: String,
        #[prost(uint32, tag = "2")]
        pub(crate) hca_handles: u32,
        #[prost(uint32, tag = "3")]
        pub(crate) hca_objects: u32,
    }
}

/// The messages of cgroup v2.
pub(crate) mod v2 {
    use prost::Message;

    /// Everything that is counted for one container.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Metrics {
        #[prost(message, optional, tag = "1")]
        pub(crate) pids: Option<PidsStat>,
        #[prost(message, optional, tag = "2")]
        pub(crate) cpu: Option<CpuStat>,
        #[prost(message, optional, tag = "4")]
        pub(crate) memory: Option<MemoryStat>,
        #[prost(message, optional, tag = "5")]
        pub(crate) rdma: Option<RdmaStat>,
        #[prost(message, optional, tag = "6")]
        pub(crate) io: Option<IoStat>,
        #[prost(message, repeated, tag = "7")]
        pub(crate) hugetlb: Vec<HugetlbStat>,
        #[prost(message, optional, tag = "8")]
        pub(crate) memory_events: Option<MemoryEvents>,
    }

    /// Share of time lost, in percent over a window, and microseconds in total.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct PsiData {
        #[prost(double, tag = "1")]
        pub(crate) avg10: f64,
        #[prost(double, tag = "2")]
        pub(crate) avg60: f64,
        #[prost(double, tag = "3")]
        pub(crate) avg300: f64,
        #[prost(uint64, tag = "4")]
        pub(crate) total: u64,
    }

    /// Pressure: when some tasks waited, and when all did.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct PsiStats {
        #[prost(message, optional, tag = "1")]
        pub(crate) some: Option<PsiData>,
        #[prost(message, optional, tag = "2")]
        pub(crate) full: Option<PsiData>,
    }

    /// Processes and threads.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct PidsStat {
        #[prost(uint64, tag = "1")]
        pub(crate) current: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) limit: u64,
    }

    /// Processor time.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct CpuStat {
        #[prost(uint64, tag = "1")]
        pub(crate) usage_usec: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) user_usec: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) system_usec: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) nr_periods: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) nr_throttled: u64,
        #[prost(uint64, tag = "6")]
        pub(crate) throttled_usec: u64,
        #[prost(message, optional, tag = "7")]
        pub(crate) psi: Option<PsiStats>,
        #[prost(uint64, tag = "8")]
        pub(crate) nr_bursts: u64,
        #[prost(uint64, tag = "9")]
        pub(crate) burst_usec: u64,
    }

    /// Memory by use.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct MemoryStat {
        #[prost(uint64, tag = "1")]
        pub(crate) anon: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) file: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) kernel_stack: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) slab: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) sock: u64,
        #[prost(uint64, tag = "6")]
        pub(crate) shmem: u64,
        #[prost(uint64, tag = "7")]
        pub(crate) file_mapped: u64,
        #[prost(uint64, tag = "8")]
        pub(crate) file_dirty: u64,
        #[prost(uint64, tag = "9")]
        pub(crate) file_writeback: u64,
        #[prost(uint64, tag = "10")]
        pub(crate) anon_thp: u64,
        #[prost(uint64, tag = "11")]
        pub(crate) inactive_anon: u64,
        #[prost(uint64, tag = "12")]
        pub(crate) active_anon: u64,
        #[prost(uint64, tag = "13")]
        pub(crate) inactive_file: u64,
        #[prost(uint64, tag = "14")]
        pub(crate) active_file: u64,
        #[prost(uint64, tag = "15")]
        pub(crate) unevictable: u64,
        #[prost(uint64, tag = "16")]
        pub(crate) slab_reclaimable: u64,
        #[prost(uint64, tag = "17")]
        pub(crate) slab_unreclaimable: u64,
        #[prost(uint64, tag = "18")]
        pub(crate) pgfault: u64,
        #[prost(uint64, tag = "19")]
        pub(crate) pgmajfault: u64,
        #[prost(uint64, tag = "20")]
        pub(crate) workingset_refault: u64,
        #[prost(uint64, tag = "21")]
        pub(crate) workingset_activate: u64,
        #[prost(uint64, tag = "22")]
        pub(crate) workingset_nodereclaim: u64,
        #[prost(uint64, tag = "23")]
        pub(crate) pgrefill: u64,
        #[prost(uint64, tag = "24")]
        pub(crate) pgscan: u64,
        #[prost(uint64, tag = "25")]
        pub(crate) pgsteal: u64,
        #[prost(uint64, tag = "26")]
        pub(crate) pgactivate: u64,
        #[prost(uint64, tag = "27")]
        pub(crate) pgdeactivate: u64,
        #[prost(uint64, tag = "28")]
        pub(crate) pglazyfree: u64,
        #[prost(uint64, tag = "29")]
        pub(crate) pglazyfreed: u64,
        #[prost(uint64, tag = "30")]
        pub(crate) thp_fault_alloc: u64,
        #[prost(uint64, tag = "31")]
        pub(crate) thp_collapse_alloc: u64,
        #[prost(uint64, tag = "32")]
        pub(crate) usage: u64,
        #[prost(uint64, tag = "33")]
        pub(crate) usage_limit: u64,
        #[prost(uint64, tag = "34")]
        pub(crate) swap_usage: u64,
        #[prost(uint64, tag = "35")]
        pub(crate) swap_limit: u64,
        #[prost(uint64, tag = "36")]
        pub(crate) max_usage: u64,
        #[prost(uint64, tag = "37")]
        pub(crate) swap_max_usage: u64,
        #[prost(message, optional, tag = "38")]
        pub(crate) psi: Option<PsiStats>,
    }

    /// How often each limit was met.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct MemoryEvents {
        #[prost(uint64, tag = "1")]
        pub(crate) low: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) high: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) max: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) oom: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) oom_kill: u64,
        #[prost(uint64, tag = "6")]
        pub(crate) oom_group_kill: u64,
    }

    /// RDMA resources.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct RdmaStat {
        #[prost(message, repeated, tag = "1")]
        pub(crate) current: Vec<RdmaEntry>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) limit: Vec<RdmaEntry>,
    }

    /// RDMA resources of one device.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct RdmaEntry {
        #[prost(string, tag = "1")]
        pub(crate) device: String,
        #[prost(uint32, tag = "2")]
        pub(crate) hca_handles: u32,
        #[prost(uint32, tag = "3")]
        pub(crate) hca_objects: u32,
    }

    /// Block I/O.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct IoStat {
        #[prost(message, repeated, tag = "1")]
        pub(crate) usage: Vec<IoEntry>,
        #[prost(message, optional, tag = "2")]
        pub(crate) psi: Option<PsiStats>,
    }

    /// Block I/O of one device.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct IoEntry {
        #[prost(uint64, tag = "1")]
        pub(crate) major: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) minor: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) rbytes: u64,
        #[prost(uint64, tag = "4")]
        pub(crate) wbytes: u64,
        #[prost(uint64, tag = "5")]
        pub(crate) rios: u64,
        #[prost(uint64, tag = "6")]
        pub(crate) wios: u64,
    }

    /// Huge pages of one size.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct HugetlbStat {
        #[prost(uint64, tag = "1")]
        pub(crate) current: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) max: u64,
        #[prost(string, tag = "3")]
        pub(crate) pagesize: String,
        #[prost(uint64, tag = "4")]
        pub(crate) failcnt: u64,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::cgroup::{v1::Groups, v2::Group};

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        folder
    }

    fn hex(payload: &Payload) -> String {
        payload.value.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn of_v1(controllers: &[&str], directory: &Path) -> Payload {
        let mut groups = Groups::default();
        groups.insert(controllers, directory.to_owned());
        of(&Cgroup::V1(groups))
    }

    #[test]
    fn metrics_of_version_1_have_the_recorded_bytes() {
        let folder = directory(&[
            ("hugetlb.2MB.usage_in_bytes", "1\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "2\n"),
            ("hugetlb.2MB.failcnt", "0\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpuacct.usage", "1234\n"),
            ("cpuacct.stat", "user 2\nsystem 3\n"),
            ("cpuacct.usage_percpu", "1000 0 234\n"),
            ("cpu.stat", "nr_periods 7\nnr_throttled 2\nthrottled_time 99\n"),
            ("memory.stat", "cache 1\nrss 300\ntotal_cache 2\nhierarchical_memsw_limit 9\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.usage_in_bytes", "50\n"),
            ("memory.max_usage_in_bytes", "60\n"),
            ("memory.failcnt", "1\n"),
            ("memory.kmem.limit_in_bytes", "0\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 4\n"),
            ("blkio.throttle.io_serviced", "4000:7 Read 5\n4000:7 Write 0\nTotal 5\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=9\n"),
        ]);
        let all = ["hugetlb", "pids", "cpu", "cpuacct", "memory", "blkio", "rdma"];
        let payload = of_v1(&all, folder.path());
        assert_eq!(payload.type_url, "io.containerd.cgroups.v1.Metrics");
        assert_eq!(
            hex(&payload),
            concat!(
                "0a09080110022203324d42120208031a1e0a1408d209108087a70e1880dac4092205e80700ea0112",
                "060807100218632221080110ac028801099001028a02100880e0ffffffffffff7f1032183c20019a",
                "02002a1d120d0a045265616418a01f20072805120c0a05577269746518a01f200732210a0d0a066d",
                "6c78345f30100218d00f12100a066d6c78345f3010ffffffff0f18094a0410011804",
            )
        );
        assert_eq!(hex(&of_v1(&["pids", "cpu"], folder.path())), "120208031a081206080710021863");
        // Groups that show nothing are there all the same.
        let empty = directory(&[]);
        assert_eq!(hex(&of_v1(&all, empty.path())), "12001a020a002a003200");
        assert_eq!(hex(&of(&Cgroup::V1(Groups::default()))), "");
    }

    #[test]
    fn metrics_of_version_2_have_the_recorded_bytes() {
        let folder = directory(&[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_bursts 1\nburst_usec 2\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("memory.stat", "anon 4096\nworkingset_refault_anon 1\nworkingset_refault_file 2\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "9000\n"),
            ("memory.pressure", "some avg10=0.00 avg60=3.00 avg300=0.00 total=1\n"),
            ("memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=0\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=max\n"),
        ]);
        let payload = of(&Cgroup::V2(Group::at(folder.path())));
        assert_eq!(payload.type_url, "io.containerd.cgroups.v2.Metrics");
        assert_eq!(
            hex(&payload),
            concat!(
                "0a0d080310ffffffffffffffffff011224080a100618043a180a1409000000000000f83f19000000",
                "000000d03f204d120040014802222a088020a00103800280408802ffffffffffffffffff01a002a8",
                "46b2020d0a0b11000000000000084020012a250a0d0a066d6c78345f30100218d00f12140a066d6c",
                "78345f3010ffffffff0f18ffffffff0f32120a0a080818012002280330040a04080810103a1210ff",
                "ffffffffffffffff011a03324d4220034206180220012801",
            )
        );
        let empty = directory(&[("memory.stat", ""), ("rdma.current", "")]);
        assert_eq!(hex(&of(&Cgroup::V2(Group::at(empty.path())))), "22002a00");
    }
}
