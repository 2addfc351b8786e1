//! Where the server runs: its cgroup, and how likely the kernel is to kill it.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// Puts a process into a cgroup that runc's option `ShimCgroup` names, making it where it is
/// missing: in the unified hierarchy, or in every hierarchy of version 1.
pub(crate) fn enter_cgroup(cgroup: &str, pid: u32) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let below = cgroup.trim_start_matches('/');
    if below.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("shim cgroup {cgroup:?} leads out of the hierarchy")));
    }
    let enter = |hierarchy: &Path| {
        let directory = hierarchy.join(below);
        let attempt = |cause| Error::io(format!("enter cgroup {}", directory.display()), cause);
        fs::create_dir_all(&directory).map_err(attempt)?;
        fs::write(directory.join("cgroup.procs"), pid.to_string()).map_err(attempt)
    };
    if root.join("cgroup.controllers").exists() {
        return enter(root);
    }
    let attempt = |cause| Error::io(format!("read {}", root.display()), cause);
    for entry in fs::read_dir(root).map_err(attempt)? {
        let entry = entry.map_err(attempt)?;
        // Links are second names of hierarchies; cpusets cannot be entered before they are set up.
        let hierarchy = entry.path();
        let is_one = entry.file_type().is_ok_and(|kind| kind.is_dir())
            && hierarchy.join("cgroup.procs").exists()
            && entry.file_name() != "cpuset";
        if is_one {
            enter(&hierarchy)?;
        }
    }
    Ok(())
}

/// Makes the kernel prefer this process to the daemon when memory runs out: the daemon's score,
/// which was inherited, and one. The containers' own scores are their specs' affair.
pub(crate) fn adjust_oom_score() {
    let path = "/proc/self/oom_score_adj";
    let raised = fs::read_to_string(path)
        .ok()
        .and_then(|score| score.trim().parse::<i32>().ok())
        .map(|score| (score + 1).min(1000));
    if let Some(raised) = raised
        && let Err(cause) = fs::write(path, raised.to_string())
    {
        // Raising one's own score is always allowed; without /proc it has no meaning.
        log::debug!("write {path}: {cause}");
    }
}
