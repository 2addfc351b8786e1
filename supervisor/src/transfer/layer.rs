//! Applies one layer to mounts.
//!
//! An overlay is not mounted for it: the layer goes straight into the upper directory, in
//! overlayfs's own form, which is the same and cheaper. A bind mount is its directory. Anything
//! else is mounted for as long as it takes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use installer::budget::{Budget, Exhausted};
use installer::layer::{self, ExtractError, Whiteouts};
use shim_sdk::Kind;
use shim_sdk::mount::{MountError, mount_all, split_lowerdir, unmount_recursive};

use crate::content::{Digest, Hasher};
use crate::image::installer_kind;
use crate::snapshot::{Mount, mount};

/// A layer was not applied. Part of it may be there; the snapshot is the caller's to remove.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// The layer itself cannot be extracted.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The layer cannot be read.
    #[error("read layer")]
    Read(#[source] io::Error),
    /// There is nothing to apply it to.
    #[error("mounts to apply a layer to must not be empty: invalid argument")]
    NoMounts,
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A place to mount could not be made.
    #[error("make a mount point")]
    MountPoint(#[source] io::Error),
    /// What was written could not be synced.
    #[error("sync the file system of {path}")]
    Sync {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl LayerError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Extract(cause) => installer_kind(cause.kind()),
            Self::Read(cause) => match Exhausted::within(cause) {
                Some(refused) => installer_kind(installer::Kind::of_refused(refused)),
                None => Kind::from_io(cause),
            },
            Self::NoMounts => Kind::InvalidArgument,
            Self::Mount(cause) => cause.kind(),
            Self::MountPoint(cause) | Self::Sync { cause, .. } => Kind::from_io(cause),
        }
    }
}

/// What a layer was, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The digest of its archive.
    pub(crate) diff_id: Digest,
    /// The size of its archive.
    pub(crate) size_bytes: u64,
}

/// Applies `layer`, compressed or not, to `mounts`, and syncs the file system when `sync`. What it
/// costs is charged to `budget`. Blocks.
pub(crate) fn apply(
    layer: File,
    mounts: &[Mount],
    sync: bool,
    budget: &Budget,
) -> Result<Applied, LayerError> {
    match mounts {
        [] => Err(LayerError::NoMounts),
        [only] => match direct(only) {
            Some(place) => extract(layer, &place, sync, budget),
            None => mounted(layer, mounts, sync, budget),
        },
        _ => mounted(layer, mounts, sync, budget),
    }
}

/// Where a layer goes.
struct Place {
    into: PathBuf,
    parents: Vec<PathBuf>,
    whiteouts: Whiteouts,
}

/// The directories behind a mount that need no mounting.
fn direct(only: &Mount) -> Option<Place> {
    if !only.target.is_empty() && only.target != "/" {
        return None;
    }
    match only.kind.as_str() {
        "overlay" => {
            let into = mount::option(only, "upperdir")?;
            let lower = mount::option(only, "lowerdir")?;
            Some(Place {
                into: PathBuf::from(into),
                parents: split_lowerdir(lower),
                whiteouts: Whiteouts::Overlay,
            })
        }
        "bind" if !only.options.iter().any(|option| option == "ro") => Some(Place {
            into: PathBuf::from(&only.source),
            parents: Vec::new(),
            whiteouts: Whiteouts::Remove,
        }),
        _ => None,
    }
}

fn mounted(
    layer: File,
    mounts: &[Mount],
    sync: bool,
    budget: &Budget,
) -> Result<Applied, LayerError> {
    let point = MountPoint::new()?;
    mount_all(mounts, &point.0)?;
    let place = Place { into: point.0.clone(), parents: Vec::new(), whiteouts: Whiteouts::Remove };
    extract(layer, &place, sync, budget)
}

/// A directory for a while, unmounted and removed when dropped.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new() -> Result<Self, LayerError> {
        // A random name: everybody may make one in this directory before us.
        nix::unistd::mkdtemp(&std::env::temp_dir().join("supervisor-apply-XXXXXX"))
            .map(Self)
            .map_err(|errno| LayerError::MountPoint(errno.into()))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        let gone = unmount_recursive(&self.0).map_err(io::Error::other);
        // Only an empty directory goes: whatever could not be unmounted is not emptied.
        if let Err(error) = gone.and_then(|()| std::fs::remove_dir(&self.0)) {
            log::warn!("remove mount point {}: {error}", self.0.display());
        }
    }
}

fn extract(layer: File, place: &Place, sync: bool, budget: &Budget) -> Result<Applied, LayerError> {
    let tar = layer::decompressed_within(layer, budget).map_err(LayerError::Read)?;
    let mut counted = Counted { inner: tar, hasher: Hasher::default(), size_bytes: 0 };
    layer::apply_within(&mut counted, &place.into, &place.parents, place.whiteouts, budget)?;
    if sync {
        sync_file_system(&place.into)?;
    }
    Ok(Applied { diff_id: counted.hasher.finish(), size_bytes: counted.size_bytes })
}

fn sync_file_system(path: &Path) -> Result<(), LayerError> {
    let synced = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(path)?)?) };
    synced().map_err(|cause| LayerError::Sync { path: path.to_owned(), cause })
}

/// Digests and counts what is read.
struct Counted<R> {
    inner: R,
    hasher: Hasher,
    size_bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hasher.update(&into[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }
}
