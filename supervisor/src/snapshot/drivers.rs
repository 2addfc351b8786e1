//! The table of snapshot drivers. A new driver is a file beside this one and a row here.

use std::path::PathBuf;
use std::sync::Arc;

use super::overlay::Overlay;
use super::{Driver, SnapshotError};

/// The driver that the daemon uses.
pub(crate) const DEFAULT: &str = Overlay::NAME;

type Open = fn(PathBuf) -> Result<Arc<dyn Driver>, SnapshotError>;

/// Each driver: its name, and how it is opened on its directory.
const DRIVERS: [(&str, Open); 1] = [(Overlay::NAME, |folder| Ok(Arc::new(Overlay::open(folder)?)))];

/// Opens the driver `name` on `folder`.
pub(super) fn open(name: &str, folder: PathBuf) -> Result<Arc<dyn Driver>, SnapshotError> {
    let (_, open) = DRIVERS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| SnapshotError::Snapshotter(name.to_owned()))?;
    open(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_opens_under_the_name_in_the_table() {
        for (name, _) in DRIVERS {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(open(name, folder.path().join("snapshots")).unwrap().name(), name);
        }
    }

    #[test]
    fn an_unknown_driver_is_refused_as_containerd_refuses_it() {
        let folder = tempfile::tempdir().unwrap();
        let refused = open("zfs", folder.path().to_owned()).unwrap_err();
        assert_eq!(refused.to_string(), "snapshotter not loaded: zfs: invalid argument");
    }
}
