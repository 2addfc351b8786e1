//! Attributes that a process gets before it enters a namespace of its container: limits, priorities,
//! processors, out-of-memory score, AppArmor profile.
//!
//! Clones inherit them. Many need rights over the host that a process in a user namespace does not have.
//! They are written through the host's /proc; a container's /proc is not trusted (CVE-2025-52881).
//!
//! Promise: the command has the attributes. Called by the clone itself, before it joins or
//! makes a namespace.
//! See setrlimit(2), sched_setattr(2), ioprio_set(2), personality(2), proc(5).

use std::fs;

use libcontainer::config::PersonalityDomain;
use libcontainer::oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, Process,
};
use libcontainer::syscall::syscall::create_syscall;
use nix::sys::stat::Mode;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::super::wire::{Failure, Reason};
use super::failure::failed;
use crate::sys;

/// The files for the profile of the next program: since Linux 5.8, and before.
const APPARMOR: [&str; 2] = ["/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"];

/// Sets the priorities and the score of the calling process, and those limits that are raised.
pub(super) fn set(process: &Process) -> Result<(), Failure> {
    let call = create_syscall();
    if let Some(wanted) = process.io_priority() {
        let class = match wanted.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        call.set_io_priority(class, wanted.priority())
            .map_err(|error| failed("set the I/O priority", &error))?;
    }
    if let Some(wanted) = process.scheduler() {
        sys::process::set_scheduler(wanted)
            .map_err(|error| failed("error setting scheduler", &error))?;
    }
    for limit in process.rlimits().iter().flatten() {
        sys::process::raise_limit(limit.typ() as u32, limit.soft(), limit.hard())
            .map_err(|error| failed(&format!("set {:?}", limit.typ()), &error))?;
    }
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| failed(&format!("set the out-of-memory score {score}"), &error))?;
    }
    Ok(())
}

/// Sets the limits of the spec, after the steps that need files or memory. [`set`] has raised limits before,
/// which needs rights over the host; lowering a limit needs none.
pub(super) fn limit(process: &Process) -> Result<(), Failure> {
    let call = create_syscall();
    process.rlimits().iter().flatten().try_for_each(|limit| {
        call.set_rlimit(limit).map_err(|error| failed(&format!("set {:?}", limit.typ()), &error))
    })
}

/// Sets the processors of the calling process. An empty list changes nothing.
pub(super) fn keep_to(processors: Option<&str>) -> Result<(), Failure> {
    let Some(list) = processors.filter(|list| !list.trim().is_empty()) else { return Ok(()) };
    let set = parse(list).ok_or_else(|| {
        Failure::new(Reason::InvalidRequest, format!("CPU affinity {list:?} is no list of CPUs"))
    })?;
    sched_setaffinity(None, &set).map_err(|error| failed(&format!("CPU affinity {list:?}"), &error))
}

/// The processors of a list such as `0-3,7`.
fn parse(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|one| set.set(one));
    }
    Some(set)
}

/// Sets the AppArmor profile of the next program that is executed. Only the command, and hooks that run in
/// the container, may be executed after it.
pub(super) fn confine(process: &Process) -> Result<(), Failure> {
    let Some(profile) = process.apparmor_profile().as_deref().filter(|name| !name.is_empty())
    else {
        return Ok(());
    };
    let word = format!("exec {profile}");
    let [first, second] = APPARMOR.map(|file| fs::write(file, &word));
    match first.or(second) {
        Ok(()) => Ok(()),
        Err(error) => Err(failed(&format!("apply AppArmor profile {profile:?}"), &error)),
    }
}

/// Sets the personality and the umask of the calling process.
pub(super) fn set_habits(
    personality: Option<&LinuxPersonality>,
    umask: Option<u32>,
) -> Result<(), Failure> {
    if let Some(wanted) = personality {
        if wanted.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            let text = "personality flags are not supported";
            return Err(Failure::new(Reason::Unsupported, text));
        }
        let domain = match wanted.domain() {
            LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
            LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
        };
        create_syscall()
            .personality(domain)
            .map_err(|error| failed("set the personality", &error))?;
    }
    if let Some(umask) = umask {
        let mode = Mode::from_bits(umask)
            .ok_or_else(|| Failure::new(Reason::InvalidRequest, format!("umask {umask:o}")))?;
        nix::sys::stat::umask(mode);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_has_single_ones_and_ranges() {
        let set = parse("0-2, 5").unwrap();
        let found: Vec<_> = (0..8).filter(|one| set.is_set(*one)).collect();
        assert_eq!(found, [0, 1, 2, 5]);
        for wrong in ["3-1", "x", "1-", "0-4096"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
