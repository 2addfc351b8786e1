//! Changes limits through the control files of cgroup v1.

use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use super::Groups;
use crate::cgroup::write;
use crate::error::{EngineError, Limitation, Operation};

impl Groups {
    /// Sets the limits that are given; devices are not among them.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), EngineError> {
        if let Some(memory) = resources.memory() {
            self.update_memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.update_cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            // OCI: zero and below mean no limit.
            let limit = pids.limit();
            let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
            self.set("pids", "pids.max", value)?;
        }
        if let Some(block_io) = resources.block_io() {
            self.update_block_io(block_io)?;
        }
        for huge in resources.hugepage_limits().iter().flatten() {
            let file = format!("hugetlb.{}.limit_in_bytes", huge.page_size());
            self.set("hugetlb", &file, huge.limit())?;
            // What is reserved counts against a limit of its own since 5.7.
            let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", huge.page_size());
            if self.file("hugetlb", &reserved).is_some_and(|file| file.exists()) {
                self.set("hugetlb", &reserved, huge.limit())?;
            }
        }
        if let Some(network) = resources.network() {
            self.update_network(network)?;
        }
        for (device, limits) in resources.rdma().iter().flatten() {
            if let Some(handles) = limits.hca_handles() {
                self.set("rdma", "rdma.max", format!("{device} hca_handle={handles}"))?;
            }
            if let Some(objects) = limits.hca_objects() {
                self.set("rdma", "rdma.max", format!("{device} hca_object={objects}"))?;
            }
        }
        if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
            return Err(EngineError::Unsupported {
                operation: Operation::Update,
                limit: Limitation::UnifiedOnV1,
            });
        }
        Ok(())
    }

    fn update_memory(&self, memory: &LinuxMemory) -> Result<(), EngineError> {
        // Zero is no value, as runc has it: nothing could run with it.
        let given = |value: Option<i64>| value.filter(|value| *value != 0);
        let limit = given(memory.limit());
        // An unlimited container cannot have limited swap, whose limit counts memory too.
        let swap = match (limit, given(memory.swap())) {
            (Some(-1), None) => self
                .file("memory", "memory.memsw.limit_in_bytes")
                .filter(|file| file.exists())
                .map(|_| -1),
            (_, swap) => swap,
        };
        let set_limit = |limit: Option<i64>| {
            limit.map_or(Ok(()), |value| self.set("memory", "memory.limit_in_bytes", value))
        };
        let set_swap = |swap: Option<i64>| {
            swap.map_or(Ok(()), |value| self.set("memory", "memory.memsw.limit_in_bytes", value))
        };
        // The kernel keeps memory <= memory + swap at every step, so raising wants the sum first
        // and lowering wants it last.
        if set_swap(swap).and_then(|()| set_limit(limit)).is_err() {
            set_limit(limit)?;
            set_swap(swap)?;
        }
        if let Some(reservation) = given(memory.reservation()) {
            self.set("memory", "memory.soft_limit_in_bytes", reservation)?;
        }
        if let Some(limit) = given(memory.kernel_tcp()) {
            self.set("memory", "memory.kmem.tcp.limit_in_bytes", limit)?;
        }
        if let Some(swappiness) = memory.swappiness() {
            self.set("memory", "memory.swappiness", swappiness)?;
        }
        if let Some(disable) = memory.disable_oom_killer() {
            self.set("memory", "memory.oom_control", u8::from(disable))?;
        }
        Ok(())
    }

    fn update_cpu(&self, cpu: &LinuxCpu) -> Result<(), EngineError> {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.set("cpu", "cpu.shares", shares)?;
        }
        if let Some(burst) = cpu.burst() {
            self.set("cpu", "cpu.cfs_burst_us", burst)?;
        }
        self.set_pair(
            (
                "cpu.cfs_period_us",
                cpu.period().filter(|period| *period != 0).map(|v| v.to_string()),
            ),
            ("cpu.cfs_quota_us", cpu.quota().filter(|quota| *quota != 0).map(|v| v.to_string())),
        )?;
        self.set_pair(
            ("cpu.rt_period_us", cpu.realtime_period().filter(|v| *v != 0).map(|v| v.to_string())),
            (
                "cpu.rt_runtime_us",
                cpu.realtime_runtime().filter(|v| *v != 0).map(|v| v.to_string()),
            ),
        )?;
        if let Some(idle) = cpu.idle() {
            self.set("cpu", "cpu.idle", idle)?;
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.set("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.set("cpuset", "cpuset.mems", mems)?;
        }
        Ok(())
    }

    /// Sets two values whose ratio the kernel checks against the parent's at each step: which of
    /// the two orders it allows depends on whether the ratio grows.
    fn set_pair(
        &self,
        first: (&str, Option<String>),
        second: (&str, Option<String>),
    ) -> Result<(), EngineError> {
        let set = |(file, value): &(&str, Option<String>)| {
            value.as_ref().map_or(Ok(()), |value| self.set("cpu", file, value))
        };
        if set(&first).and_then(|()| set(&second)).is_err() {
            set(&second)?;
            set(&first)?;
        }
        Ok(())
    }

    fn update_block_io(&self, block_io: &LinuxBlockIo) -> Result<(), EngineError> {
        // CFQ left the kernel with 5.0; BFQ has files of its own.
        let prefix = match self.file("blkio", "blkio.bfq.weight") {
            Some(file) if file.exists() => "blkio.bfq.",
            _ => "blkio.",
        };
        if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
            self.set("blkio", &format!("{prefix}weight"), weight)?;
        }
        if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight != 0) {
            self.set("blkio", "blkio.leaf_weight", weight)?;
        }
        for device in block_io.weight_device().iter().flatten() {
            let id = format!("{}:{}", device.major(), device.minor());
            if let Some(weight) = device.weight() {
                self.set("blkio", &format!("{prefix}weight_device"), format!("{id} {weight}"))?;
            }
            if let Some(weight) = device.leaf_weight() {
                self.set("blkio", "blkio.leaf_weight_device", format!("{id} {weight}"))?;
            }
        }
        self.throttle("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device())?;
        self.throttle("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device())?;
        self.throttle("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device())?;
        self.throttle("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device())
    }

    fn throttle(
        &self,
        file: &str,
        devices: &Option<Vec<LinuxThrottleDevice>>,
    ) -> Result<(), EngineError> {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            self.set("blkio", file, line)?;
        }
        Ok(())
    }

    fn update_network(&self, network: &LinuxNetwork) -> Result<(), EngineError> {
        if let Some(class) = network.class_id() {
            self.set("net_cls", "net_cls.classid", class)?;
        }
        for interface in network.priorities().iter().flatten() {
            let line = format!("{} {}", interface.name(), interface.priority());
            self.set("net_prio", "net_prio.ifpriomap", line)?;
        }
        Ok(())
    }

    /// Writes a control file of a controller, which must be there.
    fn set(&self, controller: &str, file: &str, value: impl ToString) -> Result<(), EngineError> {
        let group = self.controller(controller).ok_or_else(|| EngineError::Unsupported {
            operation: Operation::Update,
            limit: Limitation::NoController {
                file: file.to_owned(),
                controller: controller.to_owned(),
            },
        })?;
        write(&Path::new(group).join(file), value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn groups(files: &[&str]) -> (tempfile::TempDir, Groups) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let mut groups = Groups::default();
        groups.insert(&["memory", "cpu", "pids", "blkio"], folder.path().to_owned());
        (folder, groups)
    }

    fn update(groups: &Groups, json: &str) -> Result<(), EngineError> {
        groups.update(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn only_the_limits_given_are_written() {
        let (folder, groups) = groups(&[
            "memory.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "cpu.shares",
            "cpu.cfs_quota_us",
            "pids.max",
            "blkio.throttle.read_bps_device",
        ]);
        update(
            &groups,
            r#"{"memory":{"limit":1048576,"reservation":0},"cpu":{"shares":0,"quota":5000},
                "pids":{"limit":0},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":99}]}}"#,
        )
        .unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(read("memory.limit_in_bytes"), "1048576");
        assert_eq!(read("memory.soft_limit_in_bytes"), "");
        assert_eq!(read("cpu.shares"), "");
        assert_eq!(read("cpu.cfs_quota_us"), "5000");
        assert_eq!(read("pids.max"), "max");
        assert_eq!(read("blkio.throttle.read_bps_device"), "8:0 99");
    }

    #[test]
    fn a_limit_without_its_controller_is_refused() {
        let (_folder, groups) = groups(&[]);
        let refused = update(&groups, r#"{"cpu":{"cpus":"0"}}"#).unwrap_err();
        assert!(refused.to_string().contains("cpuset"), "{refused}");
        let refused = update(&groups, r#"{"unified":{"memory.high":"1"}}"#).unwrap_err();
        assert!(refused.to_string().contains("cgroup v2"), "{refused}");
        // A control file that does not exist must not be made.
        assert!(update(&groups, r#"{"cpu":{"shares":5}}"#).is_err());
    }
}
