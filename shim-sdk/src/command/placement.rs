//! The server's cgroup and its OOM score.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// Moves a process into the cgroup of runc's option `ShimCgroup`: in the unified hierarchy, or in
/// every hierarchy of version 1. A missing cgroup is made.
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
        // Symbolic links are other names of hierarchies. A cpuset cannot be entered before it has
        // cpuset.cpus and cpuset.mems.
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

/// Sets the OOM score to the inherited one, which is the daemon's, plus one: when memory runs out,
/// the kernel kills this process before the daemon. The specs of containers set their own scores.
pub(crate) fn adjust_oom_score() {
    let path = "/proc/self/oom_score_adj";
    let raised = fs::read_to_string(path)
        .ok()
        .and_then(|score| score.trim().parse::<i32>().ok())
        .map(|score| (score + 1).min(1000));
    if let Some(raised) = raised
        && let Err(cause) = fs::write(path, raised.to_string())
    {
        // Raising it needs no privilege. Without /proc the server works as well.
        log::debug!("write {path}: {cause}");
    }
}
