//! A task's directories and the small files in them that outlive this daemon.
//!
//! The bundle (`<state>/tasks/<namespace>/<id>`) is what the shim runs in, with containerd's names:
//! `config.json`, `rootfs`, `work`, `log`, `bootstrap.json`, `shim-binary-path`. `exit.json` is
//! ours: the exit of a task whose shim is gone. The work directory (`<root>/tasks/…`) is for what
//! a runtime wants to keep on disk.
//!
//! Nothing is synced: the state directory does not survive what a sync would guard against.
//! Promise: removal never descends into a mount.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use installer::remove::remove_tree;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use shim_sdk::journal::Journal;
use shim_sdk::{Bundle, ContainerId, Exit};

use super::error::TaskError;
use super::shim_client::bootstrap::Bootstrap;
use crate::metadata::Namespace;

/// Begins the name of a work directory whose task is gone. No id begins so.
const ORPHAN: &str = ".orphan-";

/// A task's directories.
#[derive(Debug, Clone)]
pub(super) struct Dirs {
    bundle: PathBuf,
    work: PathBuf,
}

/// The exit of a task whose shim is gone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Remains {
    version: u32,
    pub(super) pid: Option<u32>,
    pub(super) exit: Exit,
}

impl Remains {
    pub(super) fn new(pid: Option<u32>, exit: Exit) -> Self {
        Self { version: 1, pid, exit }
    }
}

impl Dirs {
    pub(super) fn of(root: &Path, state: &Path, namespace: &Namespace, id: &ContainerId) -> Self {
        let within = |base: &Path| base.join("tasks").join(namespace.as_str()).join(id.as_str());
        Self { bundle: within(state), work: within(root) }
    }

    pub(super) fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub(super) fn log(&self) -> PathBuf {
        self.bundle.join("log")
    }

    /// Makes the directories and the files that the shim wants to find. Blocks.
    pub(super) fn make(&self, spec: &[u8], shim: &Path) -> Result<(), TaskError> {
        // What is here without a task was left by a removal that failed.
        if self.bundle.exists() || self.work.exists() {
            self.remove()?;
        }
        for path in [&self.bundle, &self.work] {
            // The ones above can be passed, since a container in a user namespace must reach its
            // root file system. Only root can enter the task's own: what a container makes in its root
            // file system may be setuid root, and is not for the users of the host to run.
            let above = path.parent().unwrap_or(path);
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o711).create(above).map_err(failed("make", above))?;
            let mut builder = DirBuilder::new();
            builder.mode(0o700).create(path).map_err(failed("make directory", path))?;
        }
        if let Some(group) = mapped_group(spec) {
            self.let_in(group).map_err(failed("change owner and mode of", &self.bundle))?;
        }
        let rootfs = self.bundle.join("rootfs");
        DirBuilder::new().mode(0o711).create(&rootfs).map_err(failed("make directory", &rootfs))?;
        let work = self.bundle.join("work");
        std::os::unix::fs::symlink(&self.work, &work).map_err(failed("link", &work))?;
        let log = self.log();
        nix::unistd::mkfifo(&log, Mode::from_bits_truncate(0o600))
            .map_err(io::Error::from)
            .map_err(failed("make fifo", &log))?;
        self.write("config.json", spec)?;
        self.write("shim-binary-path", shim.as_os_str().as_encoded_bytes())
    }

    /// Lets the root group of a container's user namespace pass through the bundle.
    fn let_in(&self, group: u32) -> io::Result<()> {
        std::os::unix::fs::chown(&self.bundle, None, Some(group))?;
        fs::set_permissions(&self.bundle, fs::Permissions::from_mode(0o710))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TaskError> {
        let path = self.bundle.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(failed("write", &path))
    }

    /// Writes a file that a reader sees whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), TaskError> {
        let new = self.bundle.join(format!(".{name}"));
        let path = self.bundle.join(name);
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed("write", &path))
    }

    /// The OCI runtime spec that the task was made with.
    pub(super) fn spec(&self) -> Option<Vec<u8>> {
        fs::read(self.bundle.join("config.json")).ok()
    }

    /// Remembers where the shim listens, for the next daemon.
    pub(super) fn keep_bootstrap(&self, bootstrap: &Bootstrap) -> Result<(), TaskError> {
        self.replace("bootstrap.json", &bootstrap.to_json())
    }

    pub(super) fn bootstrap(&self) -> Option<Bootstrap> {
        Bootstrap::from_json(&fs::read(self.bundle.join("bootstrap.json")).ok()?).ok()
    }

    /// Whether something was written down of where the shim listens, readable or not.
    pub(super) fn has_bootstrap(&self) -> bool {
        fs::symlink_metadata(self.bundle.join("bootstrap.json")).is_ok()
    }

    /// The shim that this task was started with.
    pub(super) fn shim(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        let bytes = fs::read(self.bundle.join("shim-binary-path")).ok()?;
        Some(std::ffi::OsString::from_vec(bytes).into())
    }

    /// Remembers the exit of a task whose shim is gone.
    pub(super) fn keep_remains(&self, remains: Remains) -> Result<(), TaskError> {
        let json = serde_json::to_vec(&remains).map_err(io::Error::from);
        let json = json.map_err(failed("encode", &self.bundle))?;
        self.replace("exit.json", &json)
    }

    pub(super) fn remains(&self) -> Option<Remains> {
        serde_json::from_slice(&fs::read(self.bundle.join("exit.json")).ok()?).ok()
    }

    /// What the shim wrote down, if it is one that does.
    pub(super) fn journal(&self) -> Option<Journal> {
        Journal::read(&Bundle::new(&self.bundle)).unwrap_or_else(|error| {
            log::warn!("{error}: going on without it");
            None
        })
    }

    /// Removes everything; what is gone already is no error. Blocks.
    pub(super) fn remove(&self) -> Result<(), TaskError> {
        let rootfs = self.bundle.join("rootfs");
        // Removed as a directory and never as a tree: were it still mounted after this, the tree
        // would be the container's, or the host's.
        match fs::remove_dir(&rootfs) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                shim_sdk::mount::unmount_recursive(&rootfs)
                    .map_err(io::Error::other)
                    .and_then(|()| remove_places(&rootfs))
                    .map_err(failed("remove", &rootfs))?;
            }
            Err(cause) => return Err(failed("remove", &rootfs)(cause)),
        }
        for path in [&self.bundle, &self.work] {
            // What a shim, or a runtime, has put there may be of any depth.
            remove_tree(path).map_err(failed("remove", path))?;
        }
        Ok(())
    }
}

/// The host's group that a spec's user namespace maps its root group to, if it is another than the
/// host's own. What cannot be read is for the shim to refuse.
fn mapped_group(spec: &[u8]) -> Option<u32> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Linux {
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
    }
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    let mappings = spec.linux?.gid_mappings?;
    mappings.iter().find(|one| one.container == 0).map(|one| one.host).filter(|group| *group != 0)
}

/// Removes a root directory with nothing mounted on it. A create that was killed half way goes on
/// making places to mount on when its root is unmounted under it: directories and empty files. A
/// file that holds something is not of that kind, and stays.
fn remove_places(directory: &Path) -> io::Result<()> {
    // A destination may have thousands of levels: no recursion, and one directory open at a time.
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.last().cloned() {
        let known = waiting.len();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if !metadata.is_file() || metadata.len() == 0 {
                fs::remove_file(entry.path())?;
            }
        }
        if waiting.len() == known {
            fs::remove_dir(&path)?;
            waiting.pop();
        }
    }
    Ok(())
}

/// Every bundle under a state directory, by namespace and id; names that are neither are skipped.
pub(super) fn all(state: &Path) -> impl Iterator<Item = (Namespace, ContainerId)> {
    names(&state.join("tasks")).flat_map(|(namespace, path)| {
        let namespace = Namespace::new(&*namespace).ok();
        names(&path)
            .filter_map(move |(id, _)| Some((namespace.clone()?, ContainerId::new(id).ok()?)))
    })
}

/// The entries of a directory; none if there is no such directory.
fn names(path: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// Takes the work directories of tasks that have no bundle, such as those from before a reboot, out
/// of the way. They are the answer, under names that no task will have, for [`remove_orphans`].
pub(super) fn sweep_work(root: &Path, state: &Path) -> Vec<PathBuf> {
    let mut orphans = Vec::new();
    for (namespace, folder) in names(&root.join("tasks")) {
        let Ok(namespace) = Namespace::new(namespace) else { continue };
        for (name, path) in names(&folder) {
            if name.starts_with(ORPHAN) {
                orphans.push(path); // an earlier daemon had no time for it
                continue;
            }
            let Ok(id) = ContainerId::new(&*name) else { continue };
            if Dirs::of(root, state, &namespace, &id).bundle.exists() {
                continue;
            }
            let orphan = folder.join(format!("{ORPHAN}{name}"));
            match fs::rename(&path, &orphan) {
                Ok(()) => orphans.push(orphan),
                // One of that name, or a name that is too long: it goes at once.
                Err(_) => remove_orphans(&[path]),
            }
        }
    }
    orphans
}

/// Removes what [`sweep_work`] found, whatever size that is. Blocks.
pub(super) fn remove_orphans(orphans: &[PathBuf]) {
    for path in orphans {
        if let Err(error) = remove_tree(path) {
            log::warn!("sweep: remove {}: {error}", path.display());
        }
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TaskError + use<> {
    let path = path.to_owned();
    move |cause| TaskError::Bundle { attempt, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(place: &tempfile::TempDir) -> Dirs {
        let namespace = Namespace::new("default").unwrap();
        let id = ContainerId::new("web").unwrap();
        Dirs::of(&place.path().join("root"), &place.path().join("state"), &namespace, &id)
    }

    #[test]
    fn a_bundle_is_found_until_it_is_removed_with_its_work() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        let state = place.path().join("state");
        assert_eq!(all(&state).count(), 0);
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        assert_eq!(all(&state).next().unwrap().1.as_str(), "web");
        assert_eq!(dirs.shim().unwrap(), Path::new("/shim"));
        assert!(dirs.bundle().join("work").is_dir());
        dirs.remove().unwrap();
        assert_eq!(all(&state).count(), 0);
        assert!(!place.path().join("root/tasks/default/web").exists());
        dirs.remove().unwrap();
    }

    #[test]
    fn places_to_mount_on_are_removed_with_their_bundle() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        let rootfs = dirs.bundle().join("rootfs");
        fs::create_dir_all(rootfs.join("dev/shm")).unwrap();
        fs::write(rootfs.join("dev/null"), "").unwrap();
        // As deep as a destination can be, on a thread as they are.
        fs::create_dir_all((0..1900).fold(rootfs.clone(), |path, _| path.join("d"))).unwrap();
        fs::create_dir(rootfs.join("d/e")).unwrap();
        let removal = std::thread::Builder::new().stack_size(128 << 10);
        let removal = removal.spawn(move || dirs.remove()).unwrap();
        removal.join().unwrap().unwrap();
        assert!(!rootfs.exists());
    }

    #[test]
    fn a_root_file_system_that_holds_a_file_is_not_removed() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        let file = dirs.bundle().join("rootfs/precious");
        fs::write(&file, "held").unwrap();
        assert!(dirs.remove().is_err());
        assert!(file.exists());
    }

    #[test]
    fn a_bundle_lets_nobody_in_but_the_root_group_of_its_user_namespace() {
        use std::os::unix::fs::MetadataExt as _;
        // A setuid-root file made in a container was run by a user of the host, who reached it
        // through the bundle.
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        let seen = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.mode() & 0o7777, metadata.gid())
        };
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        assert_eq!(seen(dirs.bundle()), (0o700, 0));
        assert_eq!(seen(&dirs.work), (0o700, 0));
        assert_eq!(seen(dirs.bundle().parent().unwrap()).0, 0o711);
        let spec = br#"{"linux":{"gidMappings":[
            {"containerID":5,"hostID":5,"size":1},{"containerID":0,"hostID":100000,"size":5}]}}"#;
        dirs.make(spec, Path::new("/shim")).unwrap();
        assert_eq!(seen(dirs.bundle()), (0o710, 100_000));
        let own = br#"{"linux":{"gidMappings":[{"containerID":0,"hostID":0,"size":65536}]}}"#;
        dirs.make(own, Path::new("/shim")).unwrap();
        assert_eq!(seen(dirs.bundle()), (0o700, 0));
    }

    #[test]
    fn remains_are_read_back() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        assert_eq!(dirs.remains(), None);
        let remains = Remains::new(Some(7), Exit::now(42));
        dirs.keep_remains(remains).unwrap();
        assert_eq!(dirs.remains(), Some(remains));
    }

    #[test]
    fn work_without_a_bundle_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        let (root, state) = (place.path().join("root"), place.path().join("state"));
        assert!(sweep_work(&root, &state).is_empty());
        assert_eq!(all(&root).count(), 1);
        fs::remove_dir_all(&state).unwrap();
        let found = sweep_work(&root, &state);
        assert_eq!(all(&root).count(), 0);
        // The same id is free at once, and what is made then stays.
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        assert_eq!(sweep_work(&root, &state), found, "it is found again until it is removed");
        remove_orphans(&found);
        assert!(dirs.work.exists() && !found[0].exists());
    }

    #[test]
    fn work_that_a_removal_has_left_is_no_hindrance_and_may_be_deep() {
        let place = tempfile::tempdir().unwrap();
        let dirs = dirs(&place);
        let deep = (0..1500).fold(dirs.work.clone(), |path, _| path.join("d"));
        fs::create_dir_all(&deep).unwrap();
        // Deeper than any path reaches.
        fs::create_dir_all(dirs.work.join("e")).unwrap();
        fs::rename(dirs.work.join("d"), dirs.work.join("e/d")).unwrap();
        let below = (0..1500).fold(dirs.work.clone(), |path, _| path.join("f"));
        fs::create_dir_all(&below).unwrap();
        fs::rename(dirs.work.join("e"), below.join("e")).unwrap();
        dirs.make(b"{}", Path::new("/shim")).unwrap();
        assert_eq!(fs::read_dir(&dirs.work).unwrap().count(), 0);
    }
}
