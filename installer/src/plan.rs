//! Decides what an image's layers put where, and whether they may.
//!
//! Promise: every layer is read to its end and verified, and everything that will be refused is
//! refused here, before anything is written. Only files directly in `bin/` are taken, and directly
//! in `lib/` when asked for, as containerd's opt service does; what else the image has is ignored,
//! unless its name leads outside. Devices, fifos, set-id bits and links that leave the two
//! directories are refused: what is installed belongs to root and is run by root.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::budget::{Budget, Cost};
use crate::error::InstallError;
use crate::layer::{Archive, Entry, EntryKind, EntryName, ExtractError, decompressed_within};
use crate::receipt::{InstalledFile, Receipts};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const SET_ID: u32 = 0o6000;

/// An image whose binaries are wanted.
pub struct Image {
    /// Its name, under which it can be uninstalled.
    pub name: String,
    /// The digest of its target.
    pub digest: String,
    /// Its layers, the base first.
    pub layers: Vec<Layer>,
}

/// Opens a layer once more, as it is stored.
pub type OpenLayer = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send>;

/// One layer of an image.
pub struct Layer {
    /// `sha256:…` of the layer as it is stored.
    pub digest: String,
    /// Opens it; called twice, to plan and to stage.
    pub open: OpenLayer,
}

/// What the caller asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Install over files of other images, and over files that no receipt names.
    pub replace: bool,
    /// Also what is in `lib/`.
    pub libs: bool,
}

/// What will be installed, by its path relative to the managed directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) files: BTreeMap<String, Planned>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Planned {
    File { source: Source, mode: u32, digest: String, size_bytes: u64 },
    Symlink { target: String },
}

/// Which entry of which layer has the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) layer: usize,
    pub(crate) entry: u64,
}

impl Plan {
    /// The files for the receipt.
    pub(crate) fn installed(&self) -> Vec<InstalledFile> {
        self.files
            .iter()
            .map(|(path, planned)| match planned {
                Planned::File { digest, size_bytes, .. } => InstalledFile {
                    path: path.clone(),
                    digest: digest.clone(),
                    size_bytes: *size_bytes,
                },
                Planned::Symlink { target } => InstalledFile {
                    path: path.clone(),
                    digest: hex_digest(Sha256::digest(target)),
                    size_bytes: target.len() as u64,
                },
            })
            .collect()
    }
}

/// Reads an image's layers and plans what they install.
///
/// `present` tells whether a path is in the current set.
pub(crate) fn plan(
    image: &Image,
    options: Options,
    receipts: &Receipts,
    present: impl Fn(&str) -> bool,
    budget: &Budget,
) -> Result<Plan, InstallError> {
    let mut plan = Plan::default();
    for (layer, _) in image.layers.iter().enumerate() {
        read_layer(image, layer, budget, |entry, archive, number| {
            let source = Source { layer, entry: number };
            let before = plan.files.len();
            plan.take(image, entry, options, source, archive)?;
            if plan.files.len() > before {
                let kept = (entry.path.len() + 256) as u64;
                budget.charge(Cost::Kept, kept).map_err(|cause| InstallError::Layer {
                    image: image.name.clone(),
                    layer: image.layers[layer].digest.clone(),
                    cause: ExtractError::Budget { entry: entry.name(), cause },
                })?;
            }
            Ok(())
        })?;
    }
    plan.check_links(image)?;
    if !plan.files.keys().any(|path| path.starts_with("bin/")) {
        return Err(InstallError::Nothing { image: image.name.clone() });
    }
    if !options.replace {
        let owners = receipts.owners();
        let in_the_way: Vec<String> = plan
            .files
            .keys()
            .filter(|path| present(path))
            .filter_map(|path| match owners.get(path.as_str()) {
                Some(owner) if *owner == image.name => None,
                Some(owner) => Some(format!("{path} (of {owner})")),
                None => Some(format!("{path} (of no image)")),
            })
            .collect();
        if !in_the_way.is_empty() {
            return Err(InstallError::InTheWay { image: image.name.clone(), files: in_the_way });
        }
    }
    Ok(plan)
}

/// What is read of a layer, decompressed.
pub(crate) type LayerArchive = Archive<Box<dyn Read + Send>>;

/// Reads a layer entry by entry, numbered from 0, and verifies the whole of it.
pub(crate) fn read_layer(
    image: &Image,
    layer: usize,
    budget: &Budget,
    mut each: impl FnMut(&Entry, &mut LayerArchive, u64) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let Layer { digest, open } = &image.layers[layer];
    let failed =
        |cause| InstallError::Layer { image: image.name.clone(), layer: digest.clone(), cause };
    let unreadable = |cause| failed(ExtractError::Read { entries: 0, cause });
    // Once for its digest, as stored: a decompressor stops where its own end mark is.
    let mut stored = budget.meter(open().map_err(unreadable)?, Cost::Input);
    let got = digest_of(&mut stored).map_err(unreadable)?;
    if got != *digest {
        return Err(InstallError::WrongDigest {
            image: image.name.clone(),
            layer: digest.clone(),
            got,
        });
    }
    let tar = decompressed_within(open().map_err(unreadable)?, budget).map_err(unreadable)?;
    let mut archive = Archive::new(tar, budget);
    let mut number = 0;
    while let Some(entry) = archive.next_entry().map_err(failed)? {
        each(&entry, &mut archive, number)?;
        number += 1;
    }
    archive.drain().map_err(failed)
}

impl Plan {
    fn take(
        &mut self,
        image: &Image,
        entry: &Entry,
        options: Options,
        source: Source,
        archive: &mut LayerArchive,
    ) -> Result<(), InstallError> {
        let refused = |why: &str| InstallError::Refused {
            image: image.name.clone(),
            entry: EntryName(entry.path.clone()),
            why: why.to_owned(),
        };
        let Some(path) = clean(&entry.path) else {
            return Err(refused("the name leads outside the image"));
        };
        let wanted =
            |directory: &[u8]| directory == b"bin" || (options.libs && directory == b"lib");
        // Whatever takes the place of a directory takes away what it had.
        if path.len() == 1 && wanted(path[0]) {
            return match entry.kind {
                EntryKind::Directory => Ok(()),
                _ => Err(refused("bin and lib must be directories")),
            };
        }
        if let [name] = path[..]
            && let Some(hidden) = name.strip_prefix(WHITEOUT.as_bytes())
        {
            self.files.retain(|known, _| !known.as_bytes().starts_with(&[hidden, b"/"].concat()));
            return Ok(());
        }
        let [directory, name] = path[..] else { return Ok(()) };
        if !wanted(directory) {
            return Ok(());
        }
        let (Ok(directory), Ok(name)) = (std::str::from_utf8(directory), std::str::from_utf8(name))
        else {
            return Err(refused("the name is not UTF-8"));
        };
        if name == OPAQUE {
            // It hides the layers below, not what this one has.
            self.files.retain(|known, planned| {
                !known.starts_with(&format!("{directory}/")) || planned.is_of(source.layer)
            });
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.files.remove(&format!("{directory}/{hidden}"));
            return Ok(());
        }
        let planned = match &entry.kind {
            EntryKind::Directory => return Err(refused("bin and lib have no directories in them")),
            EntryKind::File { size_bytes } => {
                if entry.mode & SET_ID != 0 {
                    return Err(refused("files with set-id bits are not installed"));
                }
                let digest = content_digest(image, source.layer, archive)?;
                // Whatever the image says: all users may run and read it, only root may write it.
                let mode = if entry.mode & 0o111 == 0 { 0o644 } else { 0o755 };
                Planned::File { source, mode, digest, size_bytes: *size_bytes }
            }
            EntryKind::HardLink { target } => self
                .linked(target)
                .ok_or_else(|| refused("it is a hard link to what is not installed"))?,
            EntryKind::Symlink { target } => match std::str::from_utf8(target) {
                Ok(target) => Planned::Symlink { target: target.to_owned() },
                Err(_) => return Err(refused("the link's target is not UTF-8")),
            },
            EntryKind::Fifo | EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                return Err(refused("devices and fifos are not installed"));
            }
            EntryKind::Unknown(_) => return Err(refused("its type is not known")),
        };
        self.files.insert(format!("{directory}/{name}"), planned);
        Ok(())
    }

    fn linked(&self, target: &[u8]) -> Option<Planned> {
        let path = clean(target)?.join(&b'/');
        self.files.get(std::str::from_utf8(&path).ok()?).cloned()
    }

    /// Each symbolic link must lead, relatively, to a file that is installed with it.
    fn check_links(&self, image: &Image) -> Result<(), InstallError> {
        for (path, planned) in &self.files {
            let Planned::Symlink { target } = planned else { continue };
            let directory = path.split('/').next().unwrap_or_default();
            let whole = format!("{directory}/{target}");
            let leads_to = (!target.starts_with('/'))
                .then(|| clean(whole.as_bytes()))
                .flatten()
                .and_then(|path| String::from_utf8(path.join(&b'/')).ok())
                .and_then(|path| self.files.get(&path));
            match leads_to {
                Some(Planned::File { .. }) => {}
                // Of links to links nothing good comes: circles, and orders of deletion.
                Some(Planned::Symlink { .. }) | None => {
                    return Err(InstallError::Refused {
                        image: image.name.clone(),
                        entry: EntryName(path.clone().into_bytes()),
                        why: format!(
                            "it links to {}, which is no file of this image's",
                            EntryName(target.clone().into_bytes())
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Planned {
    fn is_of(&self, layer: usize) -> bool {
        match self {
            Self::File { source, .. } => source.layer == layer,
            Self::Symlink { .. } => false,
        }
    }
}

/// The components of a name; `None` when it climbs out or is no name.
fn clean(name: &[u8]) -> Option<Vec<&[u8]>> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            component if component.contains(&0) => return None,
            component => components.push(component),
        }
    }
    Some(components)
}

fn content_digest(
    image: &Image,
    layer: usize,
    archive: &mut LayerArchive,
) -> Result<String, InstallError> {
    let mut hash = Sha256::new();
    loop {
        let piece = archive.content().map_err(|cause| InstallError::Layer {
            image: image.name.clone(),
            layer: image.layers[layer].digest.clone(),
            cause,
        })?;
        if piece.is_empty() {
            return Ok(hex_digest(hash.finalize()));
        }
        hash.update(piece);
        let n = piece.len();
        archive.consume(n);
    }
}

fn digest_of(reader: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex_digest(hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn hex_digest(hash: impl AsRef<[u8]>) -> String {
    format!("sha256:{}", hex::encode(hash))
}
