//! Removes groups, and finds those of a container whose making was cut off.
//!
//! A runtime that is killed before it has written its record leaves groups, and perhaps a process
//! in them, that no runtime knows of afterwards. What the container was about to make was written
//! down before (`record`); a bundle of an earlier version has the spec alone.
//!
//! Promise: nothing but what the container has made is touched, or in a bundle of an earlier version
//! the group that is named after the container; and no group that this very process is in.
//!
//! See the OCI runtime specification (linux.cgroupsPath), cgroups(7).

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use shim_sdk::ContainerId;
use shim_sdk::bundle::MAX_SPEC_BYTES;
use shim_sdk::file::read_regular;

use super::directory::kill_and_remove;
use super::hierarchy::{Hierarchies, TABLE};
use super::record::{self, Ending, Made};
use super::{PATIENCE, Pauses, below};
use crate::engine::INIT_PID_FILE;
use crate::error::{EngineError, SystemCall};
use crate::spec::SpecExcerpt;

/// Kills and removes what is in the groups of the container of a bundle, whatever its runtime knows
/// of it.
pub(crate) async fn remains(bundle: &Path, id: &ContainerId) -> Result<(), EngineError> {
    let file = bundle.join(record::FILE);
    let has_init = bundle.join(INIT_PID_FILE).exists();
    match Made::read(&file) {
        // Without a recorded init the create was cut off. Only the groups tell which processes are
        // the container's, so they are killed there.
        Some(made) => end(&made, &file, !(has_init && made.ends_with_init)).await,
        None if has_init => remains_by_name(bundle, id).await,
        // Nothing was made yet.
        None => Ok(()),
    }
}

/// Kills and removes what a container has made: the empty groups, then, if `kills`, its processes in
/// the others. Groups in which others' processes stay are left to them. `file` is the container's own.
pub(crate) async fn end(made: &Made, file: &Path, kills: bool) -> Result<(), EngineError> {
    let mut ending = Ending::new(made, file, None, kills);
    for pause in Pauses::default() {
        if ending.is_over() {
            break;
        }
        tokio::time::sleep(pause).await;
        ending.round();
    }
    ending.finish().map_err(|cause| EngineError::system(SystemCall::RemoveCgroups, cause))
}

/// Where the groups of this path are, or would be.
pub(crate) fn everywhere(path: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let hierarchies = Hierarchies::read();
    let hierarchies = hierarchies.map_err(|cause| EngineError::file("read", TABLE, cause))?;
    Ok(hierarchies.trees().map(|tree| below(tree, path)).collect())
}

/// The same for a bundle of an earlier version, or of containerd's own shim. Without a spec, or one
/// that names no group plainly, there is nothing to go by.
async fn remains_by_name(bundle: &Path, id: &ContainerId) -> Result<(), EngineError> {
    let file = bundle.join("config.json");
    let spec = match read_regular(&file, MAX_SPEC_BYTES) {
        Ok(bytes) => serde_json::from_slice::<SpecExcerpt>(&bytes).unwrap_or_default(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(EngineError::file("read", file, cause)),
    };
    let Some(path) = spec.cgroups_path().filter(|path| is_named_after(path, id.as_str())) else {
        return Ok(());
    };
    let groups = everywhere(path)?;
    let began = Instant::now();
    for pause in Pauses::default() {
        let (mut refusal, mut found) = (None, false);
        for group in &groups {
            match kill_and_remove(group) {
                Ok(existed) => found |= existed,
                Err(cause) => {
                    let call = SystemCall::Rmdir { group: group.clone() };
                    refusal = Some(EngineError::system(call, cause));
                }
            }
        }
        // A process that creates groups joins each of them, so it is found there. Groups that it
        // created since we looked take another round.
        match refusal {
            None if !found => break,
            Some(error) if began.elapsed() > PATIENCE => return Err(error),
            None | Some(_) => tokio::time::sleep(pause).await,
        }
    }
    Ok(())
}

/// Whether a path says plainly which group is meant: a whole path from the root. Others are relative to
/// wherever the runtime ran.
pub(crate) fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.file_name().is_some()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Whether it says that the group is this container's: it ends with the id.
fn is_named_after(path: &Path, id: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let own = name.strip_suffix(id).is_some_and(|rest| !rest.ends_with(char::is_alphanumeric));
    is_plain(path) && own
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command};

    use super::*;
    use crate::cgroup::directory::remove_group;
    use crate::cgroup::write;

    #[test]
    fn only_a_group_that_bears_the_containers_id_is_its_own() {
        for own in ["/ns/c1", "/c1", "/kubepods/pod-7/cri-c1", "/x/libpod-c1"] {
            assert!(is_named_after(Path::new(own), "c1"), "{own}");
        }
        for other in ["/", "", "c1", "/ns/xc1", "/ns/c1/sub", "/ns/../c1", "system.slice:cri:c1"] {
            assert!(!is_named_after(Path::new(other), "c1"), "{other}");
        }
    }

    /// A bundle for which groups are about to be made, or were made by an earlier version; its spec names
    /// a group of ours, with a process in it in every hierarchy.
    struct Abandoned {
        bundle: tempfile::TempDir,
        id: ContainerId,
        groups: Vec<PathBuf>,
        parent: String,
        process: Child,
    }

    impl Abandoned {
        fn new(name: &str, by_earlier_version: bool) -> Self {
            let id = ContainerId::new(name).unwrap();
            let parent = format!("/shim-runc-remains-{}-{name}", std::process::id());
            let bundle = tempfile::tempdir().unwrap();
            let spec = serde_json::json!({"linux": {"cgroupsPath": format!("{parent}/{name}")}});
            fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
            let mut process = Command::new("sleep").arg("100").spawn().unwrap();
            let hierarchies = Hierarchies::read().unwrap();
            if by_earlier_version {
                fs::write(bundle.path().join(INIT_PID_FILE), "0").unwrap();
            } else {
                let path = Path::new(&parent).join(name);
                let made = Made::plan(&path, bundle.path(), everywhere(&path).unwrap(), true);
                made.write(&bundle.path().join(record::FILE)).unwrap();
            }
            let groups: Vec<_> = hierarchies
                .trees()
                .map(|tree| below(tree, &parent).join(name).join("inner"))
                .collect();
            for group in &groups {
                fs::create_dir_all(group).unwrap();
                // A cpuset without a processor takes no process; its parent's processors will do.
                if write(&group.join("cgroup.procs"), process.id()).is_err() {
                    assert!(group.join("cpuset.cpus").exists(), "{}", group.display());
                }
            }
            assert!(process.try_wait().unwrap().is_none());
            Self { bundle, id, groups, parent, process }
        }
    }

    impl Drop for Abandoned {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            for tree in Hierarchies::read().unwrap().trees() {
                let _ = remove_group(&below(tree, &self.parent));
            }
        }
    }

    #[tokio::test]
    async fn a_create_that_was_cut_off_leaves_no_group_and_no_process() {
        // containerd kills a shim whose Create takes too long; the groups that runc had made by
        // then stayed on the host for good.
        for by_earlier_version in [false, true] {
            let mut left = Abandoned::new("c1", by_earlier_version);
            remains(left.bundle.path(), &left.id).await.unwrap();
            assert!(!left.process.wait().unwrap().success(), "it was killed");
            for group in &left.groups {
                let own = group.parent().unwrap();
                assert!(!own.exists(), "{}", own.display());
                assert!(own.parent().unwrap().exists(), "the parent may be shared");
            }
        }
    }

    #[tokio::test]
    async fn the_group_of_another_container_is_left_alone() {
        let mut left = Abandoned::new("c2", true);
        let other = ContainerId::new("2").unwrap();
        remains(left.bundle.path(), &other).await.unwrap();
        assert!(left.process.try_wait().unwrap().is_none(), "it lives");
        assert!(left.groups.iter().all(|group| group.exists()));
    }

    #[tokio::test]
    async fn without_a_spec_there_is_nothing_to_remove() {
        let bundle = tempfile::tempdir().unwrap();
        let id = ContainerId::new("c3").unwrap();
        remains(bundle.path(), &id).await.unwrap();
        fs::write(bundle.path().join("config.json"), "not json").unwrap();
        remains(bundle.path(), &id).await.unwrap();
    }
}
