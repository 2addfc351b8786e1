//! The bundle: the directory from which a container is made.
//!
//! containerd makes it with `config.json` (an OCI runtime spec), an empty `rootfs` and the `log`
//! fifo; the shim adds its own files. See the OCI runtime specification, "bundle".

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Deserialize;

use crate::{Error, Kind, file};

/// The largest `config.json` that is read.
pub const MAX_SPEC_BYTES: u64 = 16 << 20;

/// A container's bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// The bundle at a path. It is not checked.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The mount point of the root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// A file of the bundle.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads and parses `config.json`.
    pub fn spec(&self) -> Result<Spec, Error> {
        let path = self.file("config.json");
        let json = self.read("config.json")?;
        serde_json::from_slice(&json).map_err(|cause| {
            Error::new(Kind::InvalidArgument, format!("parse {}", path.display()))
                .with_source(cause)
        })
    }

    /// Only the spec's annotations; much cheaper than the whole spec.
    pub fn annotations(&self) -> Result<HashMap<String, String>, Error> {
        #[derive(Deserialize)]
        struct Annotated {
            #[serde(default)]
            annotations: Option<HashMap<String, String>>,
        }
        let path = self.file("config.json");
        let json = self.read("config.json")?;
        let spec: Annotated = serde_json::from_slice(&json).map_err(|cause| {
            Error::new(Kind::InvalidArgument, format!("parse {}", path.display()))
                .with_source(cause)
        })?;
        Ok(spec.annotations.unwrap_or_default())
    }

    /// Reads a file of the bundle, with a limit.
    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.file(name);
        file::read_regular(&path, MAX_SPEC_BYTES).map_err(|cause| {
            let attempt = format!("read {}", path.display());
            match cause.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => {
                    Error::invalid(attempt).with_source(cause)
                }
                _ => Error::io(attempt, cause),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_spec_that_is_a_fifo_or_a_device_is_refused_at_once() {
        // `start` waited for a writer of the fifo until the daemon gave up.
        let folder = tempfile::tempdir().expect("temporary folder");
        let bundle = Bundle::new(folder.path());
        let spec = bundle.file("config.json");
        nix::unistd::mkfifo(&spec, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let error = bundle.annotations().expect_err("a fifo");
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.report().ends_with("config.json: it is not a regular file"), "{error}");
        fs::remove_file(&spec).expect("remove");
        std::os::unix::fs::symlink("/dev/zero", &spec).expect("symlink");
        assert_eq!(bundle.spec().expect_err("a device").kind(), Kind::InvalidArgument);
    }

    #[test]
    fn annotations_are_read_without_the_rest() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bundle = Bundle::new(folder.path());
        fs::write(bundle.file("config.json"), r#"{"x":[1,{"y":2}],"annotations":{"a":"b"}}"#)
            .expect("write");
        assert_eq!(bundle.annotations().expect("parses").get("a").map(String::as_str), Some("b"));
        fs::write(bundle.file("config.json"), r#"{"annotations":null}"#).expect("write");
        assert!(bundle.annotations().expect("parses").is_empty());
    }

    #[test]
    fn a_missing_spec_is_named() {
        let error = Bundle::new("/nonexistent").spec().expect_err("there is none");
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("/nonexistent/config.json"));
    }
}
