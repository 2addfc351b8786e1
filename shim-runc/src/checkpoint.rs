//! Checkpoints: the directories of criu's files, and criu's log after a failure.
//!
//! The runtime runs criu. This module chooses the directories, which are those of containerd's own
//! shim, keeps criu's log as `criu-dump.log` in the bundle, and shortens the error to the first line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shim_sdk::error::report;
use shim_sdk::{Checkpoint, ContainerId};

use crate::engine::{CheckpointRequest, Engine, RestoreRequest};
use crate::error::EngineError;
use crate::options::{Options, checkpoint_options};

/// The name of criu's log in its work directory, and of the copy in the bundle.
const DUMP_LOG: (&str, &str) = ("dump.log", "criu-dump.log");

/// The directories and options for the restore of a container.
#[derive(Debug, Clone)]
pub(crate) struct Restore {
    image: PathBuf,
    work: PathBuf,
    no_pivot_root: bool,
}

impl Restore {
    /// From a Create with a checkpoint; the options override its directories.
    pub(crate) fn new(bundle: &Path, checkpoint: &Path, options: &Options) -> Self {
        let named = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        Self {
            image: named(&options.criu_image_path).unwrap_or_else(|| checkpoint.to_owned()),
            work: named(&options.criu_work_path).unwrap_or_else(|| default_work(bundle)),
            no_pivot_root: options.no_pivot_root,
        }
    }

    /// The request to an engine.
    pub(crate) fn request<'a>(
        &'a self,
        id: &'a ContainerId,
        bundle: &'a Path,
    ) -> RestoreRequest<'a> {
        RestoreRequest {
            id,
            bundle,
            image: &self.image,
            work: &self.work,
            no_pivot_root: self.no_pivot_root,
        }
    }

    /// Creates the directory of criu's logs.
    pub(crate) fn prepare(&self) -> Result<(), EngineError> {
        make_directory(&self.work)
    }
}

/// Writes a checkpoint of a container.
pub(crate) async fn write(
    engine: &impl Engine,
    id: &ContainerId,
    bundle: &Path,
    request: &Checkpoint,
) -> Result<(), EngineError> {
    let options = checkpoint_options(request.options.as_ref())?;
    let named = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    let image = named(&options.image_path).unwrap_or_else(|| request.path.clone());
    make_directory(&image)?;
    let (work, own_work) = match named(&options.work_path) {
        Some(work) => (work, false),
        None => (default_work(bundle), true),
    };
    make_directory(&work)?;
    let done = engine
        .checkpoint(&CheckpointRequest { id, image: &image, work: &work, options: &options })
        .await;
    let done = done.map_err(|error| explain(error, bundle, &work));
    if own_work && let Err(cause) = fs::remove_dir_all(&work) {
        // Harmless: it is removed with the bundle's work directory.
        log::debug!("remove {}: {cause}", work.display());
    }
    done
}

/// Copies criu's log to the bundle, and shortens the error to its first line and the log's path.
fn explain(error: EngineError, bundle: &Path, work: &Path) -> EngineError {
    let kept = bundle.join(DUMP_LOG.1);
    if let Err(cause) = fs::copy(work.join(DUMP_LOG.0), &kept) {
        // Harmless: criu may have failed before it wrote a log.
        log::debug!("keep {}: {cause}", DUMP_LOG.0);
    }
    match error {
        EngineError::Refused { .. }
        | EngineError::Spawn { .. }
        | EngineError::Process { .. }
        | EngineError::TimedOut { .. } => {
            let text = report(&error);
            let message = text.lines().next().unwrap_or_default().to_owned();
            EngineError::Checkpoint { kind: error.kind(), message, log: kept }
        }
        other => other,
    }
}

/// The default directory of criu's logs: in the bundle's work directory, which is on disk.
fn default_work(bundle: &Path) -> PathBuf {
    let work = bundle.join("work");
    if work.is_dir() { work.join("criu-work") } else { bundle.join("criu-work") }
}

fn make_directory(path: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            Err(EngineError::file("make the directory", path, cause))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use shim_sdk::Kind;

    use super::*;
    use crate::error::Operation;

    #[test]
    fn a_failed_checkpoint_keeps_crius_log_and_says_where() {
        let bundle = tempfile::tempdir().unwrap();
        let work = default_work(bundle.path());
        make_directory(&work).unwrap();
        fs::write(work.join("dump.log"), "the details").unwrap();
        let error = EngineError::Refused {
            operation: Operation::Checkpoint,
            kind: Kind::Unknown,
            message: "criu failed: type NOTIFY errno 0\nlog file: /x".into(),
        };
        let error = explain(error, bundle.path(), &work).to_string();
        assert!(error.contains("criu failed: type NOTIFY errno 0 path= "), "{error}");
        assert!(!error.contains("log file"), "{error}");
        let kept = fs::read_to_string(bundle.path().join("criu-dump.log")).unwrap();
        assert_eq!(kept, "the details");
    }

    #[test]
    fn options_override_where_criu_reads_and_works() {
        let bundle = Path::new("/b");
        let restore = Restore::new(bundle, Path::new("/c"), &Options::default());
        assert_eq!(
            (restore.image.as_path(), restore.work.as_path()),
            (Path::new("/c"), Path::new("/b/criu-work"))
        );
        let options = Options {
            criu_image_path: "/i".into(),
            criu_work_path: "/w".into(),
            ..Options::default()
        };
        let restore = Restore::new(bundle, Path::new("/c"), &options);
        assert_eq!(
            (restore.image.as_path(), restore.work.as_path()),
            (Path::new("/i"), Path::new("/w"))
        );
    }
}
