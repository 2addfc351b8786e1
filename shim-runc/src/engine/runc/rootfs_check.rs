//! Refuses root file systems with links that a vulnerable runtime would follow to the host.
//!
//! runc sets up `/dev` by paths, before it changes the root. If `/dev` of an image is a symbolic
//! link, it deletes a file named `ptmx` in a directory of the host and creates links there
//! (CVE-2026-41579, fixed in 1.3.6, 1.4.3 and 1.5.0-rc.3; containerd does not reject such an image).
//! If nothing is mounted at `/dev`, runc before 1.2.8 (CVE-2025-31133, -52565) and crun
//! (CVE-2026-88264, -88265; 1.29.1 is not fixed) follow a link in the place of a device to a file of
//! the host.
//!
//! Promise: such a root file system is refused before a runtime runs that is not known to be fixed.
//! Limit: the check is made before the runtime looks at the root file system. If a running container
//! shares the root file system, it can change it in between. A fixed runtime and libcontainer do not
//! have this race.
//! See openat2(2), fstatat(2).

use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use shim_sdk::{Program, spawn};

use crate::cgroup::remove;
use crate::error::{EngineError, Operation};
use crate::spec::SpecExcerpt;

/// The devices that a runtime creates or opens in every container.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "console"];

/// The time limit of `--version`.
const VERSION: Duration = Duration::from_secs(10);

/// A version: three numbers, and that of the release candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32, u32);

/// Not a candidate.
const RELEASED: u32 = u32::MAX;

/// `cgroupsPath`, if it is an absolute path. Other paths are relative to the runtime's own cgroup or
/// name a systemd slice.
pub(super) fn plain_cgroups_path(spec: &SpecExcerpt) -> Option<&Path> {
    spec.cgroups_path().filter(|path| remove::is_plain(path))
}

/// Refuses a bundle with a root file system by which this runtime would change files of the host.
pub(super) async fn check(
    operation: Operation,
    program: &Path,
    bundle: &Path,
    spec: &SpecExcerpt,
) -> Result<(), EngineError> {
    let Some(link) = link_to_host(bundle, spec) else { return Ok(()) };
    // The runtime is run for its version only if there is such a link, which is rare.
    let told = version_of(program).await?;
    if is_fixed(&told) {
        return Ok(());
    }
    let version = told.lines().next().unwrap_or("it does not tell its version").to_owned();
    let program = program.to_owned();
    Err(EngineError::LinkToHost { operation, link, program, version })
}

/// The first link in the root file system that a vulnerable runtime would follow on the host.
fn link_to_host(bundle: &Path, spec: &SpecExcerpt) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, bundle.join(spec.root_path()), flags, Mode::empty()).ok()?;
    if readlinkat(&root, "dev", Vec::new()).is_ok() {
        return Some("dev".to_owned());
    }
    if spec.has_mount_at(Path::new("/dev")) {
        return None;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let dev = match openat2(&root, "dev", flags, Mode::empty(), resolve) {
        Ok(dev) => dev,
        Err(Errno::NOENT | Errno::NOTDIR) => return None,
        // It was replaced since the check above.
        Err(_) => return Some("dev".to_owned()),
    };
    let is_link = |name: &&&str| {
        statat(&dev, **name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    };
    DEVICES.iter().find(is_link).map(|name| format!("dev/{name}"))
}

/// The output of the runtime's `--version`.
async fn version_of(program: &Path) -> Result<String, EngineError> {
    let failed =
        |cause: shim_sdk::Error| EngineError::Version { program: program.to_owned(), cause };
    let asked = Program::new(program).args(["--version"]).capture_stdout();
    let output = spawn(asked).await.map_err(failed)?.output(Some(VERSION)).await.map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this version is known to be fixed. An unknown runtime is not.
fn is_fixed(told: &str) -> bool {
    let Some(version) = told.strip_prefix("runc version ").and_then(Version::parse) else {
        return false;
    };
    match version {
        Version(0 | 1, 0..=3, ..) => version >= Version(1, 3, 6, RELEASED),
        Version(1, 4, ..) => version >= Version(1, 4, 3, RELEASED),
        _ => version >= Version(1, 5, 0, 3),
    }
}

impl Version {
    /// Reads `1.1.5+ds1` and `1.5.0-rc.3`, each to the end of the line.
    fn parse(text: &str) -> Option<Self> {
        let text = text.split_ascii_whitespace().next()?;
        let (text, _build) = text.split_once('+').unwrap_or((text, ""));
        let (numbers, candidate) = match text.split_once('-') {
            Some((numbers, candidate)) => {
                let digits = candidate.strip_prefix("rc").unwrap_or(candidate);
                (numbers, digits.trim_start_matches('.').parse().unwrap_or_default())
            }
            None => (text, RELEASED),
        };
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??, candidate))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn versions_that_are_mended_are_known() {
        for mended in ["1.3.6", "1.3.10", "1.4.3", "1.5.0-rc.3", "1.5.0", "2.0.0"] {
            assert!(is_fixed(&format!("runc version {mended}\ncommit: x\n")), "{mended}");
        }
        let others = ["1.1.5+ds1", "1.0.0-rc95", "1.3.5", "1.4.0", "1.4.2", "1.5.0-rc.2", "x", ""];
        for other in others {
            assert!(!is_fixed(&format!("runc version {other}\n")), "{other}");
        }
        assert!(!is_fixed("crun version 1.29.1\n"));
        assert!(!is_fixed(""));
    }

    fn link(mounts: &[&str], make: impl FnOnce(&Path)) -> Option<String> {
        let bundle = tempfile::tempdir().unwrap();
        let root = bundle.path().join("root");
        fs::create_dir(&root).unwrap();
        let mounts: Vec<_> =
            mounts.iter().map(|mount| serde_json::json!({"destination": mount})).collect();
        let spec = serde_json::json!({"root": {"path": "root"}, "mounts": mounts});
        fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
        make(&root);
        link_to_host(bundle.path(), &SpecExcerpt::read(bundle.path()).unwrap())
    }

    #[test]
    fn a_link_in_the_place_of_dev_or_of_a_device_is_found() {
        let dev_link = |root: &Path| symlink("/host", root.join("dev")).unwrap();
        assert_eq!(link(&["/dev"], dev_link).as_deref(), Some("dev"));
        let null_link = |root: &Path| {
            fs::create_dir(root.join("dev")).unwrap();
            symlink("/etc/shadow", root.join("dev/null")).unwrap();
            symlink("/proc/self/fd", root.join("dev/fd")).unwrap();
        };
        assert_eq!(link(&["/proc"], null_link).as_deref(), Some("dev/null"));
        assert_eq!(link(&["/proc", "/dev/"], null_link), None, "covered");
        assert_eq!(link(&[], |_| ()), None);
    }
}
