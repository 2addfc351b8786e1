//! The managed directory: installs, uninstalls and rolls back, one at a time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};

use crate::budget::Budget;
use crate::error::{Call as _, InstallError};
use crate::plan::{self, Image, Options};
use crate::receipt::{Receipt, Receipts};
use crate::remove::remove_tree;
use crate::stage;
use crate::switch::Layout;

const LOCK: &str = ".lock";

/// A managed directory, usually `/opt/containerd`.
#[derive(Debug, Clone)]
pub struct ManagedDirectory {
    layout: Layout,
}

impl ManagedDirectory {
    /// The managed directory at a path, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { layout: Layout { root: path.into() } }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.layout.root
    }

    /// What is installed now. Takes no lock: a generation never changes.
    pub fn receipts(&self) -> Result<Vec<Receipt>, InstallError> {
        Ok(self.current()?.1.all().to_vec())
    }

    /// Installs the binaries of an image, or replaces those that it installed before. Blocks while
    /// another installation is under way.
    pub fn install(&self, image: &Image, options: Options) -> Result<Receipt, InstallError> {
        self.install_within(image, options, &Budget::default())
    }

    /// [`Self::install`], charged to `budget`. When that is stopped, nothing of the image is left.
    pub fn install_within(
        &self,
        image: &Image,
        options: Options,
        budget: &Budget,
    ) -> Result<Receipt, InstallError> {
        let _lock = self.lock()?;
        let (number, receipts) = self.current()?;
        let plan = plan::plan(image, options, &receipts, |path| self.is_there(path), budget)?;
        let receipt = Receipt {
            image: image.name.clone(),
            digest: image.digest.clone(),
            installed_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| elapsed.as_secs()),
            files: plan.installed(),
        };
        self.change(number, receipts, |generation, receipts| {
            if let Some(before) = receipts.remove(&image.name) {
                for file in &before.files {
                    stage::remove(generation, &file.path)?;
                }
            }
            stage::write(image, &plan, generation, budget)?;
            receipts.put(receipt.clone());
            Ok(receipt.clone())
        })
    }

    /// Removes what an image installed.
    pub fn uninstall(&self, image: &str) -> Result<Receipt, InstallError> {
        let missing = || InstallError::NotInstalled {
            image: image.to_owned(),
            path: self.layout.root.clone(),
        };
        if self.current()?.1.of(image).is_none() {
            return Err(missing());
        }
        let _lock = self.lock()?;
        let (number, receipts) = self.current()?;
        if receipts.of(image).is_none() {
            return Err(missing());
        }
        self.change(number, receipts, |generation, receipts| {
            let receipt = receipts.remove(image).ok_or_else(missing)?;
            for file in &receipt.files {
                stage::remove(generation, &file.path)?;
            }
            Ok(receipt)
        })
    }

    /// Shows the set before the last switch again; returns what is installed then.
    pub fn rollback(&self) -> Result<Vec<Receipt>, InstallError> {
        let missing = || InstallError::NoEarlier { path: self.layout.root.clone() };
        if self.current()?.0.is_none() {
            return Err(missing());
        }
        let _lock = self.lock()?;
        let (_, receipts) = self.current()?;
        let previous = receipts.previous.ok_or_else(missing)?;
        let generation = self.layout.generation(previous);
        if !generation.is_dir() {
            return Err(missing());
        }
        let receipts = Receipts::read(&generation)?;
        self.layout.switch(previous)?;
        self.sweep()?;
        Ok(receipts.all().to_vec())
    }

    /// Makes the next generation and switches to it. On an error it is removed again.
    fn change<T>(
        &self,
        number: Option<u64>,
        mut receipts: Receipts,
        change: impl FnOnce(&Path, &mut Receipts) -> Result<T, InstallError>,
    ) -> Result<T, InstallError> {
        let next = self.layout.next()?;
        let generation = self.layout.generation(next);
        let made = (|| {
            let from = number.map(|number| self.layout.generation(number));
            stage::begin(from.as_deref(), &generation)?;
            if number.is_none() {
                self.layout.adopt(&generation)?;
            }
            let made = change(&generation, &mut receipts)?;
            receipts.previous = number;
            stage::seal(&receipts, &generation)?;
            Ok(made)
        })();
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // What cannot be removed now is swept by the next installation.
                let _ = remove_tree(&generation);
                return Err(error);
            }
        };
        self.layout.switch(next)?;
        self.sweep()?;
        Ok(made)
    }

    /// The current generation and its receipts.
    fn current(&self) -> Result<(Option<u64>, Receipts), InstallError> {
        match self.layout.current()? {
            Some(number) => Ok((Some(number), Receipts::read(&self.layout.generation(number))?)),
            None => Ok((None, Receipts::default())),
        }
    }

    /// Whether the current set has a file.
    fn is_there(&self, path: &str) -> bool {
        fs::symlink_metadata(self.layout.root.join(path)).is_ok()
    }

    fn sweep(&self) -> Result<(), InstallError> {
        self.layout.sweep(|number| Ok(Receipts::read(&self.layout.generation(number))?.previous))
    }

    /// Serialises changes, and sweeps what one that crashed has left.
    fn lock(&self) -> Result<Flock<File>, InstallError> {
        let root = &self.layout.root;
        let is_new = !root.exists();
        fs::create_dir_all(root).call("mkdir", root)?;
        if is_new && let Some(parent) = root.parent() {
            stage::sync_directory(parent)?;
        }
        let path = root.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .call("open", &path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .call("flock", &path)?;
        self.layout.prepare()?;
        self.sweep()?;
        Ok(lock)
    }
}
