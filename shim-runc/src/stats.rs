//! Statistics as containerd's clients read them: `io.containerd.cgroups.v1.Metrics` on a host with
//! control groups of version 1, `io.containerd.cgroups.v2.Metrics` on a host with version 2.
//!
//! The cgroup code fills the generated messages; this module encodes them.

use shim_sdk::Payload;
use shim_sdk::messages::Message;

use crate::cgroup::Cgroup;
use crate::error::EngineError;

/// Encodes the statistics that the kernel keeps for a container's control groups.
pub(crate) fn of(cgroup: &Cgroup) -> Result<Payload, EngineError> {
    let (type_url, value) = match cgroup {
        Cgroup::V1(groups) => {
            ("io.containerd.cgroups.v1.Metrics", groups.metrics().write_to_bytes())
        }
        Cgroup::V2(group) => ("io.containerd.cgroups.v2.Metrics", group.metrics().write_to_bytes()),
    };
    let value = value.map_err(|cause| EngineError::EncodeStatistics { cause: cause.into() })?;
    Ok(Payload { type_url: type_url.to_owned(), value })
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
        of(&Cgroup::V1(groups)).unwrap()
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
        assert_eq!(hex(&of(&Cgroup::V1(Groups::default())).unwrap()), "");
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
        let payload = of(&Cgroup::V2(Group::at(folder.path()))).unwrap();
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
        assert_eq!(hex(&of(&Cgroup::V2(Group::at(empty.path()))).unwrap()), "22002a00");
    }
}
