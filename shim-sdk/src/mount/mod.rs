//! Mounts as containerd describes them; this process mounts and unmounts them itself.
//!
//! Promise: a list of mounts is made completely or not at all. Unmounting what is not mounted is no
//! error. Nothing forks. See mount(2), open_tree(2), umount2(2).

#[cfg(all(test, target_os = "linux"))]
mod fuzz;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod mount_point;
#[cfg(target_os = "linux")]
mod options;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(target_os = "linux")]
mod overlay;

#[cfg(all(feature = "serve", target_os = "linux"))]
pub(crate) use linux::make_root;
#[cfg(target_os = "linux")]
pub use linux::{mount_all, unmount, unmount_recursive};
#[cfg(all(feature = "serve", not(target_os = "linux")))]
pub(crate) use other::make_root;
#[cfg(not(target_os = "linux"))]
pub use other::{mount_all, unmount, unmount_recursive};
#[cfg(target_os = "linux")]
pub use overlay::{join_lowerdir, split_lowerdir};

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Kind;

/// One mount, as in `containerd.types.Mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The file system's type, `bind` for a bind mount.
    #[serde(rename = "type")]
    pub kind: String,
    /// The device or directory.
    pub source: String,
    /// The mount point, relative to the root; empty for the root itself.
    #[serde(default)]
    pub target: String,
    /// Options as in fstab(5).
    #[serde(default)]
    pub options: Vec<String>,
}

/// Why mounting or unmounting failed. It prints as the call that failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel refused to mount.
    #[error("mount({kind:?}, {source_name:?}, {target:?}, {options:?})")]
    Mount {
        /// The file system's type.
        kind: String,
        /// The device or directory.
        source_name: String,
        /// The mount point.
        target: PathBuf,
        /// The options as given.
        options: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused to unmount.
    #[error("umount2({target:?})")]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The mount table cannot be read.
    #[error("read /proc/self/mountinfo")]
    Table(#[source] io::Error),
    /// The target is outside the root.
    #[error("mount target {target:?} leads out of the root file system")]
    Escapes {
        /// The target as given.
        target: String,
    },
    /// The mount point cannot be opened in the root file system, and not be made there.
    #[error("find or make {target:?} in {root:?}")]
    MountPoint {
        /// The root file system.
        root: PathBuf,
        /// The target as given.
        target: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A known option that this implementation does not support.
    #[error("mount option {option:?} is not supported")]
    Unsupported {
        /// The option.
        option: String,
    },
}

impl MountError {
    /// The kind, which decides the status code.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Mount { cause, .. }
            | Self::Unmount { cause, .. }
            | Self::MountPoint { cause, .. }
            | Self::Table(cause) => Kind::from_io(cause),
            Self::Escapes { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
        }
    }
}

impl MountError {
    fn into_cause(self) -> Option<io::Error> {
        match self {
            Self::Mount { cause, .. }
            | Self::Unmount { cause, .. }
            | Self::MountPoint { cause, .. }
            | Self::Table(cause) => Some(cause),
            Self::Escapes { .. } | Self::Unsupported { .. } => None,
        }
    }
}

impl From<MountError> for crate::Error {
    fn from(error: MountError) -> Self {
        let converted = Self::new(error.kind(), error.to_string());
        match error.into_cause() {
            Some(cause) => converted.with_source(cause),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converted_error_has_the_cause_as_its_source_and_prints_it_once() {
        let cause = io::Error::from_raw_os_error(16);
        let error = crate::Error::from(MountError::Unmount { target: "/mnt".into(), cause });
        assert_eq!(error.message(), "umount2(\"/mnt\")");
        let source = std::error::Error::source(&error).expect("the cause");
        let source = source.downcast_ref::<io::Error>().expect("the call's own error");
        assert_eq!(source.raw_os_error(), Some(16));
        assert_eq!(error.report().matches(&source.to_string()).count(), 1);
        let error = crate::Error::from(MountError::Escapes { target: "../x".into() });
        assert!(std::error::Error::source(&error).is_none());
    }
}
