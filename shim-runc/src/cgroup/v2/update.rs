//! Changes limits through the control files of cgroup v2.
//!
//! OCI's resources speak cgroup v1; the conversions are those that runc and crun have settled on.

use std::fs;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::Group;
use crate::cgroup::write;
use crate::error::{EngineError, Input};

impl Group {
    /// Sets what of a spec's resources is given.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), EngineError> {
        if let Some(memory) = resources.memory() {
            self.update_memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.update_cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            self.set("pids.max", limit(if pids.limit() == 0 { -1 } else { pids.limit() }))?;
        }
        if let Some(block_io) = resources.block_io() {
            self.update_block_io(block_io)?;
        }
        for huge in resources.hugepage_limits().iter().flatten() {
            self.set(&format!("hugetlb.{}.max", huge.page_size()), limit(huge.limit()))?;
        }
        for (device, limits) in resources.rdma().iter().flatten() {
            if let Some(handles) = limits.hca_handles() {
                self.set("rdma.max", format!("{device} hca_handle={handles}"))?;
            }
            if let Some(objects) = limits.hca_objects() {
                self.set("rdma.max", format!("{device} hca_object={objects}"))?;
            }
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') {
                let input = Input::UnifiedResource(file.clone());
                return Err(EngineError::malformed(input, "not the name of a control file"));
            }
            for line in value.lines() {
                self.set(file, line)?;
            }
        }
        Ok(())
    }

    fn update_memory(&self, memory: &LinuxMemory) -> Result<(), EngineError> {
        let given = |value: Option<i64>| value.filter(|value| *value != 0);
        if let Some(swap) = given(memory.swap()) {
            let value = match (swap, given(memory.limit())) {
                (-1, _) => "max".to_owned(),
                (sum, Some(limit)) if limit > 0 && sum >= limit => (sum - limit).to_string(),
                // The sum makes sense only beside the limit that holds now.
                (sum, None) => match fs::read_to_string(self.file("memory.max"))
                    .ok()
                    .and_then(|text| text.trim().parse::<i64>().ok())
                {
                    Some(limit) if sum >= limit => (sum - limit).to_string(),
                    _ => return Err(bad_swap(sum)),
                },
                (sum, Some(_)) => return Err(bad_swap(sum)),
            };
            self.set("memory.swap.max", value)?;
        }
        if let Some(value) = given(memory.limit()) {
            self.set("memory.max", limit(value))?;
        }
        if let Some(value) = given(memory.reservation()) {
            self.set("memory.low", limit(value))?;
        }
        Ok(())
    }

    fn update_cpu(&self, cpu: &LinuxCpu) -> Result<(), EngineError> {
        if let Some(idle) = cpu.idle() {
            self.set("cpu.idle", idle)?;
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.set("cpu.weight", cpu_weight(shares))?;
        }
        if let Some(burst) = cpu.burst() {
            self.set("cpu.max.burst", burst)?;
        }
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        if quota.is_some() || period.is_some() {
            let now = fs::read_to_string(self.file("cpu.max")).unwrap_or_default();
            let (quota_now, period_now) = now.trim().split_once(' ').unwrap_or(("max", "100000"));
            let quota = quota.map_or_else(|| quota_now.to_owned(), limit);
            let period = period.map_or_else(|| period_now.to_owned(), |period| period.to_string());
            self.set("cpu.max", format!("{quota} {period}"))?;
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.set("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.set("cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn update_block_io(&self, block_io: &LinuxBlockIo) -> Result<(), EngineError> {
        // Without the BFQ scheduler there is only io.weight, whose range is wider.
        let bfq = self.file("io.bfq.weight").exists();
        let weigh = |target: &str, weight: u16| {
            if bfq {
                self.set("io.bfq.weight", format!("{target}{weight}"))
            } else {
                self.set("io.weight", format!("{target}{}", io_weight(weight)))
            }
        };
        if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
            weigh("", weight)?;
        }
        for device in block_io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                weigh(&format!("{}:{} ", device.major(), device.minor()), weight)?;
            }
        }
        self.throttle("rbps", block_io.throttle_read_bps_device())?;
        self.throttle("wbps", block_io.throttle_write_bps_device())?;
        self.throttle("riops", block_io.throttle_read_iops_device())?;
        self.throttle("wiops", block_io.throttle_write_iops_device())
    }

    fn throttle(
        &self,
        key: &str,
        devices: &Option<Vec<LinuxThrottleDevice>>,
    ) -> Result<(), EngineError> {
        for device in devices.iter().flatten() {
            let rate =
                if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            self.set("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()))?;
        }
        Ok(())
    }

    fn set(&self, file: &str, value: impl ToString) -> Result<(), EngineError> {
        write(&self.file(file), value)
    }
}

/// A limit as v2 spells it: negative means none.
fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// v1's shares, 2 to 262144, as v2's weight, 1 to 10000.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// v1's block I/O weight, 10 to 1000, as v2's, 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn bad_swap(sum: i64) -> EngineError {
    EngineError::SwapBelowMemory { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::parse_number;

    fn update(files: &[(&str, &str)], json: &str) -> (tempfile::TempDir, Result<(), EngineError>) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let group = Group::at(folder.path());
        let done = group.update(&serde_json::from_str(json).unwrap());
        (folder, done)
    }

    #[test]
    fn v1_terms_become_v2_terms() {
        let empty = [
            "memory.max",
            "memory.swap.max",
            "memory.low",
            "cpu.weight",
            "pids.max",
            "io.weight",
            "io.max",
        ];
        let mut files: Vec<_> = empty.iter().map(|name| (*name, "")).collect();
        files.push(("cpu.max", "max 100000\n"));
        let (folder, done) = update(
            &files,
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":-1},"cpu":{"shares":1024,"quota":5000},
                "pids":{"limit":7},"blockIO":{"weight":500,
                "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":99}]}}"#,
        );
        done.unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(read("memory.max"), "1000");
        assert_eq!(read("memory.swap.max"), "500");
        assert_eq!(read("memory.low"), "max");
        assert_eq!(read("cpu.weight"), "39");
        // Control files are written without truncation: the rest is the old text of this plain file.
        assert!(read("cpu.max").starts_with("5000 100000"));
        assert_eq!(read("pids.max"), "7");
        assert_eq!(read("io.weight"), "4950");
        assert_eq!(read("io.max"), "8:0 rbps=99");
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let (_folder, done) =
            update(&[("memory.swap.max", "")], r#"{"memory":{"limit":1000,"swap":10}}"#);
        assert!(done.unwrap_err().to_string().contains("must not be less"));
    }

    #[test]
    fn unified_names_cannot_leave_the_group() {
        let (_folder, done) = update(&[], r#"{"unified":{"../x.y":"1"}}"#);
        assert!(done.is_err());
    }

    #[test]
    fn no_limit_is_max() {
        assert_eq!(limit(-1), "max");
        assert_eq!(parse_number(&limit(-1)), Some(u64::MAX));
        assert_eq!(
            (cpu_weight(2), cpu_weight(262_144), io_weight(10), io_weight(1000)),
            (1, 10000, 1, 10000)
        );
    }
}
