//! The root file system of a container, built by descriptor.
//!
//! ```text
//!   host's tree ─> root bound ─> mounts ─> /dev ─> hooks ─> pivot ─> cwd, settings ─> read-only, masks
//!                  (pivot)       (mounts,  (nodes,                   (protect)        (protect)
//!                                 groups)   console)
//! ```
//!
//! libcontainer resolves paths of the image on the host, before the image is the root. A link in the image,
//! or a container that shares a volume, can lead it to any file. Here every path is resolved with the
//! image as root, and its descriptor is held until all steps that depend on it are done.
//!
//! Promise: the content of the root cannot make this code change a file outside of it, also if
//! [`RootFs::enter`] fails. Paths that must be read-only or masked are so, or the container is not created.
//! Runs in the container's init, after clone. Not here: namespaces, and the process (`init_process`).
//! See the OCI runtime specification, config.md and config-linux.md; mount_namespaces(7).

mod cgroup_mount;
mod console;
mod copy_up;
mod device_nodes;
mod mounts;
mod options;
mod pivot;
mod protect;
mod sysctl;
mod tree;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, makedev};
use rustix::io::Errno;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};

use self::cgroup_mount::CgroupMounts;
use self::device_nodes::Node;
use self::mounts::{Mount, Mounts, What, set};
use self::options::Change;
use self::pivot::Propagation;
use self::sysctl::Settings;
use super::super::wire::{Failure, Reason};
use super::failure::failed;
use crate::cgroup::hierarchy::Hierarchies;

pub(super) use self::console::{Terminal, open_terminal};

/// The root file system that a spec describes.
#[derive(Debug)]
pub(super) struct RootFs {
    path: PathBuf,
    pivot: bool,
    propagation: Propagation,
    mounts: Vec<Mount>,
    groups: Option<CgroupMounts>,
    nodes: Vec<Node>,
    /// Bind the host's nodes: in a user namespace none can be made.
    bind_nodes: bool,
    cwd: Option<PathBuf>,
    settings: Settings,
    read_only: bool,
    read_only_paths: Vec<PathBuf>,
    masked_paths: Vec<PathBuf>,
    /// Procfs of a pid namespace that this process is not in, opened by another process.
    procfs: RefCell<Vec<OwnedFd>>,
}

impl RootFs {
    /// Reads it from a spec. `group` is the path of the container's control groups in each of these
    /// hierarchies.
    pub(super) fn of(
        spec: &Spec,
        bundle: &Path,
        no_pivot_root: bool,
        group: &Path,
        hierarchies: &Hierarchies,
    ) -> Result<Self, Failure> {
        let invalid = |message: &str| Failure::new(Reason::InvalidRequest, message);
        let root = spec.root().as_ref().ok_or_else(|| invalid("the spec has no root"))?;
        if root.path().as_os_str().is_empty() {
            // An empty path would name the bundle.
            return Err(invalid("root.path is empty"));
        }
        let linux =
            spec.linux().as_ref().ok_or_else(|| invalid("the spec has no linux section"))?;
        let has =
            |kind| linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
        let mounts = spec.mounts().iter().flatten().map(|mount| Mount::of(mount, bundle));
        let mounts: Vec<_> = mounts.collect::<Result<_, _>>()?;
        let shows_groups = mounts.iter().any(|mount| mount.what == What::Groups);
        let namespace = has(LinuxNamespaceType::Cgroup);
        let groups = shows_groups.then(|| CgroupMounts::of(group, namespace, hierarchies));
        let paths = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(PathBuf::from).collect::<Vec<_>>()
        };
        Ok(Self {
            path: bundle.join(root.path()),
            pivot: !no_pivot_root,
            propagation: Propagation::of(linux.rootfs_propagation().as_deref())?,
            mounts,
            groups,
            nodes: device_nodes::of(linux.devices().as_deref().unwrap_or_default())?,
            bind_nodes: has(LinuxNamespaceType::User),
            cwd: spec.process().as_ref().map(|process| process.cwd().clone()),
            settings: Settings::of(linux)?,
            read_only: root.readonly().unwrap_or(false),
            read_only_paths: paths(linux.readonly_paths()),
            masked_paths: paths(linux.masked_paths()),
            procfs: RefCell::default(),
        })
    }

    /// The number of mounts of procfs.
    pub(super) fn count_procfs(&self) -> usize {
        let is_procfs =
            |mount: &&Mount| matches!(&mount.what, What::FileSystem { kind, .. } if kind == "proc");
        self.mounts.iter().filter(is_procfs).count()
    }

    /// Takes procfs that was opened by another process, one descriptor for each mount.
    pub(super) fn take_procfs(&self, opened: Vec<OwnedFd>) {
        self.procfs.replace(opened);
    }

    /// Builds the root and enters it. Called in the container's init, in its mount namespace, which still
    /// shows the host, with all capabilities. When it returns, `/` and the
    /// working directory are the container's root and nothing that it opened leads to the host.
    /// `before_pivot` runs when the mounts are made and the host's root is still the root.
    pub(super) fn enter(
        &self,
        before_pivot: impl FnOnce() -> Result<(), Failure>,
        console: bool,
    ) -> Result<Option<Terminal>, Failure> {
        let mask = rustix::process::umask(Mode::empty());
        let entered = self.build(before_pivot, mask, console);
        rustix::process::umask(mask);
        entered
    }

    fn build(
        &self,
        before_pivot: impl FnOnce() -> Result<(), Failure>,
        mask: Mode,
        console: bool,
    ) -> Result<Option<Terminal>, Failure> {
        let tree = pivot::prepare(&self.path, self.propagation)?;
        let mut mounts =
            Mounts::new(tree).map_err(|error| failed("look at the root file system", &error))?;
        mounts.procfs = self.procfs.take();
        for mount in &self.mounts {
            match &self.groups {
                Some(groups) if mount.what == What::Groups => groups.show(&mut mounts, mount)?,
                _ => mounts.make(mount)?,
            }
        }
        let dev = device_nodes::own_dev(&mounts)?;
        if let Some(dev) = &dev {
            device_nodes::set_up(&mounts, dev, &self.nodes, self.bind_nodes)?;
        }
        let spare = match &dev {
            Some(_) => None,
            None => protect::hosts_null_device(),
        };
        // Hooks make files with the umask of the process.
        rustix::process::umask(mask);
        before_pivot()?;
        rustix::process::umask(Mode::empty());
        pivot::enter(&mounts.tree, self.pivot)?;
        mounts.forget_host();
        let terminal = console.then(|| self.terminal(&mounts, dev.as_ref())).transpose()?;
        if dev.is_some() {
            adopt_null_device(&mounts)?;
        }
        if let Some(cwd) = &self.cwd {
            make_cwd(&mounts, cwd)?;
        }
        self.settings.write()?;
        mounts.finish()?;
        if self.read_only {
            set(mounts.tree.root(), false, Change::READ_ONLY)
                .map_err(|error| failed("make the root read-only", &error))?;
        }
        protect::make_read_only(&mounts, &self.read_only_paths)?;
        protect::mask(&mounts, &self.masked_paths, spare)?;
        pivot::finish(&mounts.tree, self.propagation)?;
        Ok(terminal)
    }

    fn terminal(&self, mounts: &Mounts, dev: Option<&OwnedFd>) -> Result<Terminal, Failure> {
        let terminal = open_terminal(mounts.tree.root())?;
        match dev {
            Some(dev) => console::bind(&terminal, dev, true)?,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let dev = mounts.tree.open(Path::new("/dev"), flags);
                let dev = dev.map_err(|error| failed("open /dev", &error))?;
                console::bind(&terminal, &dev, false)?;
            }
        }
        Ok(terminal)
    }
}

/// Makes the working directory if it does not exist, as runc does.
fn make_cwd(mounts: &Mounts, cwd: &Path) -> Result<(), Failure> {
    match mounts.tree.directory(cwd, |_| Ok(())) {
        // If it is no directory, the later chdir reports it.
        Ok(_) | Err(Errno::NOTDIR) => Ok(()),
        Err(error) => Err(failed(&format!("make the cwd {}", cwd.display()), &error)),
    }
}

/// Replaces standard streams that are the host's null device by the container's null device.
fn adopt_null_device(mounts: &Mounts) -> Result<(), Failure> {
    let of = |error: Errno| failed("open the container's /dev/null", &error);
    let is_null = |fd: &dyn AsFd| {
        fstat(fd.as_fd()).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && stat.st_rdev == makedev(1, 3)
        })
    };
    let (stdin, stdout, stderr) = (stdin(), stdout(), stderr());
    let null = [is_null(&stdin), is_null(&stdout), is_null(&stderr)];
    if null == [false; 3] {
        return Ok(());
    }
    let path = Path::new("/dev/null");
    // Checked before it is opened: opening another device may have an effect.
    let place = mounts.tree.open(path, OFlags::PATH).map_err(of)?;
    if !is_null(&place) {
        let message = "the container's /dev/null is not the null device";
        return Err(Failure::new(Reason::RootFilesystem, message));
    }
    let open = |flags| match mounts.tree.open(path, flags | OFlags::NONBLOCK) {
        Ok(fd) if is_null(&fd) => Ok(fd),
        Ok(_) => Err(of(Errno::STALE)),
        Err(error) => Err(of(error)),
    };
    let fd = open(OFlags::RDWR)?;
    let flags = fcntl_getfl(&fd).map_err(of)? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&fd, flags).map_err(of)?;
    let [first, second, third] = null;
    let done = (|| {
        if first {
            dup2_stdin(&fd)?;
        }
        if second {
            dup2_stdout(&fd)?;
        }
        if third {
            dup2_stderr(&fd)?;
        }
        Ok(())
    })();
    done.map_err(of)
}
