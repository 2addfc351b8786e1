//! The spec as libcontainer gets it: what it does well is left in, the rest is ours.
//!
//! libcontainer reads `config.json` from a bundle's directory and nowhere else. So for the time of
//! a create there is a second directory, beside the records, with a spec that differs in this:
//!
//! - the process is root with every capability, and unconfined ([`Identity`] makes up for it);
//! - paths are absolute, the cgroups' too, without which libcontainer would ask systemd;
//! - hooks that run before the create is over get the true bundle's path ([`super::hook`]), since
//!   the state that libcontainer hands them names the second directory.
//!
//! Promise: dropped, the directory is gone; what a killed helper left is removed with the
//! container's record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    Hook, Hooks, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, Spec,
};

use super::super::wire::{Failure, Reason};
use super::container::failure;
use super::identity::{self, Identity};
use super::{cgroup, hook};

/// A bundle for libcontainer's eyes.
pub(super) struct Tailored {
    directory: PathBuf,
}

impl Tailored {
    /// Writes the spec for libcontainer, and tells who its process is to become.
    pub(super) fn new(
        root: &Path,
        id: &str,
        bundle: &Path,
        mut spec: Spec,
    ) -> Result<(Self, Identity), Failure> {
        check(&spec)?;
        let identity = Identity::of_init(root, &spec)?;
        tailor(&mut spec, id, bundle)?;
        let tailored = Self { directory: directory(root, id) };
        let write = || {
            match fs::create_dir(&tailored.directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            fs::write(tailored.directory.join("config.json"), serde_json::to_vec(&spec)?)
        };
        write().map_err(|error| {
            let path = tailored.directory.display();
            Failure::new(Reason::Other, format!("write the spec in {path}: {error}"))
        })?;
        Ok((tailored, identity))
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
    let _ = fs::remove_file(directory.join("config.json"));
    let _ = fs::remove_dir(directory);
}

/// No container's id begins with a dot.
fn directory(root: &Path, id: &str) -> PathBuf {
    root.join(format!(".creating-{id}"))
}

/// Refuses what libcontainer would take and should not.
fn check(spec: &Spec) -> Result<(), Failure> {
    let invalid = |message: String| Err(Failure::new(Reason::InvalidRequest, message));
    let Some(linux) = spec.linux() else {
        return invalid("the spec has no linux section".to_owned());
    };
    if let Some(path) = linux.cgroups_path()
        && !cgroup::is_safe(path)
    {
        return invalid(format!("cgroupsPath {:?} is not below the root", path.display()));
    }
    let process = spec.process().as_ref().and_then(|process| process.selinux_label().as_ref());
    if let Some(label) = process.or(linux.mount_label().as_ref()).filter(|label| !label.is_empty())
    {
        // It would be ignored, and the container less confined than it was to be.
        return Err(Failure::new(
            Reason::Unsupported,
            format!("SELinux label {label:?}: this engine knows no SELinux"),
        ));
    }
    Ok(())
}

fn tailor(spec: &mut Spec, id: &str, bundle: &Path) -> Result<(), Failure> {
    if let Some(mut process) = spec.process().clone() {
        identity::plain(&mut process)?;
        spec.set_process(Some(process));
    }
    if let Some(mut root) = spec.root().clone() {
        root.set_path(bundle.join(root.path()));
        spec.set_root(Some(root));
    }
    if let Some(mut linux) = spec.linux().clone() {
        let path = linux.cgroups_path().clone().unwrap_or_else(|| id.into());
        linux.set_cgroups_path(Some(Path::new("/").join(path)));
        // A listener for the profile's notifications is libcontainer's to inform.
        let notifies = linux.seccomp().clone().filter(libcontainer::seccomp::is_notify);
        linux.set_seccomp(notifies.map(with_masks_as_libcontainer_reads_them));
        spec.set_linux(Some(linux));
    }
    if let Some(mut hooks) = spec.hooks().clone() {
        let has_proc =
            spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("proc"));
        wrap(&mut hooks, bundle, has_proc)?;
        spec.set_hooks(Some(hooks));
    }
    Ok(())
}

/// Lets the hooks of a create learn the bundle's true path. The later ones read it in the record.
fn wrap(hooks: &mut Hooks, bundle: &Path, has_proc: bool) -> Result<(), Failure> {
    let all = |list: &Option<Vec<Hook>>| {
        list.as_ref()
            .map(|list| list.iter().map(|one| hook::wrapped(one, bundle)).collect())
            .transpose()
            .map_err(|error| failure(Reason::InvalidRequest, &error))
    };
    #[allow(deprecated)] // still in use, and still to be run
    let prestart = all(hooks.prestart())?;
    #[allow(deprecated)]
    hooks.set_prestart(prestart);
    let create_runtime = all(hooks.create_runtime())?;
    hooks.set_create_runtime(create_runtime);
    let create_container = all(hooks.create_container())?;
    hooks.set_create_container(create_container);
    if has_proc {
        let start_container = all(hooks.start_container())?;
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
