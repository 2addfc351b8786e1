//! Builds a generation beside the current one.
//!
//! It begins as the current one, by hard links, so files of other images, and files that no receipt names, stay;
//! then what goes is removed and what comes is written, verified and synced. Nothing that is shown
//! is touched: links are broken by making new files, never written through.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::budget::Budget;
use crate::error::{Call as _, InstallError};
use crate::plan::{Image, Plan, Planned, Source, hex_digest, read_layer};
use crate::receipt::{self, Receipts};
use crate::remove::remove_tree;

/// The directories that a generation has.
pub(crate) const SHOWN: [&str; 2] = ["bin", "lib"];

/// Copies the current generation, if there is one, into an empty directory.
pub(crate) fn begin(from: Option<&Path>, into: &Path) -> Result<(), InstallError> {
    directory(into)?;
    for name in SHOWN {
        let target = into.join(name);
        directory(&target)?;
        if let Some(from) = from.map(|from| from.join(name)).filter(|from| from.is_dir()) {
            link_tree(&from, &target)?;
        }
    }
    Ok(())
}

/// Makes a directory with the same mode whatever the caller's umask.
fn directory(path: &Path) -> Result<(), InstallError> {
    fs::create_dir(path).call("mkdir", path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).call("chmod", path)
}

/// Hard links of everything below a directory; symbolic links are links too.
pub(crate) fn link_tree(from: &Path, into: &Path) -> Result<(), InstallError> {
    let mut waiting = vec![(from.to_owned(), into.to_owned())];
    while let Some((from, into)) = waiting.pop() {
        for entry in fs::read_dir(&from).call("readdir", &from)? {
            let entry = entry.call("readdir", &from)?;
            let (source, target) = (entry.path(), into.join(entry.file_name()));
            if entry.file_type().call("stat", &source)?.is_dir() {
                directory(&target)?;
                waiting.push((source, target));
            } else {
                fs::hard_link(&source, &target).call("link", &target)?;
            }
        }
        // Their names last as what they name does.
        sync_directory(&into)?;
    }
    Ok(())
}

/// Writes what a plan says.
pub(crate) fn write(
    image: &Image,
    plan: &Plan,
    into: &Path,
    budget: &Budget,
) -> Result<(), InstallError> {
    let mut contents: BTreeMap<Source, Vec<&str>> = BTreeMap::new();
    for (path, planned) in &plan.files {
        remove(into, path)?;
        match planned {
            Planned::File { source, .. } => contents.entry(*source).or_default().push(path),
            Planned::Symlink { target } => {
                let path = into.join(path);
                symlink(target, &path).call("symlink", &path)?;
            }
        }
    }
    for layer in 0..image.layers.len() {
        if !contents.keys().any(|source| source.layer == layer) {
            continue;
        }
        read_layer(image, layer, budget, |_, archive, entry| {
            let Some(paths) = contents.remove(&Source { layer, entry }) else { return Ok(()) };
            let (first, others) = paths.split_first().unwrap_or((&"", &[]));
            let Some(Planned::File { mode, digest, .. }) = plan.files.get(*first) else {
                return Ok(());
            };
            let path = into.join(first);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .call("open", &path)?;
            let mut hash = Sha256::new();
            loop {
                let piece = archive.content().map_err(|cause| InstallError::Layer {
                    image: image.name.clone(),
                    layer: image.layers[layer].digest.clone(),
                    cause,
                })?;
                if piece.is_empty() {
                    break;
                }
                hash.update(piece);
                file.write_all(piece).call("write", &path)?;
                let n = piece.len();
                archive.consume(n);
            }
            let got = hex_digest(hash.finalize());
            if got != *digest {
                let layer = image.layers[layer].digest.clone();
                return Err(InstallError::WrongDigest { image: image.name.clone(), layer, got });
            }
            file.set_permissions(Permissions::from_mode(*mode)).call("fchmod", &path)?;
            file.sync_all().call("fsync", &path)?;
            for other in others {
                let other = into.join(other);
                fs::hard_link(&path, &other).call("link", &other)?;
            }
            Ok(())
        })?;
    }
    // The layers were verified, so a plan made from them finds everything in them again.
    match contents.first_key_value() {
        None => Ok(()),
        Some((source, _)) => Err(InstallError::WrongDigest {
            image: image.name.clone(),
            layer: image.layers[source.layer].digest.clone(),
            got: "other content than before".into(),
        }),
    }
}

/// Removes a file, or a directory that was put in its place.
pub(crate) fn remove(generation: &Path, path: &str) -> Result<(), InstallError> {
    let path = generation.join(path);
    remove_tree(&path).call("remove", &path)
}

/// Writes the receipts, and syncs the generation's directories.
pub(crate) fn seal(receipts: &Receipts, generation: &Path) -> Result<(), InstallError> {
    let path = generation.join(receipt::FILE);
    let mut file = File::create_new(&path).call("open", &path)?;
    file.write_all(&receipts.to_json()?).call("write", &path)?;
    file.sync_all().call("fsync", &path)?;
    for directory in SHOWN.map(|name| generation.join(name)).iter().chain([&generation.to_owned()])
    {
        sync_directory(directory)?;
    }
    Ok(())
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), InstallError> {
    File::open(path).and_then(|directory| directory.sync_all()).call("fsync", path)
}
