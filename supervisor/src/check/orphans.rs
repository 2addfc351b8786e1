//! What belongs to nothing: entries that no record names, and records of what is not there.

use std::path::Path;

use shim_sdk::Kind;

use super::{CheckError, Finding, LOST_BLOB, Stores, Tell};
use crate::{quarantine, task};

/// Tells of every orphan; `stray` is what becomes of one in a store.
pub(super) fn tell(
    stores: &Stores,
    (root, state): (&Path, &Path),
    stray: &str,
    tell: Tell<'_>,
) -> Result<(), CheckError> {
    let orphan = |name: String, reason: &str, action: &str, mended: bool| {
        let (reason, action) = (reason.to_owned(), action.to_owned());
        let namespace = String::new();
        tell(Finding { subject: "orphan", name, namespace, reason, action, mended });
    };
    for (digest, size) in stores.content.strays()? {
        orphan(
            digest.to_string(),
            &format!("a blob of {size} bytes without a record"),
            stray,
            false,
        );
    }
    for (_, path) in stores.snapshots.strays()? {
        orphan(path.display().to_string(), "a snapshot's directory without a record", stray, false);
    }
    for entry in std::fs::read_dir(quarantine::folder(root)).into_iter().flatten().flatten() {
        let name = entry.path().display().to_string();
        orphan(name, "it was set aside", "keep what you need of it, and remove it", true);
    }
    dangling(stores, tell)?;
    for (namespace, container) in task::containers_of_bundles(state) {
        let runtime = tokio::runtime::Handle::current();
        match runtime.block_on(stores.containers.get(&namespace, &container.id)) {
            Err(error) if error.kind() == Kind::NotFound => tell(Finding {
                subject: "orphan",
                name: container.id,
                namespace: namespace.to_string(),
                reason: "a task without a container's record".into(),
                action: "kill and delete it (ctr tasks rm --force)".into(),
                mended: false,
            }),
            other => drop(other?),
        }
    }
    Ok(())
}

/// Tells of images without content and containers without a snapshot.
fn dangling(stores: &Stores, tell: Tell<'_>) -> Result<(), CheckError> {
    let runtime = tokio::runtime::Handle::current();
    for record in runtime.block_on(stores.namespaces.list())? {
        let namespace = record.name;
        for image in runtime.block_on(stores.images.list(&namespace, &[]))? {
            if stores.content.info(&namespace, &image.target.digest).is_err() {
                tell(Finding {
                    subject: "image",
                    name: image.name,
                    namespace: namespace.to_string(),
                    reason: format!("{} is not in the content store", image.target.digest),
                    action: LOST_BLOB.into(),
                    mended: false,
                });
            }
        }
        for container in runtime.block_on(stores.containers.list(&namespace, &[]))? {
            if container.snapshotter != stores.snapshots.name() || container.snapshot_key.is_empty()
            {
                continue;
            }
            let found =
                runtime.block_on(stores.snapshots.stat(&namespace, &container.snapshot_key));
            if found.is_err_and(|error| error.kind() == Kind::NotFound) {
                tell(Finding {
                    subject: "container",
                    name: container.id,
                    namespace: namespace.to_string(),
                    reason: format!("its snapshot {:?} has no record", container.snapshot_key),
                    action: "remove it (supervisor rm)".into(),
                    mended: false,
                });
            }
        }
    }
    Ok(())
}
