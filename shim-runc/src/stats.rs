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
