//! Steps on containers that several commands share.

use std::path::PathBuf;

use protos::grpc::containerd::services::containers::v1::{
    Container, DeleteContainerRequest, GetContainerRequest,
};
use protos::grpc::containerd::services::snapshots::v1::RemoveSnapshotRequest;
use protos::grpc::containerd::types;
use shim_sdk::mount::split_lowerdir;
use tonic::Code;

use super::client::Client;
use super::error::CliError;

/// The snapshotter of containers that this command line makes.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// The first kernel whose overlayfs has volatile mounts.
const VOLATILE_SINCE: (u32, u32) = (5, 10);

/// A container's record.
pub(crate) async fn get(client: &Client, id: &str) -> Result<Container, CliError> {
    let answer = client.containers().get(GetContainerRequest { id: id.to_owned() }).await;
    match answer {
        Ok(answer) => {
            answer.into_inner().container.ok_or_else(|| CliError::NoContainer { id: id.to_owned() })
        }
        Err(status) if status.code() == Code::NotFound => {
            Err(CliError::NoContainer { id: id.to_owned() })
        }
        Err(status) => Err(CliError::call(format!("container {id}"), status)),
    }
}

/// Removes a container's record and its snapshot, neither of which need be there.
pub(crate) async fn remove(client: &Client, id: &str, snapshotter: &str) -> Result<(), CliError> {
    let record =
        async { client.containers().delete(DeleteContainerRequest { id: id.to_owned() }).await };
    let (record, snapshot) = tokio::join!(record, remove_snapshot(client, snapshotter, id));
    match record {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("remove container {id}"), status))
        }
        _ => snapshot,
    }
}

/// Removes a snapshot, which need not be there.
pub(crate) async fn remove_snapshot(
    client: &Client,
    snapshotter: &str,
    key: &str,
) -> Result<(), CliError> {
    if key.is_empty() || snapshotter.is_empty() {
        return Ok(());
    }
    let request =
        RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    match client.snapshots().remove(request).await {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("remove snapshot {key}"), status))
        }
        _ => Ok(()),
    }
}

/// The directories below a snapshot's mounts, nearest first, if they are of a form that can be
/// read without mounting.
pub(crate) fn layers(mounts: &[types::Mount]) -> Option<Vec<PathBuf>> {
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
