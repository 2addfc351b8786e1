//! What is installed: the receipts that lie in each generation.
//!
//! Versioned JSON, written once, before the generation is switched to, and never changed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Call as _, InstallError};

const VERSION: u32 = 1;
pub(crate) const FILE: &str = "receipts.json";
/// A file larger than this is not ours.
const MAX_BYTES: u64 = 64 << 20;

/// What one image installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The image's name.
    pub image: String,
    /// The digest of the image's target.
    pub digest: String,
    /// When, in seconds since 1970.
    pub installed_at: u64,
    /// The files, sorted by path.
    pub files: Vec<InstalledFile>,
}

/// One file that an image installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Relative to the managed directory.
    pub path: String,
    /// Of the content; of the target's text for a symbolic link.
    pub digest: String,
    /// The content's size.
    pub size_bytes: u64,
}

/// The receipts of a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipts {
    version: u32,
    /// The generation that was current before this one.
    pub(crate) previous: Option<u64>,
    installed: Vec<Receipt>,
}

impl Receipts {
    /// Reads those of a generation; one without receipts has none.
    pub(crate) fn read(generation: &Path) -> Result<Self, InstallError> {
        let path = generation.join(FILE);
        let bad = |why: String| InstallError::Receipts { path: path.clone(), why };
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(bad("the file is too large".into()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).call("stat", &path),
        }
        let json = std::fs::read(&path).call("read", &path)?;
        let receipts: Self = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
        if receipts.version > VERSION {
            return Err(bad(format!("version {} is newer than this program", receipts.version)));
        }
        Ok(receipts)
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, InstallError> {
        let current = Self { version: VERSION, ..self.clone() };
        serde_json::to_vec_pretty(&current)
            .map_err(|error| InstallError::Receipts { path: FILE.into(), why: error.to_string() })
    }

    pub(crate) fn all(&self) -> &[Receipt] {
        &self.installed
    }

    pub(crate) fn of(&self, image: &str) -> Option<&Receipt> {
        self.installed.iter().find(|receipt| receipt.image == image)
    }

    /// Which image each file is from.
    pub(crate) fn owners(&self) -> BTreeMap<&str, &str> {
        self.installed
            .iter()
            .flat_map(|receipt| {
                receipt.files.iter().map(|file| (file.path.as_str(), receipt.image.as_str()))
            })
            .collect()
    }

    /// Adds a receipt, which takes its files from every other.
    pub(crate) fn put(&mut self, new: Receipt) {
        self.remove(&new.image);
        for receipt in &mut self.installed {
            receipt.files.retain(|file| new.files.iter().all(|taken| taken.path != file.path));
        }
        self.installed.retain(|receipt| !receipt.files.is_empty());
        self.installed.push(new);
        self.installed.sort_by(|a, b| a.image.cmp(&b.image));
    }

    pub(crate) fn remove(&mut self, image: &str) -> Option<Receipt> {
        let at = self.installed.iter().position(|receipt| receipt.image == image)?;
        Some(self.installed.remove(at))
    }
}
