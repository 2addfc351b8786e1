//! Mounts as containerd describes them, made and undone in this process.
//!
//! Promise: a list of mounts is made whole or not at all; undoing what is already gone is no
//! error; nothing forks. See mount(2), fsopen(2), umount2(2).

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
    /// Where below the root it goes; empty for the root itself.
    #[serde(default)]
    pub target: String,
    /// Options as in fstab(5).
    #[serde(default)]
    pub options: Vec<String>,
}

/// Why a mount could not be made or undone. Printed as the call that failed.
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
    /// A target outside the root.
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
    /// An option that is understood and not offered.
    #[error("mount option {option:?} is not supported")]
    Unsupported {
        /// The option.
        option: String,
    },
}

impl MountError {
    /// What this amounts to on the wire.
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

impl From<MountError> for crate::Error {
    fn from(error: MountError) -> Self {
        Self::new(error.kind(), error.to_string()).with_source(Cause(error))
    }
}

/// Carries only the cause on, because the message is the error's own already.
#[derive(Debug)]
struct Cause(MountError);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&self.0) {
            Some(cause) => write!(f, "{cause}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::error::Error for Cause {}
