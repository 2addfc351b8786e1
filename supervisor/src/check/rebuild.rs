//! A new database for a root whose own cannot be used.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shim_sdk::error::report;

use super::{CheckError, Checker, Finding, Request, Stores, Tell};
use crate::content::Digest;
use crate::image::Image;
use crate::metadata::{self, Database, Labels, Namespace, RootFiles, Unusable};
use crate::task::{self, RECOVERED};

/// Keeps a record from garbage collection.
const ROOT: &str = "containerd.io/gc.root";

impl Checker {
    /// Tells what a repair would start from or, when it is wanted, makes the new database and puts
    /// it in place.
    pub(super) fn rebuild(
        &self,
        unusable: &Arc<Unusable>,
        request: &Request,
        tell: Tell<'_>,
    ) -> Result<(), CheckError> {
        let files = RootFiles { root: self.root.clone() };
        if matches!(**unusable, Unusable::Newer { .. }) && request.repair {
            return Err(CheckError::Refused { path: files.database(), unusable: unusable.clone() });
        }
        let base = self.base(&files, unusable);
        let source = match &base {
            Some(path) => format!("from {}, and from what is stored", path.display()),
            None => "from what is stored; names of images are lost".to_owned(),
        };
        let action = if request.repair {
            format!("rebuilt {source}")
        } else if matches!(**unusable, Unusable::Newer { .. }) {
            unusable.advice().to_owned()
        } else {
            format!("`supervisor check --repair` rebuilds it {source}")
        };
        let finding = Finding {
            subject: "database",
            name: files.database().display().to_string(),
            namespace: String::new(),
            reason: unusable.to_string(),
            action,
            mended: request.repair,
        };
        let draft = Draft::make(&self.state, base.as_deref())?;
        let database = Database::open(&draft.0)?;
        let stores = Stores::open(&self.root, &database)?;
        if !request.repair {
            tell(finding);
            // What of the stores the base does not know.
            return self.compare(&stores, request, tell);
        }
        metadata::adopt(&database, &files, self.id.as_str())?;
        adopt_blobs(&stores, &request.namespace, tell)?;
        adopt_snapshots(&stores, &request.namespace, tell)?;
        for (namespace, container) in task::containers_of_bundles(&self.state) {
            let (name, scope) = (container.id.clone(), namespace.to_string());
            let (action, mended) = match stores.containers.restore((namespace, container)) {
                Ok(false) => continue,
                Ok(true) => {
                    ("recorded from its bundle, without its image and snapshot".to_owned(), true)
                }
                Err(error) => (format!("not recorded from its bundle: {}", report(&error)), false),
            };
            tell(Finding {
                subject: "container",
                name,
                namespace: scope,
                reason: "its record was lost".into(),
                action,
                mended,
            });
        }
        self.compare(&stores, request, tell)?;
        metadata::install(&database, &files, self.id.as_str())?;
        tell(finding);
        Ok(())
    }

    /// The newest whole database of this root.
    fn base(&self, files: &RootFiles, unusable: &Unusable) -> Option<PathBuf> {
        // A database can also not be used when the mark beside it cannot be read; it may be whole then.
        // `usable` checks that, and does not take a damaged one.
        let own = matches!(unusable, Unusable::Older { .. } | Unusable::Damaged { .. });
        own.then(|| files.database())
            .into_iter()
            // One that a repair was killed with just before it had its place.
            .chain([files.rebuilt(), files.copy()])
            .filter_map(|path| Some((metadata::usable(&path, &self.id)?, path)))
            .max()
            .map(|(_, path)| path)
    }
}

/// The new database while it is being made; nothing of it stays.
struct Draft(PathBuf);

impl Draft {
    /// In the state directory: a look leaves the root as it is.
    fn make(state: &Path, base: Option<&Path>) -> Result<Self, CheckError> {
        let draft = Self(state.join("rebuilt.db"));
        draft.remove();
        if let Some(base) = base {
            metadata::copy(base, &draft.0)?;
        }
        Ok(draft)
    }

    fn remove(&self) {
        metadata::forget_log(&self.0);
        for path in [self.0.clone(), self.0.with_extension("reserve")] {
            // A file that is not there needs no removal.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Records the blobs that no record names, and the images that are among them.
fn adopt_blobs(stores: &Stores, namespace: &Namespace, tell: Tell<'_>) -> Result<(), CheckError> {
    let mut blobs = Vec::new();
    for (digest, size) in stores.content.strays()? {
        // What was never recorded may be half written.
        if let Some(reason) = stores.content.fault(&digest, size, true) {
            stores.content.set_aside(&digest, &reason);
            tell(Finding {
                subject: "blob",
                name: digest.to_string(),
                namespace: String::new(),
                reason,
                action: "set aside".into(),
                mended: true,
            });
            continue;
        }
        stores.content.adopt(namespace, &digest, size)?;
        blobs.push((digest, size));
    }
    let mut parts: HashSet<Digest> = HashSet::new();
    let runtime = tokio::runtime::Handle::current();
    stores.importer.nameless(namespace, &blobs, |found| {
        let digest = found.target.digest.clone();
        // Never the name that it gives itself: that may be another image's, which people trust.
        let name = format!("recovered@{digest}");
        let called = found.name.map(|name| format!("; it calls itself {name}")).unwrap_or_default();
        let mut finding = Finding {
            subject: "image",
            name: name.clone(),
            namespace: namespace.to_string(),
            reason: format!("its record was lost{called}"),
            action: "recorded again".into(),
            mended: true,
        };
        if let Some(missing) = found.missing {
            finding.action = format!("not recorded again, it is not whole: {missing}");
            finding.mended = false;
            tell(finding);
            return Ok(());
        }
        parts.extend(found.parts);
        stores.content.annotate(namespace, found.labels)?;
        let labels = Labels::from([(RECOVERED.to_owned(), "content".to_owned())]);
        let image = Image::new(name, labels, found.target.clone());
        runtime.block_on(stores.images.put(namespace, vec![image]))?;
        if let Err(error) = runtime.block_on(stores.importer.unpack_again(namespace, &found.target))
        {
            finding.action = format!("recorded again, not unpacked: {}", report(&error));
        }
        tell(finding);
        Ok::<_, CheckError>(())
    })?;
    for (digest, _) in blobs.into_iter().filter(|(digest, _)| !parts.contains(digest)) {
        let labels = Labels::from([
            (RECOVERED.to_owned(), "content".to_owned()),
            (ROOT.to_owned(), String::new()),
        ]);
        stores.content.annotate(namespace, BTreeMap::from([(digest.clone(), labels)]))?;
        tell(Finding {
            subject: "orphan",
            name: digest.to_string(),
            namespace: namespace.to_string(),
            reason: "a blob that is no image's".into(),
            action: "kept; remove it when nothing needs it (ctr content rm)".into(),
            mended: false,
        });
    }
    Ok(())
}

/// Records the directories of snapshots that no record names.
fn adopt_snapshots(
    stores: &Stores,
    namespace: &Namespace,
    tell: Tell<'_>,
) -> Result<(), CheckError> {
    for (id, path) in stores.snapshots.strays()? {
        let name = format!("recovered-{id}");
        let labels = Labels::from([
            (RECOVERED.to_owned(), "directory".to_owned()),
            (ROOT.to_owned(), String::new()),
        ]);
        let (action, mended) = match stores.snapshots.adopt(namespace, id, &name, &labels) {
            Ok(()) => (
                "kept, without its parent; remove it when nothing needs it (ctr snapshots rm)",
                false,
            ),
            Err(error) => {
                log::warn!("record {}: {}", path.display(), report(&error));
                ("it cannot be read as a snapshot: look at it, and move it away", false)
            }
        };
        tell(Finding {
            subject: "orphan",
            name,
            namespace: namespace.to_string(),
            reason: format!("{} has no record", path.display()),
            action: action.into(),
            mended,
        });
    }
    Ok(())
}
