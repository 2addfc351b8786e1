//! The root file system of a container that is not started yet, read without mounting it.
//!
//! Where its layers are comes from the Snapshots API's mounts: the source of a bind mount, or
//! `lowerdir=` of an overlay. A client that runs as root on the daemon's machine may open those, as
//! containerd's Go client mounts them at a temporary directory to read `/etc/passwd`
//! (`oci.WithUser`). [`Merged`] opens them by descriptor, so that `run` needs no mount. The upper
//! directory is not read: the snapshot is new, so it is empty.
//! Not here: the daemon's directories; the command line does not know them.

use std::path::PathBuf;

use installer::layer::merged::Merged;
use protos::grpc::containerd::types;
use shim_sdk::mount::split_lowerdir;

use super::error::CliError;

/// The first kernel whose overlayfs has volatile mounts.
const VOLATILE_SINCE: (u32, u32) = (5, 10);

/// Opens the layers that a snapshot's mounts name. `None` where the mounts have another form, which
/// cannot be read without mounting.
pub(crate) fn open(mounts: &[types::Mount]) -> Result<Option<Merged>, CliError> {
    layers(mounts)
        .map(|layers| {
            Merged::open(&layers).map_err(|cause| CliError::io("open the image's layers", cause))
        })
        .transpose()
}

/// The layers' directories, the uppermost first.
fn layers(mounts: &[types::Mount]) -> Option<Vec<PathBuf>> {
    let [mount] = mounts else { return None };
    match mount.r#type.as_str() {
        "bind" => Some(vec![mount.source.clone().into()]),
        "overlay" => {
            let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
            let directories = split_lowerdir(lower).into_iter();
            Some(directories.filter(|directory| !directory.as_os_str().is_empty()).collect())
        }
        _ => None,
    }
}

/// Lets a root file system that will be removed with its container be unmounted without first
/// writing back everything that the host's file system has in memory, which can take longer than
/// the container ran. Such an upper directory cannot be mounted a second time.
pub(crate) fn make_volatile(mounts: &mut [types::Mount]) {
    let is_known = nix::sys::utsname::uname()
        .is_ok_and(|host| version(&host.release().to_string_lossy()) >= VOLATILE_SINCE);
    for mount in mounts {
        let writable = mount.options.iter().any(|option| option.starts_with("upperdir="));
        if is_known && mount.r#type == "overlay" && writable {
            mount.options.push("volatile".to_owned());
        }
    }
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> types::Mount {
        types::Mount {
            r#type: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn releases_of_kernels_are_compared_by_number() {
        assert_eq!(version("6.18.3-cloud-amd64"), (6, 18));
        assert!(version("5.9.16") < VOLATILE_SINCE && version("5.10.0-1") >= VOLATILE_SINCE);
        assert_eq!(version("unknown"), (0, 0));
    }

    #[test]
    fn layers_are_read_from_overlays_and_binds() {
        let overlay =
            mount("overlay", "overlay", &["index=off", "lowerdir=/a:/b\\:c", "upperdir=/u"]);
        assert_eq!(layers(&[overlay]).unwrap(), [PathBuf::from("/a"), PathBuf::from("/b:c")]);
        let bind = mount("bind", "/a", &["rbind", "rw"]);
        assert_eq!(layers(&[bind]).unwrap(), [PathBuf::from("/a")]);
        assert!(layers(&[mount("erofs", "/x", &[])]).is_none());
        assert!(layers(&[]).is_none());
    }
}
