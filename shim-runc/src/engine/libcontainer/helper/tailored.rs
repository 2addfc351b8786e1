//! The spec as libcontainer gets it: what it does well is left in, the rest is ours.
//!
//! It differs in this:
//!
//! - the process is root with every capability, and unconfined ([`Identity`] makes up for it);
//! - paths are absolute, the cgroups' too, without which libcontainer would ask systemd;
//! - hooks that run before the create is over get the true bundle's path ([`super::hook`]), since
//!   the state that libcontainer hands them names the second directory, if there is one.
//!
//! libcontainer's builder reads `config.json` from a bundle's directory and nowhere else. So for
//! the time of a create that is left to it there is a second directory, beside the records.
//!
//! Promise: dropped, the directory is gone; what a killed helper left is removed with the
//! container's record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDeviceCgroupBuilder, LinuxSeccomp, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, Process, Spec, UserBuilder,
};

use super::super::wire::{Failure, Reason};
use super::container::{SPEC, failure};
use super::identity::Identity;
use super::{check, hook};

/// libcontainer looks for the home directory of a process that has none in its environment, by what
/// the container's files make of libc. The executor knows better, and takes nothing from there.
const SOME_HOME: &str = "HOME=/";

/// The spec for libcontainer, and who its process is to become.
pub(super) fn tailored(
    root: &Path,
    id: &str,
    bundle: &Path,
    mut spec: Spec,
) -> Result<(Spec, Identity), Failure> {
    check::spec(&spec)?;
    let identity = Identity::of_init(root, &spec)?;
    tailor(&mut spec, id, bundle)?;
    Ok((spec, identity))
}

/// A bundle for libcontainer's eyes.
pub(super) struct Tailored {
    directory: PathBuf,
}

impl Tailored {
    /// Writes a spec that is tailored already.
    pub(super) fn new(root: &Path, id: &str, spec: &Spec) -> Result<Self, Failure> {
        let tailored = Self { directory: directory(root, id) };
        let write = || {
            match fs::create_dir(&tailored.directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            fs::write(tailored.directory.join(SPEC), serde_json::to_vec(spec)?)
        };
        write().map_err(|error| {
            let path = tailored.directory.display();
            Failure::new(Reason::Other, format!("write the spec in {path}: {error}"))
        })?;
        Ok(tailored)
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Tailored {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes what a killed helper left of a create.
pub(super) fn clean_up(root: &Path, id: &str) {
    remove(&directory(root, id));
}

fn remove(directory: &Path) {
    // Nothing else is in there; a failure leaves a file that the next create overwrites.
    let _ = fs::remove_file(directory.join(SPEC));
    let _ = fs::remove_dir(directory);
}

/// No container's id begins with a dot.
fn directory(root: &Path, id: &str) -> PathBuf {
    root.join(format!(".creating-{id}"))
}

fn tailor(spec: &mut Spec, id: &str, bundle: &Path) -> Result<(), Failure> {
    if let Some(mut process) = spec.process().clone() {
        let environment = process.env().clone();
        plain(&mut process)?;
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
        if hooks.is_some_and(|hooks| !hooks.is_empty()) {
            // Those that have no environment of their own are run with the process's.
            process.set_env(environment);
        }
        spec.set_process(Some(process));
    }
    if let Some(mut root) = spec.root().clone() {
        root.set_path(bundle.join(root.path()));
        spec.set_root(Some(root));
    }
    if let Some(mut linux) = spec.linux().clone() {
        linux.set_cgroups_path(Some(group(linux.cgroups_path().as_deref(), id)));
        // A listener for the profile's notifications is libcontainer's to inform.
        let notifies = linux.seccomp().clone().filter(libcontainer::seccomp::is_notify);
        linux.set_seccomp(notifies.map(with_masks_as_libcontainer_reads_them));
        plain_words(&mut linux)?;
        spec.set_linux(Some(linux));
    }
    if let Some(mut mounts) = spec.mounts().clone() {
        for mount in mounts.iter_mut().filter(|mount| mount.source().is_none()) {
            // A file system that has no source is still to be given one.
            let kind = mount.typ().clone().unwrap_or_else(|| "none".to_owned());
            mount.set_source(Some(kind.into()));
        }
        spec.set_mounts(Some(mounts));
    }
    if let Some(mut hooks) = spec.hooks().clone() {
        let has_proc =
            spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("proc"));
        wrap(&mut hooks, bundle, has_proc)?;
        spec.set_hooks(Some(hooks));
    }
    Ok(())
}

/// Leaves to libcontainer what it does well: everything but who the process is.
fn plain(process: &mut Process) -> Result<(), Failure> {
    let mut user = UserBuilder::default().uid(0u32).gid(0u32);
    if let Some(umask) = process.user().umask() {
        user = user.umask(umask);
    }
    let user = user.build().map_err(|error| failure(Reason::InvalidRequest, &error))?;
    process.set_user(user);
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    process.set_env(Some(vec![SOME_HOME.to_owned()]));
    // Gone into by the process itself, which makes it where it is missing.
    process.set_cwd("/".into());
    if process.apparmor_profile().as_deref() == Some("") {
        process.set_apparmor_profile(None);
    }
    process.set_selinux_label(None);
    Ok(())
}

/// Where a container's cgroups are, in each hierarchy.
pub(super) fn group(asked: Option<&Path>, id: &str) -> PathBuf {
    Path::new("/").join(asked.unwrap_or(Path::new(id)))
}

/// Says in libcontainer's words what runc takes in others: no label where it is empty, propagation
/// without the `r`, which it has either way; and that devices are denied where no rule says so.
fn plain_words(linux: &mut Linux) -> Result<(), Failure> {
    if linux.mount_label().as_deref() == Some("") {
        linux.set_mount_label(None);
    }
    if let Some(asked) = linux.rootfs_propagation().as_deref()
        && let Some(kind) = asked.strip_prefix('r')
    {
        linux.set_rootfs_propagation(Some(kind.to_owned()));
    }
    // Init's own to arrange.
    linux.set_readonly_paths(None);
    let mut resources = linux.resources().clone().unwrap_or_default();
    if resources.devices().as_ref().is_none_or(Vec::is_empty) {
        let none = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .map_err(|error| failure(Reason::InvalidRequest, &error))?;
        resources.set_devices(Some(vec![none]));
        linux.set_resources(Some(resources.clone()));
    }
    // Set afterwards, see `corrections`: libcontainer's own number is another, or none.
    if check::is_unified()
        && let Some(mut block_io) = resources.block_io().clone()
    {
        block_io.set_weight(None);
        block_io.set_weight_device(None);
        resources.set_block_io(Some(block_io));
        linux.set_resources(Some(resources));
    }
    Ok(())
}

/// Lets the hooks of a create learn the bundle's true path. The later ones read it in the record.
fn wrap(hooks: &mut Hooks, bundle: &Path, has_proc: bool) -> Result<(), Failure> {
    let all = |list: &Option<Vec<Hook>>, status: Option<&str>| {
        list.as_ref()
            .map(|list| list.iter().map(|one| hook::wrapped(one, bundle, status)).collect())
            .transpose()
            .map_err(|error| failure(Reason::InvalidRequest, &error))
    };
    #[allow(deprecated)] // still in use, and still to be run
    let prestart = all(hooks.prestart(), None)?;
    #[allow(deprecated)]
    hooks.set_prestart(prestart);
    let create_runtime = all(hooks.create_runtime(), None)?;
    hooks.set_create_runtime(create_runtime);
    let create_container = all(hooks.create_container(), None)?;
    hooks.set_create_container(create_container);
    if has_proc {
        let start_container = all(hooks.start_container(), Some("created"))?;
        hooks.set_start_container(start_container);
    }
    Ok(())
}

/// libcontainer exchanges the mask and the value of a masked comparison; exchanged before, they
/// come out right.
fn with_masks_as_libcontainer_reads_them(mut profile: LinuxSeccomp) -> LinuxSeccomp {
    let syscalls = profile.syscalls().clone().map(|mut syscalls| {
        for syscall in &mut syscalls {
            let arguments =
                syscall.args().as_ref().map(|list| list.iter().map(exchanged).collect());
            syscall.set_args(arguments);
        }
        syscalls
    });
    profile.set_syscalls(syscalls);
    profile
}

fn exchanged(argument: &LinuxSeccompArg) -> LinuxSeccompArg {
    if argument.op() != LinuxSeccompOperator::ScmpCmpMaskedEq {
        return *argument;
    }
    LinuxSeccompArgBuilder::default()
        .index(argument.index())
        .value(argument.value_two().unwrap_or(0))
        .value_two(argument.value())
        .op(argument.op())
        .build()
        // Every field is set, which is all that the builder checks.
        .unwrap_or(*argument)
}
